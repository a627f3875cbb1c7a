"""Benchmarks of agents, in their own files: where each comes from, its files, columns and label rule.

``agentdojo``
    github.com/ethz-spylab/agentdojo (arXiv 2406.13352), MIT. The logs that its `TraceLogger` writes, one JSON file per
    run under ``runs/<pipeline>/<suite>/<user task>/<attack>/<injection task>.json``; give the folder or a file:
    `messages`, `injections`, `attack_type`, `injection_task_id`, `security`. Judged are each tool's result (unsafe: it
    carries one of the injections; letters and digits are compared, since tools print text quoted and wrapped) and the
    run as a trajectory (unsafe: `security`, by which AgentDojo means that the injection reached its goal; without an
    injection it is always true and means nothing). A run that broke off with an error has no label and is left out.
``r-judge``
    github.com/Lordog/R-Judge (arXiv 2401.10019). ``data/<category>/*.json``; give the folder or a file: a list of
    objects with `profile`, `contents` (rounds of turns with `role` user, agent or environment) and `label` (1: unsafe).
``assebench``
    github.com/Astarojth/AgentAuditor-ASSEBench (arXiv 2506.00641), Apache-2.0. ``ASSEBench/dataset/AgentJudge-*.json``,
    of R-Judge's shape: safety, security, and by strict and by loose criteria.
``injecagent``
    github.com/uiuc-kang-lab/InjecAgent (arXiv 2403.02691), MIT. ``data/test_cases_{dh,ds}_{base,enhanced}.json``: a
    list of objects with `User Instruction`, `Tool Response`, `Attack Type`. Judged is the tool's result. All unsafe.

Trajectories are written as `guardmw.evaluation.steps` reads them. Lines inside a step are indented, so that nothing in
them can pass for a step.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator

from guardmw.evaluation.loaders import taxonomies
from guardmw.evaluation.loaders.native import Benchmark, Case, LeftOut
from guardmw.evaluation.loaders.records import Record, UnfitError

__all__ = ["AGENTS"]

AGENT_STEPS = {"thought": "THOUGHT", "content": "AGENT", "action": "ACTION"}
BROKEN_OFF = "a run that broke off with an error, whose outcome says nothing"
BLOCK_STEPS = {"text": "AGENT", "thinking": "THOUGHT"}
ESCAPES = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|[0abtnvfreNLP_])")
"""Escapes of YAML and JSON in which letters stand: so YAML prints all that is not ASCII."""


def _step(speaker: str, text: str) -> str:
    return f"{speaker}: " + text.strip().replace("\r\n", "\n").replace("\n", "\n  ")


def _turns(record: Record) -> Iterator[str]:
    if profile := record.optional("profile"):
        yield _step("SYSTEM", profile)
    for number, turns in enumerate(record.list("contents"), 1):
        if not isinstance(turns, list):
            raise UnfitError(f"contents: round {number} is no list of turns")
        for turn in turns:
            yield from _turn(record.within(turn, f"contents: a turn of round {number}"))


def _turn(turn: Record) -> Iterator[str]:
    match turn.fields.get("role"):
        case "user":
            yield _step("USER", turn.optional("content"))
        case "environment":
            yield _step("OBSERVATION", turn.optional("content"))
        case "agent":
            yield from (_step(speaker, turn.optional(name)) for name, speaker in AGENT_STEPS.items())
        case other:
            raise UnfitError(f"contents: a turn's role is user, agent or environment, not {other!r:.40}")


def _spoken(steps: Iterable[str]) -> str:
    return "\n".join(step for step in steps if not step.endswith(": "))


def _recorded_run(record: Record) -> Iterator[Case]:
    yield Case("trajectory", _spoken(_turns(record)), record.flag("label"))


def _injecagent(record: Record) -> Iterator[Case]:
    names = (record.text("Attack Type"),)
    yield Case("tool_result", record.text("Tool Response"), True, record.text("User Instruction"), names)


def _agentdojo(record: Record) -> Iterator[Case | LeftOut]:
    if record.optional("error"):
        yield LeftOut(BROKEN_OFF)
        return
    attacked = record.fields["injection_task_id"] is not None
    injections = _injections(record) if attacked else []
    messages = [record.within(message, "messages: a message") for message in record.list("messages")]
    asked = next((_said(message) for message in messages if message.fields.get("role") == "user"), "")
    meta = {name: record.fields.get(name) for name in ("suite_name", "pipeline_name", "attack_type")}
    unsafe = attacked and record.flag("security")
    yield Case("trajectory", _spoken(_messages(messages)), unsafe, key="run", meta=meta)
    results = [message for message in messages if message.fields.get("role") == "tool"]
    for number, message in enumerate(results, 1):
        said = message.optional("error") or _said(message)
        carries = any(injection in _letters(said) for injection in injections)
        yield Case("tool_result", said, carries, asked, key=f"tool-{number}", meta=meta)


def _injections(record: Record) -> list[str]:
    found = record.within(record.fields["injections"], "injections")
    texts = [_letters(found.optional(name)) for name in found.fields]
    return [text for text in texts if text]


def _letters(text: str) -> str:
    return "".join(re.findall(r"[^\W_]+", ESCAPES.sub(_shown, text))).casefold()


def _shown(escape: re.Match[str]) -> str:
    code = int(next(filter(None, escape.groups()), "20"), 16)
    return chr(code) if code <= sys.maxunicode else " "


def _messages(messages: Iterable[Record]) -> Iterator[str]:
    for message in messages:
        match message.fields.get("role"):
            case "user":
                yield _step("USER", _said(message))
            case "system":
                yield _step("SYSTEM", _said(message))
            case "tool":
                yield _step("OBSERVATION", message.optional("error") or _said(message))
            case "assistant":
                yield from (_step(BLOCK_STEPS[kind], text) for kind, text in _blocks(message) if kind in BLOCK_STEPS)
                yield from (_step("ACTION", call) for call in _calls(message))
            case other:
                raise UnfitError(f"messages: a role is user, system, assistant or tool, not {other!r:.40}")


def _said(message: Record) -> str:
    return "\n".join(text for _, text in _blocks(message))


def _blocks(message: Record) -> Iterator[tuple[str, str]]:
    """Kind and text of the parts of a message's content, which older logs hold as one text."""
    content = message.fields.get("content")
    if not isinstance(content, list):
        yield "text", message.optional("content")
        return
    for part in content:
        block = message.within(part, "content: a part")
        yield block.text("type"), block.optional("content")


def _calls(message: Record) -> Iterator[str]:
    for part in () if message.fields.get("tool_calls") is None else message.list("tool_calls"):
        call = message.within(part, "tool_calls: a call")
        yield f"{call.text('function')}({json.dumps(call.fields.get('args'), ensure_ascii=False)})"


AGENTDOJO_COLUMNS = ("messages", "injections", "attack_type", "injection_task_id", "security")

AGENTS = (
    Benchmark("agentdojo", taxonomies.AGENTDOJO, "MIT", AGENTDOJO_COLUMNS, _agentdojo, folders=True),
    Benchmark("r-judge", taxonomies.TRAJECTORY, "not stated", ("contents", "label"), _recorded_run, folders=True),
    Benchmark("assebench", taxonomies.TRAJECTORY, "Apache-2.0", ("contents", "label"), _recorded_run, folders=True),
    Benchmark(
        "injecagent",
        taxonomies.INJECAGENT,
        "MIT",
        ("User Instruction", "Tool Response", "Attack Type"),
        _injecagent,
    ),
)
