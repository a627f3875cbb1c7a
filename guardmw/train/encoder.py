"""From a pretrained BERT-like sentence encoder to the int8 ONNX file and vocabulary of the embedded guard."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel, AutoTokenizer

__all__ = ["export_encoder", "export_vocabulary"]

OPSET = 17


class _MeanPooled(torch.nn.Module):
    """Unit-length mean of the last layer over all pieces but padding (Reimers & Gurevych, arXiv 1908.10084)."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask.unsqueeze(-1).to(states.dtype)
        return torch.nn.functional.normalize((states * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=-1)


def export_encoder(source: str, folder: Path) -> int:
    """Write ``encoder-fp32.onnx`` and ``encoder.onnx`` (int8) of the encoder `source` (a hub id or a folder) to
    `folder`; the dimensions of its vectors.

    Raises OSError (from transformers) when `source` can't be loaded.
    """
    model = _MeanPooled(AutoModel.from_pretrained(source, attn_implementation="eager")).eval()
    example = torch.tensor([[2, 1, 1, 3], [2, 1, 3, 0]])
    names = {0: "windows", 1: "pieces"}
    with warnings.catch_warnings():
        # The older exporter is deprecated, but its graph of this model is a sixth faster than the newer one's.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example, (example > 0).long()), str(folder / "encoder-fp32.onnx"),
            dynamo=False, opset_version=OPSET,
            input_names=["input_ids", "attention_mask"], output_names=["vectors"],
            dynamic_axes={"input_ids": names, "attention_mask": names, "vectors": {0: "windows"}},
        )  # fmt: skip
    # Seven of the eight bits: CPUs without VNNI add pairs of products in 16 bits, which would overflow.
    quantize_dynamic(
        folder / "encoder-fp32.onnx", folder / "encoder.onnx", per_channel=True, reduce_range=True,
        weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip
    return int(model.encoder.config.hidden_size)


def export_vocabulary(source: str, folder: Path) -> None:
    """Write ``vocab.txt``, one piece a line in the order of ids.

    Raises ValueError when the tokenizer of `source` is no uncased WordPiece.
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
    (folder / "vocab.txt").write_text("\n".join(ordered) + "\n", encoding="utf-8")
