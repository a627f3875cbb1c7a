"""`guardmw train`: new weights from labelled data."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from guardmw.commands._output import print_json
from guardmw.errors import GuardmwError

train_app = typer.Typer(help="Train guards from labelled data (needs the extra `train`).", no_args_is_help=True)

BASE_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


class TrainingError(GuardmwError):
    """Training can't be run as asked."""


@train_app.callback()
def _group() -> None:
    """Keeps `embedded` a subcommand while it is the only one."""


@train_app.command()
def embedded(
    data: Annotated[Path, typer.Option(help="Folder with train/*.jsonl.gz, dev/*.jsonl.gz and taxonomies.json.")],
    out: Annotated[
        Path, typer.Option(help="Where the weights go; `EmbeddedGuard(weights=...)` reads them from there.")
    ],
    encoder: Annotated[
        str, typer.Option(help="The sentence encoder to build on: a hub id, or a folder with its files.")
    ] = BASE_ENCODER,
    cache: Annotated[
        Path | None,
        typer.Option(help="A .npz file that keeps the texts' vectors between runs (they take the longest)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same head.")] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 4,
    limit: Annotated[int, typer.Option(min=1, help="Training rows taken from each source, benign ones apart.")] = 4000,
    false_positives: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of any benign source that may reach probability 0.5 on dev.")
    ] = 0.02,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest, figures and all, as JSON.")] = False,
) -> None:
    """Train the embedded guard's head on a frozen encoder, calibrate it, and write a folder of weights."""
    try:
        from guardmw.train.embedded import Settings, train_embedded
    except ModuleNotFoundError as error:
        raise TrainingError(f"training needs {error.name}: pip install 'guardmw[train]'") from error
    from rich.console import Console

    console = Console(stderr=True)
    settings = Settings(
        data=data, out=out, encoder=encoder, version=version("guardmw"), cache=cache, seed=seed, epochs=epochs,
        limit=limit, false_positives=false_positives,
    )  # fmt: skip
    with console.status("starting") as status:

        def tell(what: str) -> None:
            status.update(what)
            console.print(what)

        try:
            manifest = train_embedded(settings, tell)
        except (OSError, ValueError) as error:
            raise TrainingError(f"the encoder {encoder!r} can't be used: {error}") from error
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    console.print(f"wrote {out}: version {manifest.version}")
