"""`guardmw demo`: a guarded LangGraph agent, live in the terminal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from guardmw.commands._output import FOUND, GUARDS
from guardmw.commands.demo.scenarios import SCENARIOS, DemoError, scenario_named

PACE_MS, ROW_PACE_MS = 25, 2


def demo(
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", "-s", help=f"What to play: {', '.join(SCENARIOS)}; all by default."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--input", help="Stream the rows of this JSONL file instead (.gz too).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many rows of the file.")] = None,
    policy: Annotated[str, typer.Option("--policy", "-p", help="A policy file, or a bundled policy.")] = "support",
    guard: Annotated[str, typer.Option(help=GUARDS)] = "embedded",
    model: Annotated[
        str | None, typer.Option(help="A LangChain model, such as openai:gpt-5; without it the answers are scripted.")
    ] = None,
    pace_ms: Annotated[int | None, typer.Option(min=0, help="Pause before each delta of a scripted model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON only.")] = False,
) -> None:
    """Watch an agent being guarded: text held, released, redacted and blocked, with every verdict and its timing.

    Runs offline with nothing set up: a scripted model and the embedded guard. Exits 0 when all scenarios met the
    action they should, 1 when one did not, 2 when the demo could not run.
    """
    _need_langgraph()
    logging.getLogger("guardmw").addHandler(logging.NullHandler())  # what fails here is on the screen already
    from guardmw.commands.demo.play import Stage, play_rows, play_scenarios

    chosen = [scenario_named(name) for name in scenario or SCENARIOS]
    pace_s = (pace_ms if pace_ms is not None else PACE_MS if file is None else ROW_PACE_MS) / 1e3
    stage = Stage(policy, guard, model, pace_s, as_json=as_json)
    if file is not None:
        play_rows(stage, file, limit)
    elif not play_scenarios(stage, chosen):
        raise typer.Exit(FOUND)


def _need_langgraph() -> None:
    from importlib.util import find_spec

    if find_spec("langgraph") is None or find_spec("langchain") is None:
        raise DemoError("the demo runs a LangGraph agent: pip install 'guardmw[langgraph]'")
