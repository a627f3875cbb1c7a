"""`guardmw guard serve` for guards that don't generate: classifiers, and the embedded guard's encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fake_vllm
from guardmw.errors import GuardConfigError
from guardmw.guard import resolve_guard
from guardmw.guard.families.classifier import Classifier
from guardmw.guard.serve import Build, ServeOptions, client_spec, command_line, environment, preflight
from guardmw.guard.served import first_check
from guardmw.guard.vllm import VllmGuard

CPU, GPU = Build("python", "0.31.0", "cpu"), Build("python", "0.31.0", "gpu")


def values(command: list[str], flag: str) -> list[str]:
    after = command[command.index(flag) + 1 :]
    return after[: next((place for place, word in enumerate(after) if word.startswith("--")), len(after))]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    folder = fake_vllm.model(tmp_path / "judge", 512)
    config = {
        "architectures": ["BertForSequenceClassification"],
        "max_position_embeddings": 512,
        "id2label": {"1": "hate speech", "0": "safe", "2": "violence"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = fake_vllm.model(tmp_path / "exported", 512)
    (folder / "manifest.json").write_text(json.dumps({"files": {"encoder.onnx": {"sha256": "abcdef0123456789"}}}))
    return folder


def test_a_classifier_runs_on_the_pooling_runner(classifier: Path) -> None:
    options = ServeOptions(str(classifier), policies=("base", "finance"))
    command = command_line(options, CPU)
    assert (values(command, "--runner"), values(command, "--dtype")) == (["pooling"], ["float32"])
    assert values(command, "--max-model-len") == ["512"]
    generating = {"--enable-prefix-caching", "--enable-lora", "--max-logprobs", "--generation-config"}
    assert not generating & set(command)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment(options, CPU, {})
    labels = "&family=classifier&labels=safe,hate%20speech,violence"
    assert client_spec(options) == f"vllm:http://127.0.0.1:8000/v1?model=judge{labels}"


def test_a_classifier_s_line_makes_its_guard(classifier: Path) -> None:
    guard = resolve_guard(client_spec(ServeOptions(str(classifier))))
    assert isinstance(guard, VllmGuard)
    assert isinstance(guard.family, Classifier)
    assert guard.family.labels == ("safe", "hate speech", "violence")


def test_an_exported_encoder_is_served_by_its_hash(encoder: Path) -> None:
    options = ServeOptions(str(encoder), host="0.0.0.0")
    command = command_line(options, GPU)
    assert values(command, "--served-model-name") == ["guardmw-encoder-abcdef012345"]
    assert values(command, "--pooler-config.task") == ["token_embed"]
    assert "--dtype" not in command
    assert client_spec(options) == "embedded:http://127.0.0.1:8000"


@pytest.mark.parametrize("extra", [("--runner", "pooling"), ("--runner=pooling",)])
def test_a_hub_id_is_a_chat_model_unless_it_is_said(extra: tuple[str, ...]) -> None:
    assert ServeOptions("owner/name").kind == "chat"
    said = ServeOptions("owner/name", extra=extra)
    assert said.kind == "classifier"
    assert client_spec(said).endswith("?model=owner/name&family=classifier")
    assert "--max-model-len" not in command_line(said, GPU)


def test_an_adapter_for_a_classifier(classifier: Path) -> None:
    with pytest.raises(GuardConfigError, match="is a classifier; adapters are for guards that generate"):
        preflight(ServeOptions(str(classifier), loras=("name=folder",)))


def test_each_kind_is_asked_as_a_check_asks() -> None:
    assert first_check("classifier", "m")[0] == "/classify"
    path, body = first_check("encoder", "m")
    assert (path, body["task"], body["model"]) == ("/pooling", "token_embed", "m")
    path, body = first_check("chat", "m")
    assert (path, body["max_tokens"]) == ("/v1/chat/completions", 1)
