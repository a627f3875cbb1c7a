"""What training runs learned: read from their files, averaged, and told apart by digests.

Runs from the same pretrained encoder can be averaged number by number, with each other (model soups, Wortsman et al.,
arXiv 2203.05482) and with the encoder as it was (WiSE-FT, Wortsman et al., arXiv 2109.01903), which may judge texts
unlike those of training better. `docs/embedded-guard.md` says what it did for the shipped weights.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from guardmw.train.corpus import Corpus
from guardmw.train.pairs import CategoryText

__all__ = ["DAMAGE", "State", "averaged", "categories_digest", "digest", "keep", "read_state", "texts_digest"]

State = Mapping[str, torch.Tensor]

DAMAGE = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, IndexError, AttributeError)
"""What torch raises over a file that is cut off or none of its own."""


def read_state(file: Path, device: torch.device) -> dict[str, Any]:
    """What was saved to `file`. Raises OSError when it can't be read, one of `DAMAGE` when it is none of torch's."""
    state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    return state


def keep(file: Path, state: Mapping[str, Any]) -> None:
    """Write `state`; who looks meanwhile finds the old file or the new one, whole."""
    partial = file.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(file)


def averaged(states: Sequence[State], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """The mean of `states`, each with its share; the shares sum to 1. Whole numbers are the first one's. Raises
    KeyError or RuntimeError when their parts differ."""
    return {
        name: sum((state[name] * share for state, share in zip(states[1:], shares[1:], strict=True)), value * shares[0])
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def digest(module: torch.nn.Module) -> str:
    """Of all its numbers."""
    return _digest(
        tensor.flatten().view(torch.uint8).cpu().numpy().tobytes() for tensor in module.state_dict().values()
    )


def texts_digest(corpus: Corpus) -> str:
    """Of what is learned: the texts in word pieces, in their order, and their labels."""
    examples = (
        repr((each.row.source, each.row.task, each.row.unsafe, each.kind, each.content, each.context)).encode()
        for each in corpus.examples
    )
    return _digest([*examples, corpus.labels.tobytes()])


def categories_digest(categories: Iterable[CategoryText]) -> str:
    return _digest(category.text.encode() for category in categories)


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()
