"""BERT in numpy, after its paper (arXiv 1810.04805): what an exported encoder must compute, whoever serves it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

DTYPES = {"F32": "<f4"}
_erf = np.vectorize(math.erf, otypes=[np.float32])


def read_safetensors(path: Path) -> dict[str, Array]:
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:begin])
    header.pop("__metadata__")
    found = {}
    for name, said in header.items():
        start, end = said["data_offsets"]
        found[name] = np.frombuffer(content[begin + start : begin + end], DTYPES[said["dtype"]]).reshape(said["shape"])
    return found


class NumpyBert:
    """The model in `folder`, as transformers would load it."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self._weights = read_safetensors(folder / "model.safetensors")

    def states(self, ids: Sequence[int]) -> Array:
        """Last hidden states, pieces x dimensions."""
        kinds = {"word": list(ids), "position": list(range(len(ids))), "token_type": [0] * len(ids)}
        embedded = [self._weights[f"embeddings.{kind}_embeddings.weight"][rows] for kind, rows in kinds.items()]
        hidden = self._norm("embeddings.LayerNorm", np.sum(embedded, axis=0))
        for layer in range(self.config["num_hidden_layers"]):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        return hidden.astype(np.float32)

    def _layer(self, layer: str, hidden: Array) -> Array:
        attended = self._linear(layer + "attention.output.dense", self._attended(layer + "attention.self.", hidden))
        hidden = self._norm(layer + "attention.output.LayerNorm", attended + hidden)
        wide = self._linear(layer + "intermediate.dense", hidden)
        gelu = wide * 0.5 * (1 + _erf(wide / math.sqrt(2)))
        return self._norm(layer + "output.LayerNorm", self._linear(layer + "output.dense", gelu) + hidden)

    def _attended(self, name: str, hidden: Array) -> Array:
        heads = self.config["num_attention_heads"]
        shape = (len(hidden), heads, hidden.shape[1] // heads)
        query, key, value = (
            self._linear(name + part, hidden).reshape(shape).transpose(1, 0, 2) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(shape[2])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed: Array = (shares / shares.sum(axis=-1, keepdims=True)) @ value
        return mixed.transpose(1, 0, 2).reshape(hidden.shape)

    def _linear(self, name: str, hidden: Array) -> Array:
        result: Array = hidden @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]
        return result

    def _norm(self, name: str, hidden: Array) -> Array:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        result: Array = centred / scale * self._weights[name + ".weight"] + self._weights[name + ".bias"]
        return result
