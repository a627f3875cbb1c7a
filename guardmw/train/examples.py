"""From rows to what the head is trained and measured on: windows, their vectors, and labels under every category."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray

from guardmw.guard.encoder import Windows
from guardmw.guard.wordpiece import WordPiece
from guardmw.train.dataset import Row, surface_of
from guardmw.train.head import TrainingSet
from guardmw.train.pairs import TOPICAL, UNKNOWN, CategoryText, label_matrix, usable
from guardmw.train.vectors import VectorCache
from guardmw.types import SURFACES

__all__ = ["BENIGN", "WINDOWS", "Examples", "encoded", "everyday", "sample", "training_set", "windows_of"]

WINDOWS = Windows(size=128, overlap=32, stream_size=64, look_back=8)
TOPIC_COSINE = 0.3
"""From here on a harmless text may be about a topic that some policies forbid."""
BENIGN = "benign_"
BENIGN_WEIGHT = 3.0
FIRST_WORDS = (5, 20)
"""How many pieces a stream's first check may hold."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """Windows of rows, side by side with the rows they were cut from, their vectors and their labels."""

    rows: Sequence[Row]
    vectors: Vectors
    labels: NDArray[np.int8]

    @property
    def surfaces(self) -> NDArray[np.int64]:
        return np.array([SURFACES.index(surface_of(row.task) or "input") for row in self.rows])

    @property
    def sources(self) -> NDArray[np.str_]:
        return np.array([row.source for row in self.rows])

    @property
    def unsafe(self) -> NDArray[np.bool_]:
        return np.array([row.unsafe for row in self.rows])


def sample(rows: Iterable[Row], limit: int, seed: int) -> list[Row]:
    """The usable rows, at most `limit` of each source; the benign ones all: there is never enough harmless text."""
    by_source: dict[str, list[Row]] = {}
    for row in filter(usable, rows):
        by_source.setdefault(row.source, []).append(row)
    chosen = []
    for source, found in sorted(by_source.items()):
        random.Random(seed).shuffle(found)  # noqa: S311
        chosen += found if source.startswith(BENIGN) else found[:limit]
    return chosen


def everyday(seed: int, frames_per_act: int = 6) -> list[Row]:
    """Harmless requests in the frames of harmful ones, put together from `everyday.yaml`."""
    content = yaml.safe_load((resources.files(__package__) / "everyday.yaml").read_text(encoding="utf-8"))
    rng = random.Random(seed)  # noqa: S311
    return [
        Row(id=f"everyday-{act}-{frame}", source="benign_everyday", task="prompt", policy="benign",
            content=frame.format(act), label="safe")
        for act in content["acts"]
        for frame in rng.sample(content["frames"], frames_per_act)
    ]  # fmt: skip


def encoded(
    rows: Sequence[Row],
    texts: Sequence[CategoryText],
    categories: Vectors,
    words: WordPiece,
    cache: VectorCache,
    seed: int,
) -> Examples:
    cut = [(row, window) for row in rows for window in windows_of(row, words.ids(row.content), seed)]
    kept = [row for row, _ in cut]
    vectors = cache.of([window for _, window in cut])
    labels = label_matrix(kept, texts)
    topical = np.array([category.themes <= TOPICAL for category in texts])
    safe = np.array([not row.unsafe for row in kept])
    labels[(vectors @ categories.T > TOPIC_COSINE) & topical[None, :] & safe[:, None]] = UNKNOWN
    return Examples(kept, vectors, labels)


def windows_of(row: Row, ids: list[int], seed: int) -> list[list[int]]:
    """The first window of a text; of a safe one also its first words, as a stream's first check has them, and a
    stream's window from anywhere inside, since any piece of a safe text is safe."""
    size, piece = WINDOWS.size - 2, WINDOWS.stream_size - 2
    rng = random.Random(f"{seed}{row.id}")  # noqa: S311
    windows = [ids[:size]] if ids else []
    if not row.unsafe and len(ids) > piece:
        start = rng.randrange(len(ids) - piece + 1)
        windows.append(ids[start : start + piece])
    if row.source.startswith(BENIGN) and len(ids) > FIRST_WORDS[1]:
        windows.append(ids[: rng.randint(*FIRST_WORDS)])
    return windows


def training_set(examples: Examples, categories: Vectors) -> TrainingSet:
    """A source weighs with the square root of its size: large ones count more, but none drowns the others."""
    counts = Counter(row.source for row in examples.rows)
    weights = [
        counts[row.source] ** -0.5 * (BENIGN_WEIGHT if row.source.startswith(BENIGN) else 1) for row in examples.rows
    ]
    return TrainingSet(
        texts=examples.vectors, categories=categories, labels=examples.labels, surfaces=examples.surfaces,
        unsafe=examples.unsafe, weights=np.array(weights, dtype=np.float32),
    )  # fmt: skip
