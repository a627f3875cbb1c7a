"""The pretrained sentence encoder under the embedded guard: loading it, and writing it as int8 ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel, AutoTokenizer

from guardmw.train.smoothing import smooth

__all__ = ["export_encoder", "load_encoder", "write_vocabulary"]

OPSET = 17


def load_encoder(source: str) -> Any:
    """The BERT-like encoder `source` (a hub id or a folder), without dropout. Raises OSError when there is none."""
    encoder = AutoModel.from_pretrained(source, attn_implementation="eager")
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return encoder


class _States(torch.nn.Module):
    """The last layer's states, and nothing else."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def export_encoder(encoder: Any, folder: Path, batches: Iterable[Mapping[str, NDArray[np.int64]]]) -> None:
    """Write ``encoder-fp32.onnx`` and ``encoder.onnx`` (int8) to `folder`; `batches` are inputs such as it will get,
    by which int8 is fitted."""
    example = torch.tensor([[2, 1, 1, 3], [2, 1, 3, 0]])
    names = {0: "windows", 1: "pieces"}
    with warnings.catch_warnings():
        # The older exporter is deprecated, but its graph of this model is a sixth faster than the newer one's.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _States(encoder).eval(), (example, (example > 0).long()), str(folder / "encoder-fp32.onnx"),
            dynamo=False, opset_version=OPSET,
            input_names=["input_ids", "attention_mask"], output_names=["tokens"],
            dynamic_axes={"input_ids": names, "attention_mask": names, "tokens": names},
        )  # fmt: skip
    smooth(folder / "encoder-fp32.onnx", batches)
    # Seven of the eight bits: CPUs without VNNI add pairs of products in 16 bits, which would overflow.
    quantize_dynamic(
        folder / "encoder-fp32.onnx", folder / "encoder.onnx", per_channel=True, reduce_range=True,
        weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip


def write_vocabulary(source: str, file: Path) -> None:
    """Write the pieces of `source`'s tokenizer, one a line in the order of ids.

    Raises ValueError when it is no uncased WordPiece.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    pieces = tokenizer.get_vocab()
    ordered = sorted(pieces, key=pieces.__getitem__)
    if "[UNK]" not in pieces or tokenizer.tokenize("Hello") != tokenizer.tokenize("hello"):
        raise ValueError(
            f"{source}: not an uncased WordPiece tokenizer, which is the only kind the embedded guard reads"
        )
    if [pieces[piece] for piece in ordered] != list(range(len(ordered))):
        raise ValueError(f"{source}: the vocabulary has gaps")
    file.write_text("\n".join(ordered) + "\n", encoding="utf-8")
