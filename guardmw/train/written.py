"""The texts written for this project: harmless look-alikes of harmful texts, and harmful ones in the same styles.

Public sets are mostly one-sided: all of a set is unsafe, or all is harmless, so a model learns the set. In these files
(`written/*.jsonl`, packed with xz in an installed package) every way of writing has both labels. They are for training
only, never for selecting a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from guardmw.train.dataset import Meta, Row
from guardmw.train.rows import opened

__all__ = ["WRITTEN", "written_rows"]

WRITTEN = "written"
"""The taxonomy of these rows: its categories are the themes of `themes.yaml`."""


def written_rows() -> Iterator[Row]:
    """Every written text, as rows whose source is ``written_<file>``."""
    folder = resources.files(__package__) / WRITTEN
    for file in sorted(Path(str(folder)).glob("*.jsonl*")):
        with opened(file) as lines:
            for number, line in enumerate(lines, 1):
                yield _row(json.loads(line), file.name.partition(".")[0], number)


def _row(text: dict[str, Any], stem: str, number: int) -> Row:
    unsafe, themes = text["label"] == "unsafe", tuple(text["themes"])
    return Row(
        id=f"{stem}-{number}", source=f"{WRITTEN}_{stem}", task=text["task"], policy=WRITTEN,
        prompt=text.get("prompt", ""), content=text["text"], label=text["label"],
        categories=themes if unsafe else (), meta=Meta(harmless_under=() if unsafe else themes),
    )  # fmt: skip
