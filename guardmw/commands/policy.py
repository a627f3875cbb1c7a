"""`guardmw policy`: look at policies before agents depend on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guardmw.commands._output import COULD_NOT_RUN, FINE, FOUND, print_json, printable
from guardmw.errors import PolicyError
from guardmw.types import SURFACES, Surface

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from guardmw.policy.schema import Policy

policy_app = typer.Typer(name="policy", help="Check and show policies.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@policy_app.command()
def lint(
    paths: Annotated[list[str], typer.Argument(help="Policy files, folders, or names of bundled policies.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load policies as one set and say what is wrong or may surprise.

    Exits 0 when nothing is wrong, 1 when there are errors (with --strict: or warnings), 2 when a path can't be read.
    """
    remarks = _remarks(paths)
    errors = sum(remark["severity"] == "error" for remark in remarks)
    if as_json:
        print_json({"paths": paths, "errors": errors, "warnings": len(remarks) - errors, "remarks": remarks})
    else:
        _tell(remarks, errors)
    raise typer.Exit(FOUND if errors or (strict and remarks) else FINE)


@policy_app.command()
def show(
    policy: Annotated[str, typer.Argument(help="A policy file or folder, or the name of a bundled policy.")],
    agent: Annotated[str | None, typer.Option(help="The agent whose policy is shown, where there are several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a policy as it holds after inheritance: its hash, agents, thresholds, detectors and rules."""
    chosen = _choose(policy, agent)
    if as_json:
        print_json(_description(chosen))
    else:
        _display(chosen)


@policy_app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    from guardmw.policy.jsonschema import policy_json_schema_text

    sys.stdout.write(policy_json_schema_text())


def _remarks(paths: list[str]) -> list[dict[str, Any]]:
    from guardmw.policy.lint import lint as advise
    from guardmw.policy.load import load_policies

    try:
        policies = load_policies(*paths)
    except PolicyError as error:
        found = [error, *error.others]
        if any(one.line is None for one in found):  # not a policy with a fault, but no readable file
            raise _give_up(error) from error
        return [_from_error(one) for one in found]
    return [
        {"policy": advice.policy, "key": advice.key, "severity": advice.severity, "message": advice.message}
        for advice in advise(policies)
    ]


def _from_error(error: PolicyError) -> dict[str, Any]:
    place = {"file": error.file, "line": error.line, "key": error.key}
    return {**place, "severity": "error", "message": f"{error.problem}. {error.mend}"}


def _tell(remarks: list[dict[str, Any]], errors: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    for remark in remarks:
        place = remark.get("policy") or f"{remark['file']}:{remark['line']}"
        colour = "red" if remark["severity"] == "error" else "yellow"
        console.print(
            Text.assemble(
                (f"{remark['severity']:8}", colour),
                (f"{printable(place)} [{printable(remark['key'] or '')}] ", "bold"),
                printable(remark["message"]),
            )
        )
    console.print(f"{errors} errors, {len(remarks) - errors} warnings")


def _choose(path: str, agent: str | None) -> Policy:
    from guardmw.policy.load import load_policies

    try:
        found = load_policies(path)
        policies = list(found.policies.values())
        if agent is not None:
            return found.for_agent(agent)
    except PolicyError as error:
        raise _give_up(error) from error
    if len(policies) > 1:
        ids = ", ".join(one.id for one in policies)
        raise typer.BadParameter(f"{path} holds several policies ({ids}); choose with --agent, or name a file")
    return policies[0]


def _give_up(error: PolicyError) -> typer.Exit:
    sys.stderr.write(f"guardmw: {printable(str(error))}\n")
    return typer.Exit(COULD_NOT_RUN)


def _description(policy: Policy) -> dict[str, Any]:
    thresholds = {category.id: policy.thresholds(category) for category in policy.categories}
    return {
        "id": policy.id,
        "hash": policy.hash,
        "agents": list(policy.agents),
        "thresholds": {name: {"ask_above": ask, "act_above": act} for name, (ask, act) in thresholds.items()},
        "policy": policy.model_dump(mode="json"),
    }


def _display(policy: Policy) -> None:
    from rich.console import Console, Group
    from rich.panel import Panel

    parts = [_facts(policy), _categories(policy), *_detectors(policy), *_tools(policy)]
    subtitle = f"hash {policy.hash}"
    Console().print(Panel(Group(*parts), title=f"[bold]{policy.id}[/]", subtitle=subtitle, title_align="left"))


def _facts(policy: Policy) -> RenderableType:
    failing = ", ".join(f"{surface}: {then}" for surface, then in policy.on_guard_error)
    facts = {
        "description": policy.description,
        "extends": ", ".join(policy.extends),
        "agents": ", ".join(policy.agents) or "none named",
        "mode": f"{policy.mode}, streaming {policy.streaming.mode}",
        "strictness": f"{policy.strictness:g}",
        "guard fails": failing,
        "deadline": f"{policy.limits.deadline_ms} ms",
    }
    table = _table("", "")
    for name, value in facts.items():
        if value:
            table.add_row(f"[dim]{name}[/]", _text(value))
    return table


def _categories(policy: Policy) -> RenderableType:
    table = _table("category", "action", "above", "surfaces")
    for category in policy.categories:
        ask, act = policy.thresholds(category)
        above = f"{act:.2f}" if ask == act else f"{act:.2f}, asks {ask:.2f}"
        table.add_row(category.id, category.action, above, _surfaces(category.surfaces))
    return table


def _detectors(policy: Policy) -> list[RenderableType]:
    table = _table("detector", "action", "finds", "surfaces")
    detectors = policy.detectors
    for name, one in (("pii", detectors.pii), ("secrets", detectors.secrets)):
        if one:
            table.add_row(name, one.action, ", ".join(one.entities), _surfaces(one.surfaces))
    for pattern in detectors.patterns:
        table.add_row(pattern.id, pattern.action, _text(pattern.pattern), _surfaces(pattern.surfaces))
    return ["", table] if table.row_count else []


def _tools(policy: Policy) -> list[RenderableType]:
    table = _table("tool", "action", "arguments", "otherwise")
    for rule in policy.tools.rules:
        arguments = [*rule.args, *(["(schema)"] if rule.fits is not None else [])]
        otherwise = rule.otherwise if rule.conditional else ""
        table.add_row(_text(rule.tool), rule.action, _text(", ".join(arguments)), otherwise)
    table.add_row("[dim]any other[/]", policy.tools.default, "", "")
    budget = policy.tools.risk_budget
    run = f"a refused call: {policy.tools.on_block}; the same refusals in a run: {policy.limits.refusals}"
    run += f"; risk budget of a run: {budget:g}" if budget is not None else ""
    return ["", table, *_sequences(policy), "", f"[dim]{run}[/]"]


def _sequences(policy: Policy) -> list[RenderableType]:
    table = _table("sequence", "denies a call that breaks")
    for sequence in policy.tools.sequences:
        form = sequence.model_dump(exclude={"name"}, exclude_defaults=True)
        table.add_row(_text(sequence.name), _text(", ".join(f"{key} {value}" for key, value in form.items())))
    return ["", table] if table.row_count else []


def _surfaces(surfaces: tuple[Surface, ...]) -> str:
    missing = [surface for surface in SURFACES if surface not in surfaces]
    match len(missing):
        case 0:
            return "all"
        case 1:
            return f"all but {missing[0]}"
        case _:
            return ", ".join(surfaces)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(*columns, box=None, header_style="dim", show_header=any(columns), pad_edge=False)
    table.columns[0].no_wrap = True
    return table


def _text(value: str) -> RenderableType:
    from rich.text import Text

    return Text(printable(value))
