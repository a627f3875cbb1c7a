"""`guardmw demo`: a guarded LangGraph agent, live in the terminal."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guardmw.commands._output import FINE, FOUND, print_json
from guardmw.commands.demo.scenarios import SCENARIOS, Scenario
from guardmw.errors import GuardmwError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from rich.console import Console
    from rich.live import Live

    from guardmw.commands.demo.watch import Watch
    from guardmw.guard.base import Guard

SCREENS_PER_S = 15
PACE_MS, ROW_PACE_MS = 40, 2


class DemoError(GuardmwError):
    """The demo can't be run as asked."""


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
    guard: Annotated[str, typer.Option(help="Which guard judges: embedded or detectors.")] = "embedded",
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
    console = _console(quiet=as_json)
    if file is not None:
        _play_rows(file, limit, {"policy": policy, "guard": guard}, (pace_ms or ROW_PACE_MS) / 1e3, console, as_json)
        return
    chosen = [_scenario(name) for name in scenario or SCENARIOS]
    pace_s = (PACE_MS if pace_ms is None else pace_ms) / 1e3
    passed = asyncio.run(_play(chosen, policy, guard, model, pace_s, console, as_json))
    raise typer.Exit(FINE if passed else FOUND)


def _need_langgraph() -> None:
    from importlib.util import find_spec

    if find_spec("langgraph") is None or find_spec("langchain") is None:
        raise DemoError("the demo runs a LangGraph agent: pip install 'guardmw[langgraph]'")


def _console(*, quiet: bool) -> Console:
    from rich.console import Console

    return Console(quiet=quiet, highlight=False)


def _scenario(name: str) -> Scenario:
    if name not in SCENARIOS:
        raise DemoError(f"there is no scenario {name!r}; choose from {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def _play_rows(
    file: Path, limit: int | None, options: dict[str, Any], pace_s: float, console: Console, as_json: bool
) -> None:
    from guardmw.commands.demo import rows
    from guardmw.guard import resolve_guard

    skipped: Counter[str] = Counter()
    found = list(rows.read(file, limit, skipped))
    options = {**options, "guard": resolve_guard(options["guard"])}
    report = asyncio.run(rows.stream_rows(found, options, pace_s, console))
    report.skipped = skipped
    rows.show(report, console)
    if as_json:
        print_json(report.as_json())


async def _play(
    scenarios: list[Scenario],
    policy: str,
    guard: str,
    model: str | None,
    pace_s: float,
    console: Console,
    as_json: bool,
) -> bool:
    from guardmw.commands.demo import screen
    from guardmw.guard import resolve_guard

    judge = resolve_guard(guard)
    runs = []
    try:
        for scenario in scenarios:
            watch = await _run(scenario, policy, judge, _model(scenario, model, pace_s), console)
            runs.append((scenario.name, scenario.expected, watch))
    finally:
        await judge.aclose()
    console.print(screen.summary(runs))
    if as_json:
        print_json([_result(name, expected, watch) for name, expected, watch in runs])
    return all(watch.action == expected for _, expected, watch in runs) or model is not None


def _model(scenario: Scenario, model: str | None, pace_s: float) -> BaseChatModel:
    if model is None:
        from guardmw.testing import ScriptedChatModel

        return ScriptedChatModel(scenario.turns, delay_s=pace_s)
    from langchain.chat_models import init_chat_model

    try:
        return init_chat_model(model)
    except Exception as error:
        raise DemoError(f"the model {model!r} can't be used: {error}") from error


async def _run(scenario: Scenario, policy: str, judge: Guard, model: BaseChatModel, console: Console) -> Watch:
    from rich.live import Live

    from guardmw.commands.demo import screen
    from guardmw.commands.demo.agent import AGENT, MortalGuard, converse
    from guardmw.commands.demo.watch import Watch
    from guardmw.telemetry.tree import collect_spans
    from guardmw_langgraph import GuardMiddleware

    guard = judge if scenario.guard_dies_after is None else MortalGuard(judge, scenario.guard_dies_after)
    watch = Watch(scenario.user)
    middleware = GuardMiddleware(policy, guard=guard, agent=AGENT, recorder=watch)
    with collect_spans() as collected:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            refresher = asyncio.create_task(_refresh(live, scenario.title, watch))
            try:
                await converse(model, middleware, watch)
            finally:
                refresher.cancel()
            live.update(screen.conversation(scenario.title, watch), refresh=True)
        console.print("", collected.tree("[dim]spans[/]"), "", sep="\n")
    return watch


async def _refresh(live: Live, title: str, watch: Watch) -> None:
    from guardmw.commands.demo import screen

    while live.console.is_terminal:
        live.update(screen.conversation(title, watch), refresh=True)
        await asyncio.sleep(1 / SCREENS_PER_S)


def _result(name: str, expected: str, watch: Watch) -> dict[str, Any]:
    worst = watch.worst()
    return {
        "scenario": name,
        "expected": expected,
        "action": watch.action,
        "why": worst.why if worst else "",
        "shown": watch.saying.shown if watch.saying else "",
        "withheld_chars": watch.withheld_chars,
        "redactions": watch.labels,
        "checks": len(watch.judged),
        "first_words_ms": None if watch.first_shown_s is None else round(1e3 * watch.first_shown_s, 1),
        "total_ms": None if watch.ended_s is None else round(1e3 * watch.ended_s, 1),
    }
