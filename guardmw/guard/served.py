"""What kind of guard a model is, told from its files: how vLLM serves it, and what it is asked first.

A hub id has no files here: it counts as a chat model unless the options for vLLM say ``--runner pooling``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from guardmw.guard.prompt import VERDICT_PREFILL, guard_prompt
from guardmw.policy.schema import Category, Policy
from guardmw.types import Check

__all__ = ["Kind", "client_options", "encoder_name", "first_check", "kind_of", "model_limit", "served_name"]

Kind = Literal["chat", "classifier", "encoder"]
"""`chat` generates verdicts; `classifier` gives probabilities per label on the pooling runner; `encoder` is the
embedded guard's encoder as `guardmw guard export` writes it, on the pooling runner too."""

MANIFEST = "manifest.json"
"""Beside an exported encoder, and beside no other model."""


def kind_of(model: str, extra: Sequence[str] = ()) -> Kind:
    """The kind of the model in folder (or with hub id) `model`; `extra` are the user's options for vLLM."""
    architectures = _config(model).get("architectures") or [""]
    if str(architectures[0]).endswith("ForSequenceClassification"):
        return "classifier"
    if (Path(model).expanduser() / MANIFEST).is_file():
        return "encoder"
    words = " ".join(extra).replace("=", " ").split()
    return "classifier" if ("--runner", "pooling") in pairwise(words) else "chat"


def encoder_name(sha256: str) -> str:
    """The name under which the encoder with this hash (of its ``encoder.onnx``) is served: no other answers to it."""
    return f"guardmw-encoder-{sha256[:12]}"


def served_name(model: str) -> str:
    """The name that clients ask for: a folder's own name, a hub id as it is, an exported encoder's by its hash."""
    folder = Path(model).expanduser()
    if kind_of(model) == "encoder":
        return encoder_name(str(_json(folder / MANIFEST).get("files", {}).get("encoder.onnx", {}).get("sha256")))
    return folder.resolve().name if folder.is_dir() else model


def model_limit(model: str) -> int | None:
    """How many tokens the model reads, None when its files don't say."""
    limit = _config(model).get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def client_options(model: str, kind: Kind) -> str:
    """What a client must know beside url and name, as the end of a query: ``&family=classifier&labels=safe,unsafe``."""
    if kind != "classifier":
        return ""
    labels = ",".join(quote(label.replace(",", "\\,"), safe="") for label in _labels(model))
    return "&family=classifier" + (f"&labels={labels}" if labels else "")


def first_check(kind: Kind, model_name: str) -> tuple[str, dict[str, Any]]:
    """(path, body) of a request like a check's. vLLM prepares much at the first one: no real check should wait."""
    match kind:
        case "classifier":
            return "/classify", {"model": model_name, "input": "Hello."}
        case "encoder":
            return "/pooling", {"model": model_name, "input": [[1, 2]], "task": "token_embed", "use_activation": False}
        case "chat":
            return "/v1/chat/completions", _chat(model_name)


def _chat(model_name: str) -> dict[str, Any]:
    policy = Policy(
        id="first", categories=(Category(id="any", title="Anything", unsafe_when="The text says anything."),)
    )
    return {
        "model": model_name,
        "messages": guard_prompt(Check("output", "Hello."), policy).messages(VERDICT_PREFILL),
        "add_generation_prompt": False,
        "continue_final_message": True,
        "max_tokens": 1,
        "logprobs": True,
        "structured_outputs": {"choice": ["safe", "unsafe"]},
    }


def _labels(model: str) -> list[str]:
    """The model's labels in the order of their numbers; none when its config doesn't tell them."""
    named = _config(model).get("id2label")
    if not isinstance(named, dict) or not all(str(number).isdigit() for number in named):
        return []
    return [str(named[number]) for number in sorted(named, key=int)]


def _config(model: str) -> dict[str, Any]:
    return _json(Path(model).expanduser() / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
