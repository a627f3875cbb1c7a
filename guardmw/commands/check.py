"""`guardmw check`: one text, one decision."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guardmw.commands._output import COULD_NOT_RUN, FINE, FOUND, GUARDS, complain, print_json, printable
from guardmw.types import Action, Check, Decision, Finding, Surface, ToolCall, apply_redactions, severity

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from guardmw.checker import Checker
    from guardmw.policy.schema import Policy

COLOURS: dict[Action, str] = {"allow": "green", "flag": "yellow", "redact": "yellow", "ask": "magenta", "block": "red"}


def check(
    text: Annotated[
        str | None, typer.Argument(help="The text to check; '-' or nothing reads it from standard input.")
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", "-p", help="A policy file or folder, or the name of a bundled policy.")
    ] = "base",
    agent: Annotated[str, typer.Option(help="The agent whose policy holds, where there are several.")] = "default",
    surface: Annotated[Surface, typer.Option(help="Where the text was found.")] = "output",
    tool: Annotated[
        str | None, typer.Option(help="The tool that is called; the text is then its arguments as JSON.")
    ] = None,
    guard: Annotated[str, typer.Option(help=GUARDS)] = "embedded",
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Check a text against a policy and print the decision.

    Exits 0 when it may pass (allow, flag), 1 when it may not pass as it is (redact, ask, block), 2 when it could not
    be checked.
    """
    question = _question(_read(text), surface, agent, tool)
    decision, held, duration_s = _decide(question, policy, guard)
    report = _report(decision, held, duration_s)
    if as_json:
        print_json(report)
    else:
        _show(decision, held, report)
    if decision.verdict.error is not None:
        complain(f"the guard failed ({decision.verdict.error}); what you see is what the policy does about that")
        raise typer.Exit(COULD_NOT_RUN)
    raise typer.Exit(FOUND if severity(decision.action) > severity("flag") else FINE)


def _read(text: str | None) -> str:
    if text is not None and text != "-":
        return text
    if sys.stdin.isatty():
        raise typer.BadParameter("no text given; write it behind the command, or pipe it in")
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _question(text: str, surface: Surface, agent: str, tool: str | None) -> Check:
    if surface == "tool_call" and tool is None:
        raise typer.BadParameter("a tool call needs the name of the tool: --tool NAME")
    if tool is None:
        return Check(surface, text, agent)
    return Check("tool_call", text, agent, calls=(ToolCall(tool, text),))


def _decide(question: Check, policy: str, guard: str) -> tuple[Decision, Policy, float]:
    import asyncio

    from guardmw.checker import Checker

    return asyncio.run(_ask(Checker(policy, guard=guard), question))


async def _ask(checker: Checker, question: Check) -> tuple[Decision, Policy, float]:
    try:
        policy = await checker.policy_for(question.agent)
        started_s = time.perf_counter()
        decision = await checker.check(question, policy=policy)
        return decision, policy, time.perf_counter() - started_s
    finally:
        await checker.aclose()


def _report(decision: Decision, policy: Policy, duration_s: float) -> dict[str, Any]:
    from guardmw.telemetry.findings import mattering

    verdict = decision.verdict
    return {
        "action": decision.action,
        "enforced": decision.enforced,
        "mode": decision.mode,
        "why": decision.why,
        "text": _shown(decision, policy),
        "findings": [_finding(finding, decision.check, policy) for finding in mattering(decision, policy)],
        "surface": decision.check.surface,
        "agent": decision.check.agent,
        "policy": {"id": policy.id, "hash": policy.hash},
        "guard": {"name": verdict.guard, "version": verdict.guard_version} if verdict.guard else None,
        "error": verdict.error,
        "duration_ms": round(duration_s * 1000, 3),
        "tokens": {
            "prompt": verdict.tokens.prompt,
            "cached": verdict.tokens.cached,
            "completion": verdict.tokens.completion,
        },
    }


def _shown(decision: Decision, policy: Policy) -> str:
    """What a user would read."""
    if decision.withheld:
        return policy.messages.unavailable if decision.verdict.error else policy.messages.blocked
    if decision.enforced == "redact":
        return apply_redactions(decision.check.content, decision.redactions)
    return decision.check.content


def _finding(finding: Finding, check: Check, policy: Policy) -> dict[str, Any]:
    from guardmw.telemetry.findings import threshold

    return {
        "category": finding.category,
        "probability": round(finding.probability, 4),
        "threshold": round(threshold(finding, check, policy) or 0.0, 4),
        "span": list(finding.span) if finding.span else None,
        "source": finding.source,
    }


def _show(decision: Decision, policy: Policy, report: dict[str, Any]) -> None:
    from rich.console import Console, Group
    from rich.panel import Panel

    colour = COLOURS[decision.action]
    parts: list[RenderableType] = [_highlighted(decision, report["findings"])]
    if decision.enforced != "allow":
        parts += ["", _line("shown as", str(report["text"]))]
    if report["findings"]:
        parts += ["", _table(report["findings"])]
    shadow = " (shadow mode: nothing is done)" if decision.mode == "shadow" else ""
    judge = f"{decision.verdict.guard or 'no guard needed'} · {report['duration_ms']:.1f} ms"
    panel = Panel(
        Group(*parts),
        title=f"[bold {colour}]{decision.action}[/]{shadow}",
        subtitle=f"{policy.id} {policy.hash[:8]} · {decision.check.surface} · {judge}",
        border_style=colour,
    )
    console = Console()
    console.print(panel)
    console.print(_line("why", decision.why))


def _highlighted(decision: Decision, findings: list[dict[str, Any]]) -> Text:
    from rich.text import Text

    text = Text(printable(decision.check.content))
    for finding in findings:
        if finding["span"]:
            text.stylize("bold reverse", *finding["span"])
    return text


def _line(name: str, value: str) -> Text:
    from rich.text import Text

    return Text.assemble((f"{name}: ", "dim"), printable(value))


def _table(findings: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table

    table = Table("category", "probability", "threshold", "characters", "source", box=None, header_style="dim")
    for finding in findings:
        span = " to ".join(map(str, finding["span"])) if finding["span"] else "whole text"
        numbers = (f"{finding['probability']:.2f}", f"{finding['threshold']:.2f}")
        table.add_row(printable(finding["category"]), *numbers, span, finding["source"])
    return table
