"""Which head reads a sentence encoder best: several, trained on the same batches and judged on the same texts.

    python benchmarks/heads.py --data DIR --encoder ID_OR_FOLDER [--steps 800]

The encoder is frozen, so that the heads alone differ. DIR is what `guardmw train embedded` reads; the extra `train` and
scikit-learn are needed. Every head is asked about the texts of DIR/dev under the categories of the policy `base`. The
threshold is the one that 3% of the benign texts reach; `AUROC` is that of harmful against harmless texts, and `of
pairs` that of texts under all categories of training.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/, dev/ and taxonomies.json")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="a hub id or a folder")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--limit", type=int, default=1000, help="rows taken from each source")
    parser.add_argument("--out", type=Path, default=Path("out/heads.json"))
    options = parser.parse_args()
    missing = [name for name in ("torch", "transformers", "sklearn") if find_spec(name) is None]
    if options.data is None or missing:
        why = f"{', '.join(missing)} not installed" if missing else "no --data"
        print(f"heads: SKIPPED, {why}", file=sys.stderr)
        return
    from compared.heads import compare

    with tempfile.TemporaryDirectory() as folder:
        figures = compare(options.data, options.encoder, Path(folder), options.steps, options.limit)
    table = Table("head", "AUROC", "recall", "false positives", "AUROC of pairs", "parameters")
    for name, found in figures.items():
        shares = [f"{found[each]:.3f}" for each in ("auroc", "recall", "fpr", "pairs_auroc")]
        table.add_row(name, *shares, f"{found['parameters']:,}")
    Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"steps": options.steps, "heads": figures}, indent=2) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
