"""What pydantic found wrong with a policy, as errors that name file, line, key and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from guardmw.errors import PolicyError
from guardmw.policy.schema import Policy
from guardmw.policy.yamltree import Node, Path, dotted

_VALUE_MENDS = (
    ("not a regular expression", "Write a Python regular expression, best in single quotes so that backslashes stay."),
    ("ask_above", "Lower ask_above or raise block_above."),
    ("a sequence rule is", "Give exactly one of these pairs of keys."),
    ("`match` belongs", "Remove `match`, or make it a rule with `taint` and `never_into`."),
    ("twice", "Rename one of them, or join the two."),
)


def explain(invalid: ValidationError, tree: Node, *, partial: bool = False) -> list[PolicyError]:
    """One PolicyError per finding of `invalid`, placed by `tree`, the tree that was validated.

    `partial`: what the tree inherits could not be found, so that what it lacks, or how its keys go together, is left
    out.
    """
    kinds = ("missing", "value_error") if partial else ()
    return [_explain_one(dict(f), tree) for f in invalid.errors(include_url=False) if f["type"] not in kinds]


def raise_all(problems: Iterable[PolicyError]) -> None:
    """Raise the first of `problems`, which then lists the others; each is told once. Does nothing without any."""
    first, *others = {(p.file, p.line, p.key, p.problem): p for p in problems}.values() or [None]
    if first is not None:
        raise PolicyError(
            first.problem,
            mend=first.mend,
            file=first.file,
            line=first.line,
            key=first.key,
            others=tuple(other for other in others if other is not None),
        )


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """A mend for a misspelt `name`: the `known` one most like it, else the sentence `otherwise`."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else otherwise


def _explain_one(finding: dict[str, Any], tree: Node) -> PolicyError:
    path: Path = finding["loc"]
    problem, mend = _words(finding, path)
    within = finding.get("ctx", {}).get("path", ()) if finding["type"] == "json_schema" else ()
    path = (*path, *within) if within else _blame(path, problem, tree)
    place = _locate(tree, path)
    return PolicyError(problem, mend=mend, file=place.file, line=place.line, key=dotted(path))


def _words(finding: dict[str, Any], path: Path) -> tuple[str, str]:
    key, found = str(path[-1]) if path else "", finding["input"]
    match finding["type"]:
        case "extra_forbidden":
            known = [field.alias or name for name, field in _model_at(path[:-1]).model_fields.items()]
            comma = " If it belongs to the text before it, put that text in quotes." if found is None else ""
            return f"unknown key {key!r}", nearest(key, known, f"Known here: {', '.join(known)}.{comma}")
        case "missing":
            return f"the key {key!r} is missing", "Add it."
        case "json_schema":
            return finding["ctx"]["problem"], finding["ctx"]["mend"]
        case "literal_error":
            expected = finding["ctx"]["expected"]
            options = [option.strip(" '") for option in expected.replace(" or ", ", ").split(",")]
            return f"{_shown(found)} is not allowed here", nearest(str(found), options, f"Write {expected}.")
        case "value_error":
            problem = str(finding["ctx"]["error"])
            return problem, next((mend for part, mend in _VALUE_MENDS if part in problem), "Mend the value.")
        case _:
            wanted = (
                finding["msg"].removeprefix("Input should ").replace("tuple", "list").replace("dictionary", "mapping")
            )
            return f"{_shown(found)} can't stand here", f"It should {wanted}."


def _shown(value: Any) -> str:
    match value:
        case None:
            return "an empty value"
        case dict():
            return "a mapping"
        case tuple():
            return "a list"
        case _:
            text = str(value).encode("utf-8", "backslashreplace").decode()
            return repr(text) if len(text) <= 60 else repr(text[:57] + "...")


def _blame(path: Path, problem: str, tree: Node) -> Path:
    """For a finding about a whole mapping: the key of it that the problem speaks of first, if any."""
    node = _locate(tree, path)
    named = [(problem.find(key), key) for key in node.children() if key in problem]
    return (*path, min(named)[1]) if path and named else path


def _locate(tree: Node, path: Path) -> Node:
    """The node at `path`, or the nearest one above it that is written."""
    node = tree
    for step in path:
        below = node.child(step)
        if below is None:
            break
        node = below
    return node


def _model_at(path: Path) -> type[BaseModel]:
    model: type[BaseModel] = Policy
    for step in path:
        field = model.model_fields.get(step) if isinstance(step, str) else None
        model = (field and _model_in(field.annotation)) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
