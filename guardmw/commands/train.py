"""`guardmw train`: new weights from labelled data."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn

from guardmw.commands._output import print_json
from guardmw.errors import GuardmwError

train_app = typer.Typer(help="Train guards from labelled data (needs the extra `train`).", no_args_is_help=True)

LOGGED = 20
"""How many lines of a run's log tell the loss."""
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
    seed: Annotated[int, typer.Option(help="The same seed, data and machine give the same weights.")] = 0,
    steps: Annotated[
        int, typer.Option(min=1, help="Training steps; the default takes about 70 minutes on two cores.")
    ] = 3000,
    batch: Annotated[int, typer.Option(min=2, help="Texts in one step.")] = 48,
    rate: Annotated[float, typer.Option(min=0.0, help="Scales the learning rates; below 1 with --start.")] = 1.0,
    start: Annotated[
        list[Path] | None,
        typer.Option(help="Begin with what another run learned: the trained.pt in its folder. Of several, the mean."),
    ] = None,
    pretrained: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --start: this share of the encoder is as it was before.")
    ] = 0.0,
    head_only: Annotated[bool, typer.Option("--head-only", help="The encoder stays as it begins.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Rows taken from each source.")] = 4000,
    false_positives: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of harmless texts that may reach probability 0.5 on dev.")
    ] = 0.025,
    max_bad_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse to run when more of the data than this can't be used.")
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest, figures and all, as JSON.")] = False,
) -> None:
    """Fine-tune the embedded guard end to end, calibrate it, and write a folder of weights.

    A run that is cut off goes on where it was when the same command is given again. Uses a GPU when there is one.
    """
    if pretrained and not start:
        raise TrainingError("--pretrained needs --start: without it, all of the encoder is as it was before")
    try:
        from guardmw.train.embedded import Settings, train_embedded
        from guardmw.train.tuning import Tuning
    except ModuleNotFoundError as error:
        raise TrainingError(f"training needs {error.name}: pip install 'guardmw[train]'") from error
    settings = Settings(
        data=data, out=out, encoder=encoder, version=version("guardmw"), limit=limit, false_positives=false_positives,
        tuning=Tuning(steps=steps, batch=batch, seed=seed, rate=rate, head_only=head_only),
        start=tuple(start or ()), pretrained=pretrained, most_bad=max_bad_share,
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[loss]}"), console=console) as bar:
        task = bar.add_task("training", total=steps, loss="")

        losses: list[float] = []

        def progress(step: int, total: int, loss: float) -> None:
            losses.append(loss)
            bar.update(task, completed=step, total=total, loss=f"loss {loss:.3f}")
            if step % max(1, total // LOGGED) == 0:
                console.print(f"step {step} of {total}: loss {fmean(losses):.3f} on average since the last line")
                losses.clear()

        try:
            manifest = train_embedded(settings, lambda line: console.print(line, markup=False), progress)
        except OSError as error:
            raise TrainingError(f"{error.filename or out}: {error.strerror or error}. Name another --out.") from error
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    console.print(f"wrote {out}: version {manifest.version}")
