"""Ways of training against what sources teach beside harm: judged on texts of sources that training never saw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from compared.critic import SourceCritic
from compared.heads import judged, tell
from guardmw.guard.wordpiece import WordPiece
from guardmw.train.corpus import ORDINARY, Corpus
from guardmw.train.embedded import Settings, gathered
from guardmw.train.encoder import load_encoder
from guardmw.train.head import unit_mean
from guardmw.train.loss import losses_of
from guardmw.train.pairs import CategoryText
from guardmw.train.states import averaged
from guardmw.train.tuning import Batch, Tuner, Tuning

__all__ = ["UNSEEN", "WAYS", "compare"]

UNSEEN = frozenset({
    "aart", "bipia", "convabuse", "gptfuzz", "hatecheck", "jailbreakbench", "safeagentbench", "spikee", "strongreject",
})  # fmt: skip
"""Kept from training: prompts, answers and results, most with both labels."""
PRETRAINED = (0.1, 0.2, 0.3, 0.5)
"""Shares of the encoder as it was before, in its mean with the one that was trained as shipped."""
SHIPPED = "as shipped"
ROBUST_RATE = 0.02
"""How fast the weights of groups follow their losses (Sagawa et al., arXiv 1911.08731)."""

Way = Callable[[Tuner, Corpus], Callable[[Batch, torch.Tensor], torch.Tensor]]
"""What makes one loss of a batch and its texts' losses, for a run over a corpus."""


def plain(tuner: Tuner, corpus: Corpus) -> Callable[[Batch, torch.Tensor], torch.Tensor]:
    return lambda batch, losses: losses.mean()


def group_robust(tuner: Tuner, corpus: Corpus) -> Callable[[Batch, torch.Tensor], torch.Tensor]:
    """A source's safe and unsafe texts are groups; the ones with high losses weigh more and more (group DRO)."""
    groups = [(example.row.source, example.row.unsafe) for example in corpus.examples]
    names = sorted(set(groups))
    places = torch.tensor([names.index(group) for group in groups])
    weights = torch.ones(len(names))

    def loss(batch: Batch, losses: torch.Tensor) -> torch.Tensor:
        found = places[batch.rows]
        for group in found.unique():
            weights[group] *= torch.exp(ROBUST_RATE * losses.detach().cpu()[found == group].mean())
        weights.div_(weights.mean())
        each = weights[found].to(losses.device)
        return (each * losses).sum() / each.sum()

    return loss


def source_adversarial(within_labels: bool, strength: float) -> Way:
    """A second head learns to name the source of a text; the encoder learns to leave it in the dark."""

    def way(tuner: Tuner, corpus: Corpus) -> Callable[[Batch, torch.Tensor], torch.Tensor]:
        critic = SourceCritic(corpus.examples, tuner.encoder.config.hidden_size, within_labels, strength)
        critic.to(tuner.device)
        optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3)

        def loss(batch: Batch, losses: torch.Tensor) -> torch.Tensor:
            optimizer.step()  # what the last batch taught
            optimizer.zero_grad()
            return losses.mean() + critic.loss(unit_mean(*batch.inputs[:2]), batch.rows, batch.unsafe)

        return loss

    return way


WAYS: dict[str, Way] = {
    SHIPPED: plain,
    "group-robust": group_robust,
    "source-adversarial": source_adversarial(within_labels=False, strength=0.1),
    "source-adversarial, .3": source_adversarial(within_labels=False, strength=0.3),
    "source-adversarial within labels": source_adversarial(within_labels=True, strength=0.1),
    "source-adversarial within labels, .3": source_adversarial(within_labels=True, strength=0.3),
}


def train(tuner: Tuner, way: Callable[[Batch, torch.Tensor], torch.Tensor], steps: int) -> None:
    tuner.encoder.train()
    tuner.head.train()
    for step, batch in enumerate(tuner.batches(steps), 1):
        logits, harm = tuner.head.both(*batch.inputs)
        loss = way(batch, losses_of(logits, harm, batch.labels, batch.unsafe))
        tuner.learn(loss)
        if step % max(1, steps // 10) == 0:
            tell(f"step {step} of {steps}: {loss.item():.3f}")
    tuner.encoder.eval()
    tuner.head.eval()


def without(corpus: Corpus, sources: frozenset[str], texts: Sequence[CategoryText], words: WordPiece) -> Corpus:
    return Corpus([each.row for each in corpus.examples if each.row.source not in sources], texts, words)


def compare(
    data: Path, source: str, folder: Path, tuning: Tuning, limit: int, ways: Sequence[str] = tuple(WAYS)
) -> dict[str, Any]:
    """The figures of `ways` on dev texts of `UNSEEN` sources, by name; `folder` is for the vocabulary."""
    pretrained = load_encoder(source, folder / "vocab.txt")
    words = WordPiece((folder / "vocab.txt").read_text("utf-8"))
    texts, every, dev = gathered(Settings(data, folder, source, "ways", tuning, limit=limit), words, tell)
    seen = without(every, UNSEEN, texts, words)
    said = {each.row.content for each in seen.examples}
    kept = [
        each.row
        for each in dev.examples
        if each.row.source.startswith(ORDINARY) or (each.row.source in UNSEEN and each.row.content not in said)
    ]
    unseen = Corpus(kept, texts, words)
    found = {}
    for name, way in ((name, WAYS[name]) for name in ways):
        tell(f"{name}: {len(seen.examples)} texts of {len({each.row.source for each in seen.examples})} sources")
        tuner = Tuner(copy.deepcopy(pretrained), seen, texts, words, tuning)
        train(tuner, way(tuner, seen), tuning.steps)
        found[name] = judged(tuner, {name: tuner.head}, unseen, texts)[name]
        learned = copy.deepcopy(tuner.encoder.state_dict())
        for share in PRETRAINED if name == SHIPPED else ():
            mean = f"{name}, {share:.0%} of the encoder as it was before"
            tuner.encoder.load_state_dict(averaged([learned, pretrained.state_dict()], [1 - share, share]))
            found[mean] = judged(tuner, {mean: tuner.head}, unseen, texts)[mean]
    return found
