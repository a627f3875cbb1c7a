"""Which live parts ran: `live_parts.py JUNIT_XML PART...` exits 1 unless every part has a test that passed.

The test suite writes the argument of `@pytest.mark.live` into the report as a property (tests/conftest.py).
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path


def passed_parts(cases: Iterable[ElementTree.Element]) -> set[str]:
    """The parts with a test that neither failed nor was skipped."""
    return {
        prop.get("value", "")
        for case in cases
        if not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        for prop in case.iterfind("properties/property[@name='live']")
    }


def main(report: Path, required: list[str]) -> int:
    if not report.is_file():
        print(f"live parts: no report at {report}, so none can have run")
        return 1
    passed = passed_parts(ElementTree.parse(report).iter("testcase"))
    for part in required:
        print(f"live part {part}: {'ran' if part in passed else 'DID NOT RUN'}")
    return int(not set(required) <= passed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
