"""Weights that are missing, damaged or something else are refused when the guard is built."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guardmw.errors import GuardConfigError
from guardmw.guard.embedded import EmbeddedGuard, bundled_weights
from guardmw.guard.encoder import load_model

FILES = ("encoder.onnx", "head.onnx", "vocab.txt")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the bundled weights; the encoder is a link, for it is large."""
    for name in ("manifest.json", "head.onnx", "vocab.txt"):
        shutil.copy(bundled_weights() / name, tmp_path / name)
    (tmp_path / "encoder.onnx").symlink_to(bundled_weights() / "encoder.onnx")
    return tmp_path


def rewrite(weights: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((weights / "manifest.json").read_text())
    change(manifest)
    (weights / "manifest.json").write_text(json.dumps(manifest))


def vouch(weights: Path, name: str) -> None:
    """Make the manifest expect what the file `name` now holds."""
    digest = hashlib.sha256((weights / name).read_bytes()).hexdigest()
    rewrite(weights, lambda manifest: manifest["files"][name].update(sha256=digest))


def test_a_folder_of_ones_own(weights: Path) -> None:
    assert EmbeddedGuard(weights).version == EmbeddedGuard().version


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file(weights: Path, name: str) -> None:
    (weights / name).unlink()
    with pytest.raises(GuardConfigError, match=rf"lack .*{name}.*Reinstall"):
        EmbeddedGuard(weights)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(GuardConfigError, match=r"manifest\.json"):
        EmbeddedGuard(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(weights: Path, name: str) -> None:
    content = bytearray((weights / name).read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    (weights / name).unlink()
    (weights / name).write_bytes(content)
    with pytest.raises(GuardConfigError) as caught:
        EmbeddedGuard(weights)
    for part in (name, "damaged", expected, hashlib.sha256(content).hexdigest(), "Reinstall"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda manifest: manifest.update(format=1), "format"),
        (lambda manifest: manifest.update(colour="red"), "colour"),
        (lambda manifest: manifest.pop("version"), "version"),
        (lambda manifest: manifest["calibration"].update(temperature=0), "calibration.temperature"),
        (lambda manifest: manifest["windows"].update(overlap=100), "windows"),
        (lambda manifest: manifest["files"].pop("head.onnx"), "head.onnx"),
        (lambda manifest: manifest["files"]["vocab.txt"].update(sha256="short"), "sha256"),
    ],
)
def test_a_manifest_of_another_shape(weights: Path, change: Callable[[dict[str, Any]], None], named: str) -> None:
    rewrite(weights, change)
    with pytest.raises(GuardConfigError, match=named):
        EmbeddedGuard(weights)


def test_a_manifest_that_is_no_json(weights: Path) -> None:
    (weights / "manifest.json").write_text("{")
    with pytest.raises(GuardConfigError, match="no manifest"):
        EmbeddedGuard(weights)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_vouched_for_and_still_something_else(weights: Path, name: str) -> None:
    (weights / name).unlink()
    (weights / name).write_bytes(b"something else")
    vouch(weights, name)
    with pytest.raises(GuardConfigError, match=rf"{name} can't be used"):
        EmbeddedGuard(weights)


def test_a_model_goes_when_its_last_guard_goes(weights: Path) -> None:
    import gc
    import weakref

    seen = weakref.ref(load_model(weights, 1))
    gc.collect()
    assert seen() is None


def test_importing_guardmw_loads_no_model() -> None:
    code = "import sys, guardmw; print(sorted({'onnxruntime', 'numpy', 'torch', 'tokenizers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
