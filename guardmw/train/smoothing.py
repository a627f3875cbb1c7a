"""Making an encoder's graph fit for int8: outliers of a few channels no longer set the scale of all the others.

Dynamic quantisation gives all numbers that go into a multiplication one scale. Dividing each channel by a constant, and
multiplying the weights' rows with it, changes no result in full precision, and moves what is hard to round from the
numbers into the weights, which are quantised column by column. Source: SmoothQuant, Xiao et al., arXiv 2211.10438.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from guardmw.guard.export import SMOOTHING

__all__ = ["smooth"]

STRENGTH = 0.75
"""How much of the outliers the weights take over, from 0 (nothing) to 1."""
SILENT = 0.01
"""Channels are divided as if they reached at least this share of the loudest one: silent ones may speak up later."""

Channels = NDArray[np.float32]


def smooth(file: Path, batches: Iterable[Mapping[str, NDArray[np.int64]]]) -> None:
    """Rewrites the ONNX graph in `file`; `batches` are inputs such as it will be given, at least one. Weights that
    several places share stay as they are."""
    model = onnx.load(file)
    uses = Counter(name for node in model.graph.node for name in node.input)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if uses[tensor.name] == 1}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            readers.setdefault(node.input[0], []).append(node)
    if not readers:
        return
    highest = _highest(file, list(readers), batches)
    for values, nodes in readers.items():
        _divide(model.graph, values, nodes, [weights[node.input[1]] for node in nodes], highest[values])
    onnx.save(model, file)


def _highest(file: Path, names: Sequence[str], batches: Iterable[Mapping[str, Any]]) -> dict[str, Channels]:
    """The largest magnitude of each channel of the values `names`."""
    model = onnx.load(file)
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: dict[str, Channels] = {}
    for batch in batches:
        for name, values in zip(names, session.run(list(names), dict(batch)), strict=True):
            magnitudes = np.abs(values).max(axis=(0, 1))
            found[name] = np.maximum(found.get(name, magnitudes), magnitudes)
    return found


def _divide(graph: Any, values: str, nodes: Sequence[Any], weights: Sequence[Any], highest: Channels) -> None:
    """Divides the channels of `values`, and multiplies the rows of the `weights` that `nodes` multiply them with."""
    matrices = [numpy_helper.to_array(tensor) for tensor in weights]
    largest = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
    scale = _at_least(highest) ** STRENGTH / _at_least(largest) ** (1 - STRENGTH)
    scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    factors, divided = f"{values}{SMOOTHING}_factors", f"{values}{SMOOTHING}"
    graph.initializer.append(numpy_helper.from_array(1 / scale, factors))
    graph.node.insert(
        next(place for place, node in enumerate(graph.node) if node.name == nodes[0].name),
        helper.make_node("Mul", [values, factors], [divided], name=divided),
    )
    for node, tensor, matrix in zip(nodes, weights, matrices, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(matrix * scale[:, None], tensor.name))
        node.input[0] = divided


def _at_least(magnitudes: Channels) -> Channels:
    raised: Channels = np.maximum(magnitudes, SILENT * (magnitudes.max() or 1))
    return raised
