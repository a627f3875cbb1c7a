"""The head: one logit for a pair of content and category, read off the content's pieces."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from guardmw.types import SURFACES

__all__ = ["Head", "export_head"]

INPUTS = ["tokens", "mask", "categories", "unsafe", "safe", "surface"]
OPSET = 17
SCALE = 20.0
"""Unit vectors of 384 dimensions have components of a twentieth; layers want them near one."""


class Head(nn.Module):
    """Scores windows (rows) under categories (columns).

    Late interaction: every category looks at the pieces of the text through an attention of its own, so that a few
    words in a long window are enough (cf. Khattab & Zaharia, ColBERT, arXiv 2004.12832). A pair is described by what
    that category saw, what the category is, what the text is as a whole and at its most salient piece, the cosines of
    the whole and of the closest piece with the category, the cosines with the nearest precedents, and how harmful the
    text is under no policy at all.
    """

    def __init__(self, dimensions: int, space: int = 128, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.salience = nn.Linear(dimensions, 1)
        self.text = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * dimensions + len(SURFACES), 256), nn.GELU(), nn.Dropout(dropout)
        )
        self.harm = nn.Linear(256, 1)
        self.key = nn.Linear(dimensions, space, bias=False)
        self.value = nn.Linear(dimensions, space, bias=False)
        self.query = nn.Linear(dimensions, space, bias=False)
        self.category = nn.Linear(dimensions, space, bias=False)
        self.from_text = nn.Linear(256, hidden)
        self.from_category = nn.Linear(space, hidden)
        self.from_pair = nn.Linear(2 * space + 5, hidden)
        self.noise = nn.Dropout(dropout)
        self.out = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        categories: torch.Tensor,
        unsafe: torch.Tensor,
        safe: torch.Tensor,
        surface: torch.Tensor,
    ) -> torch.Tensor:
        return self.both(tokens, mask, categories, unsafe, safe, surface.expand(tokens.shape[0], -1))[0]

    def both(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        categories: torch.Tensor,
        unsafe: torch.Tensor,
        safe: torch.Tensor,
        surfaces: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits of the pairs (windows x categories), and of each text being harmful at all (windows).

        `tokens` are the encoder's states (windows x pieces x dimensions), `mask` 1 on the pieces that are judged,
        `categories` unit vectors, `unsafe` and `safe` cosines with the nearest precedents (windows x categories),
        `surfaces` one-hot (windows x surfaces).
        """
        hidden_pieces = (mask - 1) * 1e4
        whole = unit_mean(tokens, mask)
        salient = torch.softmax(self.salience(tokens).squeeze(2) + hidden_pieces, dim=1).unsqueeze(1) @ tokens
        text = self.text(torch.cat([whole * SCALE, salient.squeeze(1), surfaces], dim=1))
        harm = self.harm(text)

        keys = self.key(tokens)
        relevance = torch.einsum("cs,wps->wcp", self.query(categories * SCALE), keys) / keys.shape[-1] ** 0.5
        seen = torch.softmax(relevance + hidden_pieces.unsqueeze(1), dim=2) @ self.value(tokens)
        category = self.category(categories * SCALE)

        pieces = nn.functional.normalize(tokens, dim=2)
        closest = (torch.einsum("wpd,cd->wcp", pieces, categories) + hidden_pieces.unsqueeze(1)).amax(2)
        cosine = whole @ categories.T
        scalars = torch.stack(
            [cosine * 4, closest * 4, unsafe * 4, safe * 4, harm.expand(-1, categories.shape[0]) / 4], dim=2
        )
        products = seen * category.unsqueeze(0)
        pair = self.from_pair(torch.cat([self.noise(products), self.noise(seen), scalars], dim=2))
        hidden = pair + self.from_text(text).unsqueeze(1) + self.from_category(self.noise(category)).unsqueeze(0)
        return self.out(hidden).squeeze(2), harm.squeeze(1)


def unit_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Unit-length means over the pieces where `mask` is 1 (Reimers & Gurevych, arXiv 1908.10084)."""
    kept = mask.unsqueeze(2)
    return nn.functional.normalize((tokens * kept).sum(1) / kept.sum(1).clamp(min=1), dim=1)


def export_head(head: Head, file: Path) -> None:
    """Write `head` as ONNX; the number of windows, pieces and categories stays free."""
    windows, pieces, categories = 3, 7, 2
    dimensions = head.key.in_features
    example = (
        torch.randn(windows, pieces, dimensions), torch.ones(windows, pieces), torch.randn(categories, dimensions),
        torch.zeros(windows, categories), torch.zeros(windows, categories), torch.zeros(len(SURFACES)),
    )  # fmt: skip
    pairs = {0: "windows", 1: "categories"}
    texts = {0: "windows", 1: "pieces"}
    torch.onnx.export(
        head, example, str(file), dynamo=False, opset_version=OPSET, input_names=INPUTS, output_names=["logits"],
        dynamic_axes={"tokens": texts, "mask": texts, "categories": {0: "categories"}}
        | dict.fromkeys(("unsafe", "safe", "logits"), pairs),
    )  # fmt: skip
