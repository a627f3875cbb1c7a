"""Two plain classifiers to compare the embedded guard with: binary, and blind to the policy.

Both are logistic regressions trained on the rows that the embedded guard is trained on: one on TF-IDF of words and word
pairs, one on the vectors of the pretrained sentence encoder, left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardmw import Check, Finding, Policy, Verdict
from guardmw.train.corpus import everyday, sample
from guardmw.train.dataset import Row, read_taxonomies
from guardmw.train.rows import read_folder
from guardmw.train.written import written_rows

__all__ = ["PlainGuard", "frozen_encoder", "tfidf", "training_rows"]

Features = Callable[[Sequence[str]], Any]
CHARS = 2000
"""How much of a text the plain classifiers read."""


class PlainGuard:
    """A binary classifier as a guard: every category of the policy gets the same probability."""

    def __init__(self, name: str, features: Features, classifier: Any) -> None:
        self.name, self.version = name, "baseline"
        self._features, self._classifier = features, classifier

    async def check(self, check: Check, policy: Policy) -> Verdict:
        started = time.perf_counter()
        unsafe = float(self._classifier.predict_proba(self._features([check.content[:CHARS]]))[0, 1])
        categories = policy.categories_on(check.surface)
        findings = tuple(Finding(category.id, unsafe, f"guard:{self.name}") for category in categories)
        return Verdict(findings, self.name, self.version, duration_s=time.perf_counter() - started)

    async def aclose(self) -> None:
        """Nothing to close."""


def training_rows(data: Path, limit: int, seed: int = 0) -> list[Row]:
    rows = read_folder(data / "train", read_taxonomies(data / "taxonomies.json"), 0.01, print)
    return [*sample(rows, limit, seed), *everyday(seed), *written_rows()]


def tfidf(rows: Sequence[Row]) -> PlainGuard:
    """TF-IDF of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=3, max_features=200_000, sublinear_tf=True)
    vectorizer.fit([row.content[:CHARS] for row in rows])
    return _fitted("tfidf", vectorizer.transform, rows, "liblinear")


def frozen_encoder(rows: Sequence[Row], source: str, batch: int = 32) -> PlainGuard:
    """The pretrained encoder `source` (a hub id or a folder), mean-pooled, of the first 128 word pieces."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()

    def features(texts: Sequence[str]) -> NDArray[np.float32]:
        order = np.argsort([len(text) for text in texts])
        vectors = np.zeros((len(texts), encoder.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            read = tokenizer(
                [texts[place] for place in places], truncation=True, max_length=128, padding=True, return_tensors="pt"
            )
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                states = encoder(**read).last_hidden_state.float()
            kept = read["attention_mask"].unsqueeze(2)
            means = (states * kept).sum(1) / kept.sum(1)
            vectors[places] = torch.nn.functional.normalize(means, dim=1).numpy()
        return vectors

    return _fitted("frozen-encoder", features, rows, "newton-cholesky")


def _fitted(name: str, features: Features, rows: Sequence[Row], solver: str) -> PlainGuard:
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=1000, C=10.0, class_weight="balanced", solver=solver)
    classifier.fit(features([row.content[:CHARS] for row in rows]), [int(row.unsafe) for row in rows])
    return PlainGuard(name, features, classifier)
