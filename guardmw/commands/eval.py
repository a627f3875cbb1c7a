"""`guardmw eval`: what a guard reaches on labelled rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guardmw.commands._output import GUARDS, complain
from guardmw.errors import GuardmwError

if TYPE_CHECKING:
    from guardmw.evaluation.data import Dataset
    from guardmw.evaluation.run import Progress, Settings
    from guardmw.guard.base import Guard
    from guardmw.policy.schema import Policy
    from guardmw.train.dataset import Taxonomy


FORMATS = (
    "guardmw, or a benchmark's own format: advbench, aegis-1, aegis-2, agentdojo, agentharm, assebench, beavertails, "
    "deepset-injections, harmbench-prompts, harmbench-responses, injecagent, jailbreakbench, notinject, oktest, "
    "openai-moderation, or-bench, r-judge, saferlhf, simplesafetytests, strongreject, toxicchat, toxicchat-human, "
    "wildguard, xstest, xstest-responses"
)


class UnusableError(GuardmwError):
    """The evaluation can't be run as asked."""


def evaluate(
    data: Annotated[list[Path], typer.Argument(help="JSONL files, packed with gzip or xz or not, or folders of them.")],
    guard: Annotated[str, typer.Option(help=GUARDS)] = "embedded",
    taxonomies: Annotated[
        Path | None, typer.Option(help="JSON file of the taxonomies that the rows' `policy` names.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", "-p", help="Judge every row under this policy: a file or a bundled name.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure here, as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with diagrams here, one HTML file.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Flag above this probability, whatever the policy says.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows taken from each file, drawn with --seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For the rows drawn and for the intervals.")] = 0,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings behind each 95% interval.")] = 1000,
    streaming: Annotated[
        bool, typer.Option("--streaming/--no-streaming", help="Also judge responses as streams.")
    ] = True,
    concurrency: Annotated[int, typer.Option(min=1, help="Checks that are with the guard at once.")] = 16,
    max_bad_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse to run when more of the data than this can't be used.")
    ] = 0.01,
    format: Annotated[str, typer.Option(help=f"What the files are, all of them: {FORMATS}.")] = "guardmw",
    show_texts: Annotated[
        bool, typer.Option("--show-texts", help="Put the worst mistakes, with their texts, into page and JSON.")
    ] = False,
) -> None:
    """Judge labelled rows by a guard and say how good it is, with intervals.

    Exits 0 when it ran, 2 when it could not: unusable data, guard or policy, or a guard that failed on every row.
    """
    from guardmw.evaluation.run import Settings

    for path in (json_out, report):
        _check_writable(path)
    given = _policy(policy)
    dataset, facts = _dataset(data, format, guard, taxonomies, given, threshold, limit, seed)
    _tell_left_out(dataset, max_bad_share)
    settings = Settings(seed, bootstrap, concurrency, streaming, show_texts)
    found = {**facts, **_run(dataset, guard, settings)}
    found["options"] |= {"bootstrap": bootstrap, "concurrency": concurrency}
    _show(found)
    if json_out is not None:
        _write(json_out, json.dumps(found, indent=1) + "\n")
    if report is not None:
        from guardmw.evaluation.page import page

        _write(report, page(found))


def _policy(name: str | None) -> Policy | None:
    if name is None:
        return None
    from guardmw.policy.load import load_policies

    policies = load_policies(name)
    only = list(policies.policies.values())
    return only[0] if len(only) == 1 else policies.for_agent("default")


def _dataset(
    data: list[Path],
    format: str,
    guard: str,
    taxonomies: Path | None,
    policy: Policy | None,
    threshold: float | None,
    limit: int | None,
    seed: int,
) -> tuple[Dataset, dict[str, Any]]:
    """What is to be judged, and the facts that the report begins with."""
    from importlib.metadata import version

    from guardmw.evaluation.data import read_data, read_files
    from guardmw.evaluation.rules import RuleBook

    found, brought = read_files(data, format)
    known = brought | (_taxonomies(taxonomies) if taxonomies else {})
    if policy is None and not known:
        raise UnusableError(
            "nothing says what is unsafe: name the rows' taxonomies with --taxonomies, or a policy with --policy"
        )
    rules = RuleBook(known, policy=policy, threshold=threshold, detectors=guard == "detectors")
    facts = {
        "format": 1,
        "guardmw": version("guardmw"),
        "policy": None if policy is None else {"id": policy.id, "hash": policy.hash},
        "taxonomies": None if taxonomies is None else {"path": str(taxonomies), "sha256": _sha256(taxonomies)},
        "options": {"format": format, "threshold": threshold, "limit": limit, "seed": seed},
    }
    return read_data(found, rules, limit=limit, seed=seed), facts


def _taxonomies(file: Path) -> dict[str, Taxonomy]:
    from guardmw.train.dataset import read_taxonomies
    from guardmw.train.rows import refuse_pipe

    refuse_pipe(file)
    return read_taxonomies(file)


def _sha256(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


def _tell_left_out(dataset: Dataset, max_bad_share: float) -> None:
    from guardmw.train.rows import listed

    dataset.refuse_above(max_bad_share)
    if dataset.problems:
        lines = [f"{len(dataset.problems)} problems; what they concern is left out:", *listed(dataset.problems)]
        complain("\n".join(lines))
    for why, count in dataset.aside.items():
        complain(f"{count} set aside by the format's own rules: {why}")


def _run(dataset: Dataset, guard: str, settings: Settings) -> dict[str, Any]:
    import asyncio

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from guardmw.guard import resolve_guard

    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        return asyncio.run(_evaluated(dataset, resolve_guard(guard), settings, tell))


async def _evaluated(dataset: Dataset, guard: Guard, settings: Settings, tell: Progress) -> dict[str, Any]:
    from guardmw.evaluation.run import evaluate

    try:
        found = await evaluate(dataset, guard, settings, tell)
    finally:
        await guard.aclose()
    return {"guard": {"name": guard.name, "version": guard.version}, **found}


def _check_writable(path: Path | None) -> None:
    """Says before the work what would be in the way after it. Leaves no file where there was none."""
    if path is None:
        return
    try:
        if path.is_dir() or not path.parent.is_dir():
            raise UnusableError(f"{path} can't be written: name a file in a folder that exists")
        _try_to_write(path)
    except OSError as error:
        raise UnusableError(f"{path} can't be written: {error.strerror}; name a file that you may write") from error


def _try_to_write(path: Path) -> None:
    """Pipes and devices are let be: the one who reads a pipe would take the end of the trial for that of the data."""
    if not path.exists():
        new = Path(os.path.realpath(path))
        new.open("xb").close()
        new.unlink()
    elif path.is_file():
        path.open("ab").close()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UnusableError(f"{path} can't be written: {error.strerror}") from error


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console

    from guardmw.commands._figures import summary

    console = Console()
    for part in summary(found, console.width):
        console.print(part, highlight=False)
