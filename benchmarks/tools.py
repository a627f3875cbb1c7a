"""What the deterministic part of a decision about a tool call costs: microseconds, by rules and by calls of history.

    python benchmarks/tools.py [--out out/tools.json] [--decisions 2000] [--rounds 5]

Two figures for each: `rules_us` is the automaton alone, `decision_us` what an agent pays before any guard is asked:
the history read from the messages of the graph's state (20,000 of them for 10,000 calls), of which the newest group is
new each time, what a guard is shown of the conversation, the rules, the risk budget, the detectors, the decision and
its span. `first_read_ms` is reading that history for the
first time, after a restart or on another branch of the conversation. Best of the rounds, in one thread, processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from guardmw.policy.automaton import Automaton, automaton_for
from guardmw.policy.schema import Argument, Detectors, PiiDetector, Policy, SequenceRule, ToolRule, Tools
from guardmw.types import ToolCall
from guardmw_langgraph.history import CallHistory
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import Seam
from timing import best_s

RULES = (1, 10, 100)
HISTORY = (10, 1_000, 10_000)
CALL = ToolCall("send_mail", '{"to": "ann@shop.example", "text": "Your parcel left our warehouse this morning."}', "c")


SCHEMA = {
    "type": "object",
    "properties": {"to": {"type": "string", "format": "email"}, "text": {"type": "string", "maxLength": 2000}},
    "required": ["to", "text"],
    "additionalProperties": False,
}


def policy(rules: int, schema: bool) -> Policy:
    """`rules` rules on arguments and as many sequence rules of the four forms, none of which the call breaks; `schema`
    holds the call's arguments against a JSON Schema too."""
    forms: tuple[Callable[[int], dict[str, Any]], ...] = (
        lambda n: {"after": f"read_{n}_*", "never": f"post_{n}"},
        lambda n: {"before": "send_*", "require": f"tool_{n % 7}"},
        lambda n: {"tool": f"tool_{n}", "at_most": 100_000},
        lambda n: {"taint": f"secret_{n}", "never_into": "send_*", "match": "values"},
    )
    sequences = tuple(SequenceRule(name=f"s{n}", **forms[n % 4](n)) for n in range(rules))
    # The rule for the call stands last, so that all patterns before it are tried.
    others = tuple(ToolRule(tool=f"other_{n}_*", action="deny") for n in range(rules - 1))
    rule = ToolRule(tool="send_*", args={"to": Argument(pattern=r"@shop\.example$")}, action="allow")
    if schema:
        rule = ToolRule.model_validate(rule.model_dump() | {"schema": SCHEMA})
    detectors = Detectors(pii=PiiDetector(entities=("credit_card",)))
    tools = Tools(rules=(*others, rule), sequences=sequences, risk_budget=1_000_000)
    return Policy(id=f"r{rules}", detectors=detectors, tools=tools)


def messages(calls: int) -> list[BaseMessage]:
    """A conversation with `calls` calls, one a message, each with its result."""
    found: list[BaseMessage] = [HumanMessage("Hello", id="h")]
    for n in range(calls):
        call = {"name": f"tool_{n % 7}", "args": {"x": n}, "id": f"c{n}", "type": "tool_call"}
        found.append(AIMessage("", tool_calls=[call], id=f"a{n}"))
        found.append(ToolMessage(f"result {n}", name=call["name"], tool_call_id=f"c{n}", id=f"t{n}"))
    return found


def rules_us(automaton: Automaton, history: int, decisions: int, rounds: int) -> float:
    state = automaton.start
    for n in range(history):
        state = automaton.step(state, ToolCall(f"tool_{n % 7}", f'{{"x": {n}}}'), "done", f"result {n}")

    def work() -> None:
        for _ in range(decisions):
            automaton.decide(automaton.step(state, CALL, "pending"), CALL)

    return 1e6 * best_s(work, rounds) / decisions


def decision_us(chosen: Policy, said: list[BaseMessage], decisions: int, rounds: int) -> float:
    """Before each decision the conversation grows by a call and its result, as it does in an agent."""
    seam = Seam(chosen, "detectors", "bench")
    seam.history.past(said, chosen)

    async def decide() -> None:
        grown = list(said)
        for n in range(decisions):
            grown += messages(1)[1:]
            past = seam.history.past(grown, chosen).with_unnoted({CALL.name})
            judged = await seam.judge_call(CALL, past, chosen, conversation=conversation(grown))
            assert judged.verdict == "pass", judged.decision.why
            if n % 50 == 49:  # stay near the length that is measured
                grown = list(said)

    return 1e6 * best_s(lambda: asyncio.run(decide()), rounds) / decisions


def first_read_ms(chosen: Policy, said: list[BaseMessage], rounds: int) -> float:
    return 1e3 * best_s(lambda: CallHistory().past(said, chosen), rounds)


def measure(rules: int, schema: bool, history: int, decisions: int, rounds: int) -> dict[str, float | int]:
    chosen, said = policy(rules, schema), messages(history)
    return {
        "rules": rules,
        "schema": int(schema),
        "history": history,
        "rules_us": round(rules_us(automaton_for(chosen), history, decisions, rounds), 2),
        "decision_us": round(decision_us(chosen, said, max(50, decisions // 10), rounds), 1),
        "first_read_ms": round(first_read_ms(chosen, said, rounds), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/tools.json"), help="where the JSON report goes")
    parser.add_argument("--decisions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for rules, schema in (*((rules, False) for rules in RULES), (RULES[-1], True)):
        for history in HISTORY:
            rows.append(measure(rules, schema, history, arguments.decisions, arguments.rounds))
            if len(rows) == 1:
                print("".join(f"{column:>16}" for column in rows[0]))
            print("".join(f"{value:16}" for value in rows[-1].values()))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"python": platform.python_version(), "rows": rows}, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
