"""What `benchmarks/variants.py` trains with beside what ships (where torch is installed)."""

from __future__ import annotations

import numpy as np
import pytest

from guardmw.train.corpus import Example
from guardmw.train.dataset import Row


def example(source: str, label: str) -> Example:
    row = {"id": "1", "source": source, "task": "prompt", "policy": "made_up", "content": "x", "label": label}
    return Example(Row.model_validate(row | {"categories": ["Theft"] if label == "unsafe" else []}), [1], [])


def test_the_critic_learns_to_name_sources_and_the_encoder_to_hide_them() -> None:
    torch = pytest.importorskip("torch", reason="training needs guardmw[train]")
    from compared.critic import SourceCritic

    torch.manual_seed(0)
    sources = [("one", "unsafe"), ("two", "unsafe"), ("three", "safe")] * 8
    examples = [example(source, label) for source, label in sources]
    places = np.arange(len(examples))
    unsafe = torch.tensor([float(label == "unsafe") for _, label in sources])
    critic = SourceCritic(examples, 6, within_labels=True, strength=0.1)
    vectors = torch.randn(len(examples), 6, requires_grad=True)
    before = critic.loss(vectors, places, unsafe)
    before.backward()
    with torch.no_grad():
        assert critic.loss(vectors - 1e-3 * vectors.grad, places, unsafe) > before, "the encoder hides"
        for each in critic.parameters():
            each -= 1e-3 * each.grad
        assert critic.loss(vectors, places, unsafe) < before, "the critic learns"
    alone = places[unsafe.numpy() == 0]
    assert critic.loss(vectors[alone], alone, unsafe[alone]) == 0, "one source has this label: its vectors stay"
    among_all = SourceCritic(examples, 6, within_labels=False, strength=0.1)
    assert among_all.loss(vectors[alone], alone, unsafe[alone]) > 0
