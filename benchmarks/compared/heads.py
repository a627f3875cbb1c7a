"""Heads over a frozen sentence encoder, trained on the same batches and judged on the same texts."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from guardmw.guard.embedded import category_text
from guardmw.guard.encoder import Window
from guardmw.guard.wordpiece import WordPiece
from guardmw.policy.load import load_policies
from guardmw.train.corpus import CONTENT, ORDINARY, Corpus
from guardmw.train.embedded import Settings, gathered
from guardmw.train.encoder import load_encoder
from guardmw.train.head import SCALE, Head, unit_mean
from guardmw.train.loss import losses_of
from guardmw.train.pairs import NO, YES, CategoryText
from guardmw.train.tuning import Tuner, Tuning
from guardmw.types import SURFACES

__all__ = ["HEADS", "compare", "judged", "tell"]

FALSE_POSITIVES = 0.03
READ_AT_ONCE = 32
JUDGED, PAIRED = 2400, 600
"""So many texts of dev are judged under the policy, and so many of them under all categories of training."""


class Pooled(nn.Module):
    """The usual one: the mean vectors of text and category, their product and their cosines, and two layers."""

    def __init__(self, dimensions: int, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.text = nn.Linear(dimensions + len(SURFACES), hidden)
        self.category = nn.Linear(dimensions, hidden)
        self.pair = nn.Linear(dimensions + 3, hidden)
        self.harm = nn.Linear(hidden, 1)
        self.out = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 64), nn.GELU(), nn.Linear(64, 1))

    def both(
        self, tokens: torch.Tensor, mask: torch.Tensor, categories: torch.Tensor, unsafe: torch.Tensor,
        safe: torch.Tensor, surfaces: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        whole = unit_mean(tokens, mask)
        text = self.text(torch.cat([whole * SCALE, surfaces], dim=1))
        product = whole.unsqueeze(1) * categories.unsqueeze(0) * SCALE**2
        cosines = torch.stack([whole @ categories.T, unsafe, safe], dim=2) * 4
        pair = self.pair(torch.cat([product, cosines], dim=2))
        hidden = pair + text.unsqueeze(1) + self.category(categories * SCALE)
        return self.out(hidden).squeeze(2), self.harm(text).squeeze(1)


class PerPiece(nn.Module):
    """A risk for every piece under every category, of which the highest counts: the one that could tell the onset of
    a violation, as guards of streams with token-level heads do."""

    def __init__(self, dimensions: int, space: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.piece = nn.Sequential(nn.Linear(dimensions, space), nn.GELU(), nn.Dropout(dropout))
        self.category = nn.Linear(dimensions, space)
        self.surface = nn.Linear(len(SURFACES), space)
        self.out = nn.Linear(space, 1)
        self.cosines = nn.Linear(3, 1)
        self.harm = nn.Linear(space, 1)

    def both(
        self, tokens: torch.Tensor, mask: torch.Tensor, categories: torch.Tensor, unsafe: torch.Tensor,
        safe: torch.Tensor, surfaces: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        pieces = self.piece(tokens) + self.surface(surfaces).unsqueeze(1)
        hidden_pieces = (mask - 1) * 1e4
        category = self.category(categories * SCALE) * self.out.weight
        risks = torch.einsum("wps,cs->wcp", pieces, category) + hidden_pieces.unsqueeze(1)
        cosines = torch.stack([unit_mean(tokens, mask) @ categories.T, unsafe, safe], dim=2) * 4
        harm = (self.harm(pieces).squeeze(2) + hidden_pieces).amax(1)
        return risks.amax(2) + self.cosines(cosines).squeeze(2) + self.out.bias, harm


HEADS = {"late interaction (shipped)": Head, "pooled": Pooled, "per piece": PerPiece}


def trained(tuner: Tuner, dimensions: int, steps: int) -> dict[str, nn.Module]:
    """Every head after `steps` batches; the encoder stays as it is."""
    heads = {name: kind(dimensions).to(tuner.device) for name, kind in HEADS.items()}
    optimizers = [torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.01) for head in heads.values()]
    schedules = [torch.optim.lr_scheduler.LinearLR(each, 1.0, 0.02, steps) for each in optimizers]
    batches = tuner.batches(steps)
    for step in range(steps):
        with torch.no_grad():
            batch = next(batches)
        answers = [head.both(*batch.inputs) for head in heads.values()]
        losses = [losses_of(logits, harm, batch.labels, batch.unsafe).mean() for logits, harm in answers]
        for loss, optimizer, schedule in zip(losses, optimizers, schedules, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if (step + 1) % max(1, steps // 20) == 0:
            shown = ", ".join(f"{name} {loss.item():.3f}" for name, loss in zip(heads, losses, strict=True))
            tell(f"step {step + 1} of {steps}: {shown}")
    return {name: head.eval() for name, head in heads.items()}


@torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
def judged(tuner: Tuner, heads: dict[str, nn.Module], dev: Corpus, texts: Sequence[CategoryText]) -> dict[str, Any]:
    """By head, its figures on the texts of `dev`."""
    words = tuner.words
    base = load_policies("base").policies["base"]
    under_base = encoded(tuner, [Window(words.ids(category_text(each))[:CONTENT]) for each in base.categories])
    in_training = encoded(tuner, [Window(words.ids(each.text)[:CONTENT]) for each in texts])
    order = np.random.default_rng(0).permutation(len(dev.examples))[:JUDGED]
    highest: dict[str, list[float]] = {name: [] for name in heads}
    pairs: dict[str, list[Any]] = {name: [] for name in heads}
    vectors = []
    for start in range(0, len(order), READ_AT_ONCE):
        examples = [dev.examples[place] for place in order[start : start + READ_AT_ONCE]]
        tokens, mask = tuner.encode([Window(each.content[:CONTENT], each.context) for each in examples])
        surfaces = nn.functional.one_hot(torch.tensor([each.surface for each in examples]), len(SURFACES))
        surfaces = surfaces.float().to(tuner.device)
        vectors.append(unit_mean(tokens, mask).cpu().numpy())
        for name, head in heads.items():
            highest[name] += scores(head, tokens, mask, under_base, surfaces).amax(1).tolist()
            if start < PAIRED:
                pairs[name].append(scores(head, tokens, mask, in_training, surfaces).cpu().numpy())
    kinds = [dev.examples[place].kind for place in order]
    benign = np.array([dev.examples[place].row.source.startswith(ORDINARY) for place in order])
    alike = mean_cosine(np.concatenate(vectors)[benign])
    return {
        name: figures(np.array(highest[name]), dev.unsafe[order], benign)
        | pair_figures(np.concatenate(pairs[name]), dev.labels[kinds])
        | {"alike": alike, "parameters": sum(each.numel() for each in heads[name].parameters())}
        for name in heads
    }


def mean_cosine(vectors: Any) -> float:
    """Of two different ones of the unit `vectors`: 1 where all texts are the same to the encoder."""
    count = len(vectors)
    return float((np.square(vectors.sum(axis=0)).sum() - count) / (count * (count - 1)))


def figures(logits: Any, unsafe: Any, benign: Any) -> dict[str, float]:
    """How well the highest logits of texts tell the unsafe ones."""
    over = logits >= np.quantile(logits[benign], 1 - FALSE_POSITIVES)
    return {
        "auroc": float(roc_auc_score(unsafe, logits)),
        "recall": float(over[unsafe].mean()),
        "fpr": float(over[~unsafe].mean()),
        "lookalikes": float(over[~unsafe & ~benign].mean()),
    }


def pair_figures(logits: Any, labels: Any) -> dict[str, float]:
    """How well the logits of the first texts under all categories tell what they fall under."""
    labels = labels[: len(logits)]
    known = (labels == YES) | (labels == NO)
    return {"pairs_auroc": float(roc_auc_score(labels[known] == YES, logits[known]))}


def scores(
    head: nn.Module, tokens: torch.Tensor, mask: torch.Tensor, categories: torch.Tensor, surfaces: torch.Tensor
) -> torch.Tensor:
    none = torch.zeros(len(tokens), len(categories), device=tokens.device)
    logits: torch.Tensor = head.both(tokens, mask, categories, none, none, surfaces)[0]
    return logits


def encoded(tuner: Tuner, windows: list[Window]) -> torch.Tensor:
    parts = [
        unit_mean(*tuner.encode(windows[start : start + READ_AT_ONCE]))
        for start in range(0, len(windows), READ_AT_ONCE)
    ]
    return torch.cat(parts)


def tell(line: str) -> None:
    print(f"{time.strftime('%X')} {line}", file=sys.stderr)


def compare(data: Path, source: str, folder: Path, tuning: Tuning, limit: int) -> dict[str, Any]:
    """The figures of every head over the encoder `source`, by name; `folder` is for the vocabulary."""
    torch.manual_seed(0)
    encoder = load_encoder(source, folder / "vocab.txt").eval()
    words = WordPiece((folder / "vocab.txt").read_text("utf-8"))
    texts, train, dev = gathered(Settings(data, folder, source, "heads", tuning, limit=limit), words, tell)
    tuner = Tuner(encoder, train, texts, words, tuning)
    return judged(tuner, trained(tuner, encoder.config.hidden_size, tuning.steps), dev, texts)
