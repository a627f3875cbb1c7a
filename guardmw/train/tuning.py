"""Fine-tuning the encoder and the head together, on pairs of texts and categories.

Every step draws texts and categories anew: categories are encoded by the same encoder while it learns, so what is
learned is what descriptions mean. A share of the categories says nothing in its text; only precedents tell what it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from guardmw.guard.encoder import Window, sequence
from guardmw.guard.wordpiece import WordPiece
from guardmw.train.corpus import Corpus, window_of
from guardmw.train.head import Head, unit_mean
from guardmw.train.loss import losses_of
from guardmw.train.pairs import NO, YES, CategoryText
from guardmw.train.states import (
    DAMAGE,
    State,
    averaged,
    categories_digest,
    digest,
    keep,
    read_state,
    texts_digest,
)
from guardmw.types import SURFACES

__all__ = ["Batch", "Tuner", "Tuning", "padded"]

ELSEWHERE = 0.15
"""Policies judge the same words on every surface: a text is sometimes met where its source never had it."""
PRECEDENT_SHARE, NAMELESS_SHARE = 0.4, 0.08
"""How often a category has precedents, and how often it has nothing else."""
NAMELESS = "Texts like the examples. The text is of the kind that the examples show."
PRECEDENT_POOL = 16
POOL_BATCHES = 16
"""Texts are sorted by length within so many batches."""
SAVE_STEPS = 160

Tell = Callable[[int, float], None]


@dataclass(frozen=True)
class Tuning:
    """`steps` of `batch` texts and `columns` categories; `encoder_rate` and `head_rate` are the highest learning
    rates (AdamW, linear warm-up over a twentieth of the steps, then linear decay), before `rate` scales them. With
    `head_only` the encoder stays as it begins."""

    steps: int
    batch: int = 48
    columns: int = 48
    encoder_rate: float = 1e-4
    head_rate: float = 2e-3
    rate: float = 1.0
    seed: int = 0
    head_only: bool = False


class Batch(NamedTuple):
    """What the head is given for some texts and categories, as `Head.both` takes it, what it should say, and the
    texts' places in the corpus."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    unsafe: torch.Tensor
    rows: NDArray[np.int64]


class Tuner:
    """One training run; `save` and `load` make it resumable at any step. `settings` are further ones that a run which
    goes on must share."""

    def __init__(
        self, encoder: Any, corpus: Corpus, categories: Sequence[CategoryText], words: WordPiece, tuning: Tuning,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(tuning.seed)
        self._run = {
            **asdict(tuning), **(settings or {}), "start": "", "encoder's weights": digest(encoder),
            "texts": texts_digest(corpus), "categories": categories_digest(categories),
        }  # fmt: skip
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = encoder.to(self.device)
        self.encoder.requires_grad_(not tuning.head_only)
        # Rare words keep their meaning, and half the parameters need no optimiser.
        self.encoder.embeddings.word_embeddings.weight.requires_grad = False
        self.head = Head(encoder.config.hidden_size).to(self.device)
        self._corpus, self.words, self._tuning = corpus, words, tuning
        self._texts = [Window(words.ids(category.text)[:96]) for category in categories]
        self._nameless = Window(words.ids(NAMELESS))
        self._optimizer = torch.optim.AdamW([
            {"params": [p for p in encoder.parameters() if p.requires_grad], "lr": tuning.encoder_rate * tuning.rate},
            {"params": self.head.parameters(), "lr": tuning.head_rate * tuning.rate},
        ], weight_decay=0.01)  # fmt: skip
        warm = max(1, tuning.steps // 20)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min((step + 1) / warm, max(0.02, (tuning.steps - step) / tuning.steps))
        )
        self.step = 0

    def run(self, tell: Tell, save: Callable[[], None]) -> None:
        """Train to the last step; `save` is called now and then."""
        self.encoder.train()
        self.head.train()
        while self.step < self._tuning.steps:
            # Chance begins anew with every pool: a run that goes on from a checkpoint ends as a whole one does.
            rng = np.random.default_rng((self._tuning.seed, self.step))
            torch.manual_seed(int(rng.integers(1 << 62)))
            for windows, rows in self._pool(rng, min(POOL_BATCHES, self._tuning.steps - self.step)):
                batch = self._batch(windows, rows, rng)
                logits, harm = self.head.both(*batch.inputs)
                loss = losses_of(logits, harm, batch.labels, batch.unsafe).mean()
                self.learn(loss)
                self.step += 1
                tell(self.step, loss.item())
            if self.step % SAVE_STEPS < POOL_BATCHES:
                save()
        self.encoder.eval()
        self.head.eval()

    def learn(self, loss: torch.Tensor) -> None:
        """One step of the optimiser."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*self.encoder.parameters(), *self.head.parameters()], 1.0)
        self._optimizer.step()
        self._schedule.step()

    def batches(self, count: int) -> Iterator[Batch]:
        """`count` batches as `run` learns from them, for whoever wants to try another head or loss."""
        rng = np.random.default_rng(self._tuning.seed)
        for left in range(count, 0, -POOL_BATCHES):
            for windows, rows in self._pool(rng, min(POOL_BATCHES, left)):
                yield self._batch(windows, rows, rng)

    def save(self, file: Path) -> None:
        parts = {"encoder": self.encoder, "head": self.head, "optimizer": self._optimizer, "schedule": self._schedule}
        state = {name: part.state_dict() for name, part in parts.items()}
        keep(file, state | {"step": self.step, "run": self._run})

    def keep(self, file: Path) -> None:
        """Write what was learned, for `start`."""
        keep(file, {"encoder": self.encoder.state_dict(), "head": self.head.state_dict()})

    def start(self, files: Sequence[Path], pretrained: float = 0.0) -> None:
        """Begin with the mean of what other runs learned, and with a share `pretrained` of the encoder as it is. Raises
        OSError when a file can't be read, ValueError when it holds nothing that fits; both name it."""
        states = [self._learned(file) for file in files]
        each = [(1 - pretrained) / len(states)] * len(states)
        encoders = [self.encoder.state_dict(), *(state["encoder"] for state in states)]
        self.encoder.load_state_dict(averaged(encoders, [pretrained, *each]))
        self.head.load_state_dict(averaged([state["head"] for state in states], [1 / len(states)] * len(states)))
        self._run["start"] = f"{digest(self.encoder)} {digest(self.head)}"

    def _learned(self, file: Path) -> dict[str, Any]:
        try:
            state = read_state(file, self.device)
            for name, part in (("encoder", self.encoder), ("head", self.head)):
                if _shapes(state[name]) != _shapes(part.state_dict()):
                    raise ValueError(f"{file}: it holds another {name}")
        except DAMAGE as error:
            raise ValueError(f"{file}: it is damaged or of another kind ({error!r:.100})") from error
        return state

    def load(self, file: Path) -> None:
        """Go on from `file`. Raises ValueError when it was saved by a run of other settings, data or encoder, or is
        damaged."""
        try:
            self._take(read_state(file, self.device))
        except DAMAGE as error:
            raise ValueError(f"it is damaged or of another version ({error!r:.100})") from error

    def _take(self, state: dict[str, Any]) -> None:
        other = [name for name in self._run if state["run"].get(name) != self._run[name]]
        if other:
            raise ValueError(f"saved by a run that differs in {', '.join(other)}")
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = state["step"]

    def _pool(self, rng: np.random.Generator, batches: int) -> list[tuple[list[Window], NDArray[np.int64]]]:
        """Batches of windows of like length, so that little is padded."""
        size = self._tuning.batch
        rows = self._corpus.draw(size * batches, rng)
        others = self._corpus.draw_safe(len(rows), rng)
        chance = random.Random(int(rng.integers(1 << 62)))  # noqa: S311
        examples = self._corpus.examples
        windows = [window_of(examples[row], examples[other], chance) for row, other in zip(rows, others, strict=True)]
        order = np.argsort([len(window.content) + len(window.context) for window in windows], kind="stable")
        starts = rng.permutation(np.arange(0, len(order), size))
        return [
            ([windows[place] for place in order[start : start + size]], rows[order[start : start + size]])
            for start in starts
        ]

    def encode(self, windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the pieces and the mask of what is judged."""
        ids, attended, judged = padded(windows, self.words)
        with torch.autocast(self.device.type, torch.bfloat16):
            states = self.encoder(
                input_ids=ids.to(self.device), attention_mask=attended.to(self.device)
            ).last_hidden_state
        return states.float(), judged.to(self.device)

    def _batch(self, windows: list[Window], rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        kinds = np.array([self._corpus.examples[row].kind for row in rows])
        columns = self._columns(kinds, rng)
        nameless = rng.random(len(columns)) < NAMELESS_SHARE
        labels = self._corpus.labels[np.ix_(kinds, columns)]
        tokens, judged = self.encode(windows)
        texts = [
            self._nameless if hidden else self._texts[column] for column, hidden in zip(columns, nameless, strict=True)
        ]
        categories = unit_mean(*self.encode(texts))
        closeness = unit_mean(tokens.detach(), judged)
        unsafe, safe = (
            _precedents(closeness, categories.detach(), labels, label, nameless, rng).to(self.device)
            for label in (YES, NO)
        )
        inputs = (tokens, judged, categories, unsafe, safe, self._surfaces(rows, rng))
        return Batch(inputs, torch.from_numpy(labels).to(self.device), self._unsafe(rows), rows)

    def _columns(self, kinds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Categories to judge under: half of them such as one of the texts falls under, half any."""
        count = min(self._tuning.columns, len(self._texts))
        fitting = [np.flatnonzero(self._corpus.labels[kind] == YES) for kind in kinds]
        wanted = [int(rng.choice(places)) for places in fitting if len(places)]
        half = list(dict.fromkeys(rng.permutation(wanted).tolist()))[: count // 2]
        rest = [int(column) for column in rng.permutation(len(self._texts)) if column not in set(half)]
        return np.array([*half, *rest][:count])

    def _surfaces(self, rows: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
        surfaces = np.array([self._corpus.examples[row].surface for row in rows])
        elsewhere = rng.random(len(rows)) < ELSEWHERE
        surfaces[elsewhere] = rng.integers(0, len(SURFACES), int(elsewhere.sum()))
        return nn.functional.one_hot(torch.from_numpy(surfaces), len(SURFACES)).float().to(self.device)

    def _unsafe(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self._corpus.unsafe[rows].astype(np.float32)).to(self.device)


def padded(windows: Sequence[Window], words: WordPiece) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and mask of what is judged, windows by pieces, as `TextEncoder.encode` reads them."""
    read = [sequence(window, words) for window in windows]
    ids = torch.full((len(read), max(map(len, read))), words.pad, dtype=torch.long)
    judged = torch.zeros(ids.shape)
    for row, (window, pieces) in enumerate(zip(windows, read, strict=True)):
        ids[row, : len(pieces)] = torch.tensor(pieces)
        judged[row, 1 : len(window.content) + 1] = 1
    return ids, (torch.arange(ids.shape[1]) < torch.tensor(list(map(len, read)))[:, None]).long(), judged


def _shapes(state: State) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _precedents(
    texts: torch.Tensor, categories: torch.Tensor, labels: NDArray[np.int8], label: int,
    nameless: NDArray[np.bool_], rng: np.random.Generator,
) -> torch.Tensor:  # fmt: skip
    """The cosines that precedents of this label would have: some categories get a few texts of the batch as theirs,
    of those that are closest to the category, as people pick them who write policies."""
    vectors, closeness = texts.cpu().numpy(), (texts @ categories.T).cpu().numpy()
    cosines = np.zeros(labels.shape, dtype=np.float32)
    for column in np.flatnonzero(nameless | (rng.random(labels.shape[1]) < PRECEDENT_SHARE)):
        fitting = np.where(labels[:, column] == label, closeness[:, column], -np.inf)
        closest = np.argsort(-fitting)[: min(PRECEDENT_POOL, int(np.isfinite(fitting).sum()))]
        if len(closest):
            cases = rng.choice(closest, size=min(len(closest), int(rng.integers(1, 5))), replace=False)
            cosines[:, column] = (vectors @ vectors[cases].T).max(axis=1)
            # A case must not be recognised by being itself.
            cosines[cases, column] = np.median(cosines[:, column])
    return torch.from_numpy(cosines)
