"""The embedded guard's encoder as a model folder that vLLM serves: `guardmw guard export`.

The int8 weights are put back into float32 (every number what the quantised graph multiplies with; what training moved
from values into weights is moved back), under the names that BERT has in transformers
(https://huggingface.co/docs/transformers/model_doc/bert); the head stays with the client. Needs numpy alone.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardmw.errors import GuardConfigError
from guardmw.guard.encoder import MANIFEST
from guardmw.guard.onnx_file import Graph, read_graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = NDArray[np.float32]

__all__ = ["bert_weights", "export_encoder", "safetensors"]

PARAMETER = re.compile(r"((?:embeddings|encoder\.layer\.\d+)\..+)")
MATRIX = re.compile(r"(encoder/layer\.\d+/(?:attention/self|attention/output|intermediate|output)/\w+)/MatMul")
QUANTIZED = "_quantized"
SMOOTHING = "_smoothed"
"""What the names of values end with whose channels training divided, for int8's sake (`guardmw.train.smoothing`)."""
MULTIPLICATIONS = ("MatMulInteger", "MatMul")
TOKENIZER = {
    "tokenizer_class": "BertTokenizer", "do_lower_case": True, "unk_token": "[UNK]", "sep_token": "[SEP]",
    "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip


def export_encoder(weights: Path, out: Path) -> str:
    """Writes the model folder `out` for the encoder in the folder of weights `weights`; returns its version.

    Beside the model (``config.json``, ``model.safetensors``, the tokenizer) stand the files of `weights`, so that `out`
    serves as both. Raises GuardConfigError when `weights` can't be used, isn't a BERT encoder, or `out` is not empty.
    """
    from guardmw.guard.encoder import load_model

    version = load_model(weights, threads=1).manifest.version  # every file is verified
    parameters, config = _bert(weights / "encoder.onnx")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise GuardConfigError(f"{out} is not empty; name a new folder")
        for name in (MANIFEST, "encoder.onnx", "head.onnx", "vocab.txt"):
            shutil.copy(weights / name, out / name)
        (out / "model.safetensors").write_bytes(safetensors(parameters))
        length = config["max_position_embeddings"]
        for name, content in (
            ("config.json", config),
            ("tokenizer_config.json", {**TOKENIZER, "model_max_length": length}),
        ):
            (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise GuardConfigError(f"{out} can't be written: {error.strerror}; name a folder of yours") from error
    return version


def _bert(encoder: Path) -> tuple[dict[str, Weights], dict[str, Any]]:
    try:
        graph = read_graph(encoder)
        parameters = bert_weights(graph)
        return parameters, _config(graph, parameters)
    except (ValueError, KeyError, StopIteration) as error:
        raise GuardConfigError(f"{encoder} can't be exported: it is no BERT encoder ({error})") from error


def bert_weights(graph: Graph) -> dict[str, Weights]:
    """The parameters of the BERT in `graph`, float32, by the names transformers gives them (without ``bert.``)."""
    found: dict[str, Weights] = {}
    for name in graph.tensors:
        plain = name.removesuffix(QUANTIZED)
        if (match := PARAMETER.search(plain)) and plain.endswith((".weight", ".bias")):
            found[match[1]] = _dequantized(graph, plain)
    for node in graph.nodes:
        if node.operator in MULTIPLICATIONS and (match := MATRIX.search(node.outputs[0])):
            matrix = _dequantized(graph, node.inputs[1].removesuffix(QUANTIZED)) * _divisors(graph, node.inputs[0])
            # A linear layer of torch keeps its matrix as outputs x inputs.
            found[match[1].replace("/", ".") + ".weight"] = matrix.T
    return found


def _divisors(graph: Graph, values: str) -> Weights | float:
    """What the channels of `values` are multiplied with before they meet a matrix, as a column."""
    plain = values.removesuffix(QUANTIZED)
    return graph.tensors[f"{plain}_factors"][:, None] if plain.endswith(SMOOTHING) else 1.0


def _dequantized(graph: Graph, name: str) -> Weights:
    import numpy as np

    if name in graph.tensors:
        return graph.tensors[name].astype(np.float32)
    values, zero, scale = (graph.tensors[f"{name}_{part}"] for part in ("quantized", "zero_point", "scale"))
    weights: Weights = (values.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
    return weights


def _config(graph: Graph, parameters: dict[str, Weights]) -> dict[str, Any]:
    """`config.json`: sizes as the parameters have them, the rest as the graph computes it."""
    words, positions = (parameters[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position"))
    layers = {match[1] for name in parameters if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    norm = next(node for node in graph.nodes if node.operator == "LayerNormalization")
    return {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "dtype": "float32",
        "vocab_size": words.shape[0], "hidden_size": words.shape[1], "max_position_embeddings": positions.shape[0],
        "num_hidden_layers": len(layers), "num_attention_heads": words.shape[1] // _head_size(graph),
        "intermediate_size": parameters["encoder.layer.0.intermediate.dense.weight"].shape[0],
        "type_vocab_size": parameters["embeddings.token_type_embeddings.weight"].shape[0],
        "layer_norm_eps": round(float(norm.attributes.get("epsilon", 1e-5)), 15), "pad_token_id": 0,
    }  # fmt: skip


def _head_size(graph: Graph) -> int:
    """How long the pieces are that the queries are cut into: the last number of the shape they get."""
    by_output = {output: node for node in graph.nodes for output in node.outputs}
    query = next(output for output in by_output if output.endswith("attention/self/query/Add_output_0"))
    cut = next(node for node in graph.nodes if node.operator == "Reshape" and node.inputs[0] == query)
    shape = cut.inputs[1]
    last = shape if shape in graph.tensors else by_output[shape].inputs[-1]
    return int(graph.tensors[last].ravel()[-1])


def safetensors(tensors: dict[str, Weights]) -> bytes:
    """`tensors` in the format of https://github.com/huggingface/safetensors: a JSON header, then the numbers."""
    import numpy as np

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, place = [], 0
    for name, tensor in tensors.items():
        part = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, place + len(part)]}
        parts.append(part)
        place += len(part)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(parts)
