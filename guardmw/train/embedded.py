"""Training the embedded guard: a frozen sentence encoder, exported to int8 ONNX, and a policy-conditioned head on it.

Read top to bottom: export, encode, train, calibrate, measure, write. What it leaves out: the encoder itself isn't
tuned, and each text is read by its first window only (and, for harmless ones, by one window from further inside).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from guardmw.guard.calibration import Calibration
from guardmw.guard.encoder import MANIFEST, FileHash, Manifest, TextEncoder, WeightFile, sha256
from guardmw.guard.wordpiece import WordPiece
from guardmw.train.dataset import read_folder, read_taxonomies
from guardmw.train.encoder import export_encoder, export_vocabulary
from guardmw.train.examples import WINDOWS, Examples, encoded, sample, training_set
from guardmw.train.head import Head, export_head, train_head
from guardmw.train.measure import calibrate, logits_of, measure, quantisation
from guardmw.train.pairs import category_texts, read_themes
from guardmw.train.vectors import VectorCache

__all__ = ["Settings", "train_embedded"]

QUANTISATION_SAMPLE = 400

Tell = Callable[[str], None]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """`data` holds ``train/``, ``dev/`` and ``taxonomies.json``; `encoder` is a hub id or a folder; `limit` bounds the
    training rows of each source; `false_positives` is the share of harmless dev texts that may reach 0.5 under any
    of all themes, which fixes the calibration's bias; `cache` keeps vectors between runs."""

    data: Path
    out: Path
    encoder: str
    version: str
    cache: Path | None = None
    seed: int = 0
    epochs: int = 12
    limit: int = 4000
    false_positives: float = 0.02


def train_embedded(settings: Settings, tell: Tell) -> Manifest:
    """Train, calibrate, and write a folder of weights to ``settings.out``; what `manifest.json` there says.

    Files arrive one by one, the manifest last: a guard that is built meanwhile reports damage, never mixes weights.
    Raises DatasetError for unusable data, OSError or ValueError for an unusable encoder.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.out.parent) as temporary:
        folder = Path(temporary)
        tell(f"exporting {settings.encoder}")
        dimensions = export_encoder(settings.encoder, folder)
        export_vocabulary(settings.encoder, folder)
        categories, train, dev = _examples(settings, folder, tell)
        head = train_head(
            training_set(train, categories), epochs=settings.epochs, seed=settings.seed,
            tell=lambda epoch, loss: tell(f"epoch {epoch} of {settings.epochs}: loss {loss:.4f}"),
        )  # fmt: skip
        export_head(head, folder / "head.onnx")
        calibration, figures = _calibrated(settings, folder, head, categories, dev)
        manifest = _manifest(settings, folder, dimensions, calibration, figures)
        _publish(folder, settings.out, manifest)
    return manifest


def _text_encoder(folder: Path, name: str = "encoder.onnx") -> TextEncoder:
    return TextEncoder((folder / name).read_bytes(), WordPiece((folder / "vocab.txt").read_text("utf-8")), threads=1)


def _examples(settings: Settings, folder: Path, tell: Tell) -> tuple[Vectors, Examples, Examples]:
    """The categories' vectors, and the examples to train on and to calibrate with."""
    encoder = _text_encoder(folder)
    cache = VectorCache(settings.cache or folder / "vectors.npz", sha256((folder / "encoder.onnx").read_bytes()), encoder.encode)
    texts = category_texts(read_taxonomies(settings.data / "taxonomies.json"))
    categories = cache.of([encoder.words.ids(category.text) for category in texts])
    train_rows = sample(read_folder(settings.data / "train"), settings.limit, settings.seed)
    dev_rows = sample(read_folder(settings.data / "dev"), settings.limit, settings.seed)
    tell(f"encoding {len(train_rows)} training rows, {len(dev_rows)} dev rows and {len(texts)} categories")
    return categories, *(
        encoded(rows, texts, categories, encoder.words, cache, settings.seed) for rows in (train_rows, dev_rows)
    )  # fmt: skip


def _calibrated(
    settings: Settings, folder: Path, head: Head, categories: Vectors, dev: Examples
) -> tuple[Calibration, dict[str, Any]]:
    """The calibration on dev, and the figures it gives there."""
    columns = first_phrasings()
    logits = logits_of(head, dev.vectors, categories, dev.surfaces)
    calibration = calibrate(logits, dev, columns, settings.false_positives)
    figures = measure(logits, dev, columns, calibration)
    picked = np.random.default_rng(settings.seed).permutation(len(dev.rows))[:QUANTISATION_SAMPLE]
    exact = _text_encoder(folder, "encoder-fp32.onnx")
    windows = [exact.words.ids(dev.rows[index].content)[: WINDOWS.size - 2] for index in picked]

    def score(vectors: Vectors) -> Vectors:
        return logits_of(head, vectors, categories[columns], dev.surfaces[picked])

    vectors = (np.concatenate([encoder.encode([window]) for window in windows]) for encoder in (exact, _text_encoder(folder)))
    figures["quantisation"] = quantisation(score, *vectors, calibration)
    return calibration, figures


def first_phrasings() -> list[int]:
    """The columns of `category_texts` that hold each theme's first phrasing: a policy that forbids everything."""
    counts = [len(theme.texts) for theme in read_themes().values()]
    return [sum(counts[:index]) for index in range(len(counts))]


def _manifest(
    settings: Settings, folder: Path, dimensions: int, calibration: Calibration, figures: dict[str, Any]
) -> Manifest:
    contents = {name: (folder / name).read_bytes() for name in get_args(WeightFile)}
    digest = sha256(b"".join(contents[name] for name in sorted(contents)))[:8]
    return Manifest(
        version=f"{settings.version}+{digest}", base=settings.encoder, dimensions=dimensions, windows=WINDOWS,
        calibration=calibration, figures=figures,
        files={name: FileHash(sha256=sha256(content), bytes=len(content)) for name, content in contents.items()},
    )  # fmt: skip


def _publish(folder: Path, out: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in (*get_args(WeightFile), MANIFEST):
        os.replace(folder / name, out / name)
