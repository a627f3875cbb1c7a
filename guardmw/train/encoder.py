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

from guardmw.errors import GuardmwError
from guardmw.train.smoothing import smooth

__all__ = ["EncoderError", "export_encoder", "load_encoder"]

OPSET = 17


class EncoderError(GuardmwError):
    """There is no encoder to build on where one was named; says why."""


def load_encoder(source: str, vocabulary: Path) -> Any:
    """The BERT-like encoder `source` (a hub id or a folder), without dropout. Its tokenizer's pieces go to the file
    `vocabulary`, one a line in the order of ids. Raises EncoderError when there is none that can be used."""
    try:
        encoder = AutoModel.from_pretrained(source, attn_implementation="eager")
        pieces = _pieces(source)
    except (OSError, ValueError) as error:
        raise EncoderError(f"the encoder {source!r} can't be used: {error}") from error
    vocabulary.write_text("\n".join(pieces) + "\n", encoding="utf-8")
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


def _pieces(source: str) -> list[str]:
    """The pieces of `source`'s tokenizer in the order of ids. Raises ValueError when it is no uncased WordPiece."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    pieces = tokenizer.get_vocab()
    ordered = sorted(pieces, key=pieces.__getitem__)
    if "[UNK]" not in pieces or tokenizer.tokenize("Hello") != tokenizer.tokenize("hello"):
        raise ValueError("it has no uncased WordPiece tokenizer, which is the only kind the embedded guard reads")
    if [pieces[piece] for piece in ordered] != list(range(len(ordered))):
        raise ValueError("its vocabulary has gaps")
    return ordered
