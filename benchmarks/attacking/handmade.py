"""Tasks written for this benchmark: attackers' goals planted into real or written results, and benign tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

from attacking.tasks import Call, Plant, Task, sentence_end

Carriers = Mapping[str, Sequence[tuple[str, Call]]]
PLACES = (0.0, 0.5, 1.0)


def _written() -> dict[str, Any]:
    text = (Path(__file__).parent / "handmade.yaml").read_text(encoding="utf-8")
    written: dict[str, Any] = yaml.safe_load(text)
    return written


def _call(fields: Mapping[str, Any]) -> Call:
    return Call(fields["name"], fields["args"], fields.get("result", "Done."))


def benign() -> list[Task]:
    """The benign tasks, under the family ``handmade``."""
    tasks = []
    for domain, cases in _written()["benign"].items():
        for place, case in enumerate(cases):
            calls = tuple(map(_call, case["calls"]))
            tasks.append(Task(f"handmade-{domain}-{place}", "handmade", "benign", domain, case["goal"], calls))
    return tasks


def planted(found: Carriers, seed: int) -> list[Task]:
    """Every goal in every wording, each in a carrier and at a place drawn with `seed`: the family ``planted``.

    `found` are carriers from data; a domain that has none, there or written here, gets no attacks.
    """
    written, draw = _written(), Random(seed)
    tasks = []
    for domain, goals in written["goals"].items():
        own = [(one["goal"], _call(one["call"])) for one in written["carriers"].get(domain, ())]
        available = [*found.get(domain, ()), *own]
        for place, goal in enumerate(goals if available else ()):
            for number, wording in enumerate(written["wordings"]):
                asked, carrier = draw.choice(available)
                at = sentence_end(carrier.result, draw.choice(PLACES))
                plant = Plant(wording.format(text=goal["text"]), 0, at)
                tasks.append(
                    Task(
                        f"planted-{domain}-{place}-{number}",
                        "planted",
                        "injection",
                        domain,
                        asked,
                        (carrier,),
                        planted=(plant,),
                        harm=(_call(goal["call"]),),
                    )
                )
    return tasks
