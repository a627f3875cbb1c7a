"""The built wheel, installed into a fresh environment and used from outside the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
POLICIES = ("base", "support", "coding", "research", "finance")
LIMIT_PACKAGES, LIMIT_BYTES = 22, 190_000_000

pytestmark = [pytest.mark.live("wheel"), pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Environment:
    """A virtual environment and an empty folder to work in, both outside the repository."""

    folder: Path
    work: Path

    def run(self, *command: str | Path, exit_code: int = 0) -> str:
        """What `command` (its program looked up in the environment) printed; fails unless it ends with `exit_code`."""
        program, *arguments = map(str, command)
        return run([str(self.folder / "bin" / program), *arguments], self.work, exit_code)

    def python(self, code: str) -> str:
        return self.run("python", "-c", code)


def run(command: Sequence[str], folder: Path, exit_code: int = 0) -> str:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target)], ROOT)
    (built,) = target.glob("guardmw-*.whl")
    return built


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("elsewhere"))
    venv.create(environment.folder, with_pip=True)
    environment.run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[langgraph]")
    return environment


def test_the_wheel_holds_what_users_need_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    needed = [f"guardmw/policies/{name}.yaml" for name in POLICIES]
    needed += ["guardmw/policies/policy.schema.json", "guardmw/py.typed", "guardmw_langgraph/py.typed"]
    needed += ["guardmw_langgraph/__init__.py", "guardmw/weights/manifest.json", "guardmw/weights/MODEL_CARD.md"]
    assert not [name for name in needed if name not in names]
    parts = {name.split("/")[0] for name in names}
    assert {part for part in parts if not part.endswith(".dist-info")} == {"guardmw", "guardmw_langgraph"}


def test_it_is_imported_from_the_environment(fresh: Environment) -> None:
    places = fresh.python("import guardmw, guardmw_langgraph as g; print(guardmw.__file__); print(g.__file__)")
    assert all(place.startswith(str(fresh.folder)) for place in places.split())


def test_the_bundled_policies_are_found_by_name(fresh: Environment) -> None:
    code = f"from guardmw import load_policies; print(*[load_policies(p).policies[p].id for p in {POLICIES}])"
    assert fresh.python(code).split() == list(POLICIES)


def test_training_finds_every_written_text(fresh: Environment) -> None:
    code = "from guardmw.train.written import written_rows; print(sum(1 for row in written_rows()))"
    lines = sum(len(file.read_text().splitlines()) for file in (ROOT / "guardmw/train/written").glob("*.jsonl"))
    assert int(fresh.python(code)) == lines > 0


def test_check_judges_with_the_bundled_weights(fresh: Environment) -> None:
    command = ("guardmw", "check", "my card is 4111 1111 1111 1111", "--policy", "support", "--json")
    answer = json.loads(fresh.run(*command, exit_code=1))
    assert answer["action"] == "redact"
    assert "4111 1111 1111 1111" not in answer["text"]
    assert answer["guard"]["name"] == "embedded"


def test_policy_lint_accepts_the_bundled_policies(fresh: Environment) -> None:
    assert "0 errors, 0 warnings" in fresh.run("guardmw", "policy", "lint", *POLICIES)


def test_an_agent_is_guarded(fresh: Environment) -> None:
    assert "[CREDIT_CARD]" in fresh.run("python", ROOT / "examples" / "quickstart.py")


def test_it_adds_little_to_langchain_and_langgraph(fresh: Environment) -> None:
    site_packages = fresh.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    script = ROOT / "benchmarks" / "install_size.py"
    figures = json.loads(run([sys.executable, str(script), site_packages, "--json"], fresh.work))
    assert figures["added_packages"] <= LIMIT_PACKAGES, figures
    assert figures["added_bytes"] <= LIMIT_BYTES, figures
    assert "torch" not in figures["packages"]
