"""What the embedded guard is trained on: labelled texts as word pieces, drawn so that no source teaches its style."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray

from guardmw.guard.encoder import Window
from guardmw.guard.lookalikes import as_read
from guardmw.guard.wordpiece import WordPiece
from guardmw.train.calls import live_text
from guardmw.train.dataset import Row, surface_of
from guardmw.train.pairs import CategoryText, label_matrix, unusable
from guardmw.train.written import WRITTEN
from guardmw.types import SURFACES

__all__ = [
    "ORDINARY",
    "Corpus",
    "Example",
    "at_most",
    "everyday",
    "read_example",
    "sample",
    "sort_out",
    "window_of",
]

ORDINARY = "benign_"
"""How the names of sources of ordinary texts begin."""
SHARES = {WRITTEN: 1.2, ORDINARY: 2.0}
"""How much more often texts of these sources are drawn than the square root of their number says."""
CONTENT, CONTEXT, STREAMED = 126, 32, 62
"""Word pieces of content, of what it answers, and of a stream's window."""
FIRST_WORDS = (4, 20)
"""How many pieces a stream's first check may hold."""
LONG_CHARS = 4000
"""Of a longer text only this much is turned into word pieces."""
SPLICED = 0.15
CUT_LATE = 0.75
"""From here on a prefix of a harmful text is taken to be harmful."""


@dataclass(frozen=True)
class Example:
    """A row as the encoder reads it; `kind` is its place among the corpus's kinds of labels."""

    row: Row
    content: list[int]
    context: list[int]
    kind: int = 0

    @property
    def surface(self) -> int:
        return SURFACES.index(surface_of(self.row.task) or "input")


def read_example(row: Row, words: WordPiece) -> Example:
    content = words.ids(as_read(live_text(row)[:LONG_CHARS]))
    context = words.ids(as_read(row.prompt[-LONG_CHARS:])) if row.task != "prompt" else []
    return Example(row, content, context[-CONTEXT:])


def sort_out(rows: Iterable[Row], own: Collection[str] = ()) -> tuple[list[Row], Counter[tuple[str, str]]]:
    """The rows that can be learned from, and how many others there are by reason and source; `own` as for
    `unusable`."""
    kept: list[Row] = []
    left_out: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if why := unusable(row, own):
            left_out[why, row.source] += 1
        else:
            kept.append(row)
    return kept, left_out


def sample(rows: Iterable[Row], limit: int, seed: int) -> list[Row]:
    """The rows that can be learned from, at most `limit` of each source."""
    return at_most(limit, sort_out(rows)[0], seed)


def at_most(limit: int, rows: Iterable[Row], seed: int) -> list[Row]:
    """Some `rows`, at most `limit` of each source."""
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    chosen = []
    for _, found in sorted(by_source.items()):
        random.Random(seed).shuffle(found)  # noqa: S311
        chosen += found[:limit]
    return chosen


def everyday(seed: int, frames_per_act: int = 3) -> list[Row]:
    """Harmless requests in the frames of harmful ones, put together from `everyday.yaml`."""
    content = yaml.safe_load((resources.files(__package__) / "everyday.yaml").read_text(encoding="utf-8"))
    rng = random.Random(seed)  # noqa: S311
    return [
        Row(id=f"everyday-{act}-{frame}", source="benign_everyday", task="prompt", policy="benign",
            content=frame.format(act), label="safe")
        for act in content["acts"]
        for frame in rng.sample(content["frames"], frames_per_act)
    ]  # fmt: skip


class Corpus:
    """Examples, their labels under every category, and the chance with which each is drawn; `unread` rows have no word
    piece and are no examples."""

    def __init__(self, rows: Sequence[Row], categories: Sequence[CategoryText], words: WordPiece) -> None:
        labels, kinds = label_matrix(rows, categories)
        self.labels: NDArray[np.int8] = labels
        read = (read_example(row, words) for row in rows)
        self.examples = [
            Example(example.row, example.content, example.context, kind)
            for example, kind in zip(read, kinds, strict=True)
            if example.content
        ]
        self.unread = len(rows) - len(self.examples)
        self.unsafe = np.array([example.row.unsafe for example in self.examples])
        self._chances = [_chances(self.examples, self.unsafe == side) for side in (False, True)]

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Places of `count` examples, about half of them unsafe."""
        unsafe = int(rng.binomial(count, 0.5))
        drawn = [
            rng.choice(len(self.examples), size=size, p=chances)
            for size, chances in zip((count - unsafe, unsafe), self._chances, strict=True)
        ]
        return rng.permutation(np.concatenate(drawn))

    def draw_safe(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Places of `count` harmless examples."""
        return rng.choice(len(self.examples), size=count, p=self._chances[0])


def _chances(examples: Sequence[Example], among: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A source weighs with the square root of its size: large ones count more, but none drowns the others."""
    groups = [(example.row.source, example.row.task) for example in examples]
    counts = Counter(group for group, chosen in zip(groups, among, strict=True) if chosen)
    weights = np.array([
        counts[group] ** -0.5 * _share(group[0]) if chosen else 0.0
        for group, chosen in zip(groups, among, strict=True)
    ])  # fmt: skip
    return weights / (weights.sum() or 1.0)


def _share(source: str) -> float:
    return next((share for start, share in SHARES.items() if source.startswith(start)), 1.0)


def window_of(example: Example, other: Example, rng: random.Random) -> Window:
    """A window of `example` as a guard may meet it: whole, as the first words of a stream, as a stream's later window,
    or beside a piece of the harmless text `other`."""
    content, context = example.content, example.context
    if rng.random() < SPLICED and len(content) < CONTENT - FIRST_WORDS[1]:
        return Window(_spliced(content, other.content, rng), context)
    if example.row.unsafe:
        if rng.random() < SPLICED and len(content) <= CONTENT:
            content = content[: rng.randint(int(len(content) * CUT_LATE), len(content))] or content
        return Window(content[:CONTENT], context)
    match rng.random():
        case chance if chance < 0.15:
            content = content[: rng.randint(*FIRST_WORDS)]
        case chance if chance < 0.35 and len(content) > STREAMED:
            start = rng.randrange(len(content) - STREAMED + 1)
            content = content[start : start + STREAMED]
    return Window(content[:CONTENT], context)


def _spliced(content: list[int], other: list[int], rng: random.Random) -> list[int]:
    room = rng.randint(FIRST_WORDS[0], min(CONTENT - len(content), STREAMED))
    if rng.random() < 0.5:
        return other[-room:] + content
    return content + other[:room]
