"""The rules a reader relies on: imports point one way, `import guardmw` is light, names stand, pieces are small."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"guardmw": ROOT / "guardmw", "guardmw_langgraph": ROOT / "adapters" / "guardmw_langgraph"}

# From the leaves up. A module belongs to the first layer that names it or a package it lies in, and may import
# its own layer and those before it. `guardmw` alone is the front door: nothing of ours imports it.
LAYERS: list[tuple[str, tuple[str, ...]]] = [
    ("leaves", ("guardmw.errors", "guardmw.types")),
    ("values", ("guardmw.policy", "guardmw.stream.window", "guardmw.telemetry.names", "guardmw.traces.record")),
    ("services", ("guardmw.guard", "guardmw.telemetry", "guardmw.traces")),
    ("checker", ("guardmw.judgement", "guardmw.checker")),
    ("gate", ("guardmw.stream",)),
    ("adapters", ("guardmw_langgraph",)),
]
# They stand beside the layers: what each may import of ours.
ASIDE: dict[str, tuple[str, ...]] = {
    "guardmw.testing": (
        "guardmw.errors", "guardmw.types", "guardmw.policy", "guardmw.guard", "guardmw_langgraph.scripted"
    ),
    "guardmw.train": ("guardmw.errors", "guardmw.types", "guardmw.policy", "guardmw.guard", "guardmw.traces"),
    "guardmw.evaluation": (
        "guardmw.errors", "guardmw.types", "guardmw.policy", "guardmw.guard", "guardmw.stream.window",
        "guardmw.train.dataset", "guardmw.train.rows", "guardmw.train.calls",
    ),
    "guardmw.dashboard": ("guardmw.errors", "guardmw.types", "guardmw.policy", "guardmw.guard", "guardmw.traces"),
}  # fmt: skip
ENTRY_POINTS = ("guardmw.cli", "guardmw.commands", "guardmw.__main__")
FRONT_DOOR = "guardmw"

HEAVY = (
    "detect_secrets", "httpx", "jsonschema_rs", "langchain", "langchain_core", "langgraph", "numpy", "onnxruntime",
    "onnxruntime_extensions", "opentelemetry.exporter", "opentelemetry.sdk", "phonenumbers", "rich", "starlette",
    "stdnum", "tokenizers", "torch", "transformers", "trl", "typer", "vllm",
)  # fmt: skip
# Where a heavy package is the module's whole purpose, and `import guardmw` never comes by.
AT_HOME: dict[str, tuple[str, ...]] = {
    "guardmw_langgraph": ("langchain", "langchain_core", "langgraph"),
    "guardmw.cli": ("typer", "rich"),
    "guardmw.commands": ("typer", "rich"),
    "guardmw.commands.demo": ("langchain", "langchain_core", "langgraph"),
    "guardmw.train": HEAVY,
    "guardmw.evaluation": ("numpy",),
}

PUBLIC_NAMES = {
    "guardmw": {
        "Action", "Check", "Checker", "Decision", "Finding", "Guard", "Policy", "PolicySet", "Surface", "Verdict",
        "load_policies",
    },
    "guardmw.testing": {"FakeGuard", "ScriptedChatModel"},
    "guardmw_langgraph": {"GuardMiddleware", "guard_model", "guard_tools"},
}  # fmt: skip

LONG_FILES: dict[str, str] = {}
"""Files over 300 lines, each with the reason."""


@dataclass(frozen=True)
class Import:
    target: str
    at_top: bool


@cache
def modules() -> dict[str, Path]:
    return {
        ".".join([package, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"): path
        for package, root in PACKAGES.items()
        for path in sorted(root.rglob("*.py"))
    }


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """Every import that runs, at the top or inside a function; those for type checkers only are left out."""
    return tuple(_imports(ast.parse(modules()[module].read_text()), module, at_top=True))


def _imports(node: ast.AST, module: str, *, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            source = _absolute(child, module)
            names = (f"{source}.{alias.name}" for alias in child.names)
            yield from (Import(name if name in modules() else source, at_top) for name in names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            runs_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _imports(child, module, at_top=at_top and not runs_later)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    base = package.split(".")[: len(package.split(".")) - (node.level - 1)]
    return ".".join([*base, *filter(None, [node.module])])


def is_in(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def layer_of(module: str) -> int | None:
    return next((place for place, (_, names) in enumerate(LAYERS) if is_in(module, names)), None)


def may_import(module: str, target: str) -> bool:
    if module == FRONT_DOOR or is_in(module, ENTRY_POINTS):
        return True
    if target == FRONT_DOOR or is_in(target, ENTRY_POINTS):
        return False
    for aside, allowed in ASIDE.items():
        if is_in(module, (aside,)):
            return is_in(target, (aside, *allowed))
    own, other = layer_of(module), layer_of(target)
    return own is not None and other is not None and other <= own


def test_every_module_has_a_place() -> None:
    places = tuple(ASIDE) + ENTRY_POINTS
    homeless = [m for m in modules() if m != FRONT_DOOR and layer_of(m) is None and not is_in(m, places)]
    assert not homeless, f"give these a layer: {homeless}"


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {each.target}"
        for module in modules()
        for each in imports_of(module)
        if is_in(each.target, tuple(PACKAGES)) and not may_import(module, each.target)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_way_would_be_seen() -> None:
    assert not may_import("guardmw.types", "guardmw.policy.schema")
    assert not may_import("guardmw.stream.window", "guardmw.checker")
    assert not may_import("guardmw.guard.base", "guardmw.checker")
    assert not may_import("guardmw.checker", "guardmw.stream.gate")
    assert not may_import("guardmw.stream.gate", "guardmw_langgraph")
    assert not may_import("guardmw.train.dataset", "guardmw.checker")
    assert not may_import("guardmw.evaluation.judging", "guardmw.checker")
    assert not may_import("guardmw.evaluation.judging", "guardmw.train.head")
    assert not may_import("guardmw_langgraph.model", "guardmw.cli")
    assert not may_import("guardmw.policy.load", "guardmw")
    assert may_import("guardmw_langgraph.model", "guardmw.stream.gate")


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        module: {each.target for each in imports_of(module) if each.target in modules() and each.target != module}
        for module in modules()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    wrong = [
        f"{module} imports {each.target} at the top"
        for module in modules()
        for each in imports_of(module)
        if each.at_top and is_in(each.target, HEAVY) and not is_in(each.target, _at_home(module))
    ]
    assert not wrong, "\n".join(wrong)


def _at_home(module: str) -> tuple[str, ...]:
    return tuple(name for home, names in AT_HOME.items() if is_in(module, (home,)) for name in names)


IMPORT_PROBE = """
import json, sys, time
start = time.process_time()
import {module}
took = time.process_time() - start
print(json.dumps({{"took": took, "modules": sorted(sys.modules)}}))
"""


def probe(module: str, runs: int = 1) -> tuple[float, list[str]]:
    """CPU seconds of the fastest import in `runs` fresh interpreters, and the heavy modules it leaves loaded."""
    command = [sys.executable, "-c", IMPORT_PROBE.format(module=module)]
    results = [json.loads(subprocess.check_output(command, text=True)) for _ in range(runs)]
    loaded = results[0]["modules"]
    assert module in loaded
    return min(result["took"] for result in results), [name for name in loaded if is_in(name, HEAVY)]


def test_the_import_takes_less_than_300_ms() -> None:
    took, _ = probe("guardmw", runs=5)
    assert took < 0.3, f"`import guardmw` took {took * 1000:.0f} ms"


def test_the_import_loads_nothing_heavy() -> None:
    _, heavy = probe("guardmw")
    assert not heavy


def test_the_command_line_starts_without_anything_heavy() -> None:
    _, heavy = probe("guardmw.cli")
    assert not [name for name in heavy if not is_in(name, ("typer", "rich"))]


@pytest.mark.parametrize("package", PUBLIC_NAMES)
def test_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert PUBLIC_NAMES[package] <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_the_front_door_shows_the_contract_and_nothing_else() -> None:
    import guardmw

    assert set(guardmw.__all__) - {"__version__"} == PUBLIC_NAMES["guardmw"]


def functions() -> list[tuple[int, str]]:
    """(lines, place) of every function, methods and nested ones too."""
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{module}.{node.name}")
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_functions_are_short() -> None:
    found = sorted(functions(), reverse=True)
    lengths = [length for length, _ in found]
    assert statistics.median(lengths) <= 10, found[:20]
    assert lengths[len(lengths) // 10] <= 30, found[: len(found) // 10]


def test_files_are_short() -> None:
    long = {name for name, path in modules().items() if path.read_text().count("\n") > 300}
    assert long == set(LONG_FILES), "over 300 lines: split it, or name it in LONG_FILES with the reason"
