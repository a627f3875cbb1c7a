"""Plays the demo's scenarios, or the rows of a file, and prints what came of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from rich.console import Console
from rich.live import Live

from guardmw.commands._output import print_json
from guardmw.commands.demo import rows, screen
from guardmw.commands.demo.agent import AGENT, MortalGuard, converse
from guardmw.commands.demo.scenarios import DemoError, Scenario
from guardmw.commands.demo.watch import ToolUse, Watch
from guardmw.guard import resolve_guard
from guardmw.policy.load import load_policies, parse_policy
from guardmw.telemetry.tree import collect_spans
from guardmw_langgraph import GuardMiddleware
from guardmw_langgraph.scripted import ScriptedChatModel

SCREENS_PER_S = 15


class Stage:
    """What every run of the demo is played with. Raises PolicyError, GuardConfigError."""

    def __init__(self, policy: str, guard: str, model: str | None, pace_s: float, *, as_json: bool) -> None:
        self.policy = load_policies(policy).for_agent(AGENT)
        self.guard = resolve_guard(guard)
        self.model, self.pace_s, self.as_json = model, pace_s, as_json
        self.console = Console(quiet=as_json, highlight=False)

    def model_for(self, scenario: Scenario) -> BaseChatModel:
        if self.model is None:
            return ScriptedChatModel(scenario.turns, delay_s=self.pace_s)
        try:
            model: BaseChatModel = init_chat_model(self.model)
        except Exception as error:
            raise DemoError(f"the model {self.model!r} can't be used: {error}") from error
        return model


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario, ready to be played, and what is seen of it."""

    scenario: Scenario
    model: BaseChatModel
    middleware: GuardMiddleware
    watch: Watch


def play_scenarios(stage: Stage, scenarios: list[Scenario]) -> bool:
    """True when every scenario met the action it should (a model that isn't scripted may say what it likes)."""
    runs = [_prepared(stage, scenario) for scenario in scenarios]
    for run in runs:
        _play(stage.console, run)
    asyncio.run(stage.guard.aclose())
    stage.console.print(screen.summary([(run.scenario, run.watch) for run in runs]))
    if stage.as_json:
        print_json([_result(run.scenario, run.watch) for run in runs])
    return stage.model is not None or all(run.watch.action == run.scenario.expected for run in runs)


def play_rows(stage: Stage, file: Path, limit: int | None) -> None:
    """Streams the rows of `file` through the agent. Raises RowError."""
    skipped: Counter[str] = Counter()
    found = list(rows.read(file, limit, skipped))
    report = asyncio.run(rows.stream_rows(found, stage.policy, stage.guard, stage.pace_s, stage.console))
    report.skipped = skipped
    rows.show(report, stage.console)
    if stage.as_json:
        print_json(report.as_json())


def _prepared(stage: Stage, scenario: Scenario) -> Run:
    checks_left = scenario.guard_dies_after
    guard = stage.guard if checks_left is None else MortalGuard(stage.guard, checks_left)
    watch = Watch(scenario.user)
    policy = stage.policy if scenario.policy is None else parse_policy(scenario.policy)
    middleware = GuardMiddleware(policy, guard=guard, agent=AGENT, recorder=watch)
    return Run(scenario, stage.model_for(scenario), middleware, watch)


def _play(console: Console, run: Run) -> None:
    with collect_spans() as collected:
        asyncio.run(_show_run(console, run))
    console.print("", collected.tree("[dim]spans[/]"), "", sep="\n")


async def _show_run(console: Console, run: Run) -> None:
    title, watch = run.scenario.title, run.watch
    watch.begins()
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        refresher = asyncio.create_task(_refresh(live, title, watch))
        try:
            await converse(run.model, run.middleware, watch, run.scenario.tools, run.scenario.people)
        finally:
            refresher.cancel()
        live.update(screen.conversation(title, watch), refresh=True)


async def _refresh(live: Live, title: str, watch: Watch) -> None:
    while live.console.is_terminal:
        live.update(screen.conversation(title, watch), refresh=True)
        await asyncio.sleep(1 / SCREENS_PER_S)


def _result(scenario: Scenario, watch: Watch) -> dict[str, Any]:
    worst = watch.worst()
    return {
        "scenario": scenario.name,
        "expected": scenario.expected,
        "action": watch.action,
        "why": worst.why if worst else "",
        "shown": watch.saying.shown if watch.saying else "",
        "withheld_chars": watch.withheld_chars,
        "redactions": watch.labels,
        "checks": len(watch.judged),
        "tools": [
            {"call": f"{use.name}({use.arguments})", "asked": use.asked, "refused": use.refused, "result": use.result}
            for use in watch.steps
            if isinstance(use, ToolUse)
        ],
        "first_words_ms": None if watch.first_shown_s is None else round(1e3 * watch.first_shown_s, 1),
        "total_ms": None if watch.ended_s is None else round(1e3 * watch.ended_s, 1),
    }
