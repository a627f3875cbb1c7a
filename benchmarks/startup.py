"""What a process spends before it does anything: the command line and the packages that users import.

    python benchmarks/startup.py [FOLDER]        # also writes FOLDER/startup.json (default: out)

Processor time of whole processes, the best of several rounds, and its ratio to an
interpreter that does nothing.
`guardmw --help` may take half a second.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

ROUNDS = 7
HELP_LIMIT_MS = 500.0
NOTHING = "python"
WORK = {
    NOTHING: ["-c", "pass"],
    "guardmw --help": ["-c", "from guardmw.cli import app; app(['--help'])"],
    "guardmw --version": ["-c", "from guardmw.cli import app; app(['--version'])"],
    "import guardmw": ["-c", "import guardmw"],
    "import guardmw.Checker": ["-c", "from guardmw import Checker"],
    "import langgraph.graph": ["-c", "import langgraph.graph"],
    "import guardmw_langgraph": ["-c", "import guardmw_langgraph"],
}


def processor_ms(arguments: list[str]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        before_s = children_s()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        best = min(best, (children_s() - before_s) * 1000)
    return best


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    figures = {name: processor_ms(arguments) for name, arguments in WORK.items()}
    for name, taken_ms in figures.items():
        print(f"{name:<26} {taken_ms:6.0f} ms  {taken_ms / figures[NOTHING]:5.1f} x an idle interpreter")
    within = figures["guardmw --help"] <= HELP_LIMIT_MS
    print(f"guardmw --help within {HELP_LIMIT_MS:.0f} ms: {'yes' if within else 'NO'}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "startup.json").write_text(json.dumps({"processor_ms": figures, "within": within}, indent=2) + "\n")
    raise SystemExit(0 if within else 1)


if __name__ == "__main__":
    main()
