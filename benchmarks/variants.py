"""Variants of what `guardmw train embedded` does, trained on the same batches and judged on the same texts.

    python benchmarks/variants.py heads --data DIR --encoder ID_OR_FOLDER --steps 800
    python benchmarks/variants.py ways --data DIR --encoder ID_OR_FOLDER --steps 250

`heads` trains several heads over the frozen encoder, so that they alone differ, and judges texts of DIR/dev. `ways`
trains encoder and head end to end, as shipped, with group-robust weights, and against a critic that names the source;
some sources are kept from training, and their texts in DIR/dev are judged, beside the benign ones. What is trained as
shipped is judged in its mean with the encoder before, too. `--ways` picks some of them.

DIR is what `guardmw train embedded` reads; the extra `train` and scikit-learn are needed. Texts are judged under the
categories of the policy `base`, without precedents. The threshold is the one that 3% of the benign texts reach; `AUROC`
is that of harmful against harmless texts, `look-alikes` the false positives among harmless texts of other sources than
the benign ones, `of pairs` the AUROC of texts under all categories of training, and `alike` the cosine of two benign
texts on average (where it is high, precedents can't tell texts apart).
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

COLUMNS = {
    "auroc": "AUROC", "recall": "recall", "fpr": "false positives", "lookalikes": "look-alikes",
    "pairs_auroc": "of pairs", "alike": "alike",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("heads", "ways"))
    parser.add_argument("--data", type=Path, help="folder with train/, dev/ and taxonomies.json")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="a hub id or a folder")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=48, help="texts a step, and categories")
    parser.add_argument("--limit", type=int, default=1000, help="rows taken from each source")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="those of `ways` to compare; all by default")
    parser.add_argument("--out", type=Path, help="out/WHAT.json by default")
    options = parser.parse_args()
    missing = [name for name in ("torch", "transformers", "sklearn") if find_spec(name) is None]
    if options.data is None or missing:
        why = f"{', '.join(missing)} not installed" if missing else "no --data"
        print(f"variants: SKIPPED, {why}", file=sys.stderr)
        return
    from compared import heads, ways
    from guardmw.train.tuning import Tuning

    if options.ways and options.what == "heads":
        parser.error("--ways picks ways of training; heads are compared all")
    if unknown := set(options.ways or ()) - set(ways.WAYS):
        parser.error(f"no way is called {', '.join(sorted(unknown))}; there are: {', '.join(ways.WAYS)}")
    tuning = Tuning(steps=options.steps, batch=options.batch, columns=options.batch)
    with tempfile.TemporaryDirectory() as folder:
        given = options.data, options.encoder, Path(folder), tuning, options.limit
        figures = (
            heads.compare(*given) if options.what == "heads" else ways.compare(*given, options.ways or tuple(ways.WAYS))
        )
    table = Table(options.what, *COLUMNS.values())
    for name, found in figures.items():
        table.add_row(f"{name} ({found['parameters']:,} parameters)", *(f"{found[each]:.3f}" for each in COLUMNS))
    Console().print(table)
    out = options.out or Path("out") / f"{options.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"steps": options.steps, "batch": options.batch, "limit": options.limit}
    out.write_text(json.dumps({**settings, options.what: figures}, indent=2) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
