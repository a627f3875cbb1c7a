"""Training the embedded guard: a frozen sentence encoder, exported to int8 ONNX, and a policy-conditioned head on it.

Read top to bottom: export, encode, train, calibrate, measure, write. What it leaves out: the encoder itself isn't
tuned, and each text is read by its first window only (and, for harmless ones, by one window from further inside).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from guardmw.guard.calibration import Calibration
from guardmw.guard.encoder import MANIFEST, FileHash, Manifest, Model, TextEncoder, WeightFile, sha256
from guardmw.guard.wordpiece import WordPiece
from guardmw.policy.load import bundled_ids, load_policies
from guardmw.policy.schema import Policy
from guardmw.train.dataset import read_folder, read_taxonomies
from guardmw.train.encoder import export_encoder, export_vocabulary
from guardmw.train.examples import WINDOWS, Examples, encoded, everyday, sample, training_set
from guardmw.train.head import export_head, train_head
from guardmw.train.measure import calibrate, measure, pair_logits, policy_logits, shift_by_quantisation
from guardmw.train.pairs import category_texts
from guardmw.train.vectors import VectorCache
from guardmw.types import SURFACES

__all__ = ["Settings", "train_embedded"]

QUANTISATION_SAMPLE = 400

Tell = Callable[[str], None]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """`data` holds ``train/``, ``dev/`` and ``taxonomies.json``; `encoder` is a hub id or a folder; `limit` bounds the
    training rows of each source; `false_positives` is the share of any benign source's dev texts that may reach 0.5
    under any of `policies` (files or ids; none given: the bundled ones), which fixes the calibration's bias; `cache`
    keeps vectors between runs."""

    data: Path
    out: Path
    encoder: str
    version: str
    cache: Path | None = None
    seed: int = 0
    epochs: int = 4
    limit: int = 4000
    false_positives: float = 0.02
    policies: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The encoder's name, without where it lay on this machine."""
        return Path(self.encoder).name if Path(self.encoder).exists() else self.encoder


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
        tell("calibrating")
        manifest = _calibrated(settings, folder, dimensions, pair_logits(head, dev, categories), dev)
        _publish(folder, settings.out, manifest)
    return manifest


def _text_encoder(folder: Path, name: str = "encoder.onnx") -> TextEncoder:
    return TextEncoder(folder / name, WordPiece((folder / "vocab.txt").read_text("utf-8")), threads=1)


def _examples(settings: Settings, folder: Path, tell: Tell) -> tuple[Vectors, Examples, Examples]:
    """The categories' vectors, and the examples to train on and to calibrate with."""
    encoder = _text_encoder(folder)
    cache = VectorCache(settings.cache or folder / "vectors.npz", sha256(folder / "encoder.onnx"), encoder.encode)
    texts = category_texts(read_taxonomies(settings.data / "taxonomies.json"))
    categories = cache.of([encoder.words.ids(category.text) for category in texts])
    train_rows = sample(read_folder(settings.data / "train"), settings.limit, settings.seed) + everyday(settings.seed)
    dev_rows = sample(read_folder(settings.data / "dev"), settings.limit, settings.seed)
    tell(f"encoding {len(train_rows)} training rows, {len(dev_rows)} dev rows and {len(texts)} categories")
    train, dev = (
        encoded(rows, texts, categories, encoder.words, cache, settings.seed) for rows in (train_rows, dev_rows)
    )
    return categories, train, dev


def _calibrated(
    settings: Settings, folder: Path, dimensions: int, pairs: NDArray[np.float32], dev: Examples
) -> Manifest:
    """What vouches for the files in `folder`, with the calibration on dev and the figures it gives there."""
    files = {
        name: FileHash(sha256=sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in get_args(WeightFile)
    }
    digest = hashlib.sha256("".join(files[name].sha256 for name in sorted(files)).encode()).hexdigest()[:8]
    manifest = Manifest(
        version=f"{settings.version}+{digest}", base=settings.base, dimensions=dimensions, windows=WINDOWS, files=files
    )
    model = Model(manifest, folder, threads=1)
    policies = load_policies(*(settings.policies or bundled_ids())).policies
    highest = {name: policy_logits(model, policy, dev.vectors, dev.surfaces) for name, policy in policies.items()}
    calibration = calibrate(highest, pairs, dev, settings.false_positives)
    figures = measure(highest, dev, calibration)
    figures["quantisation"] = _quantisation(settings, folder, model, next(iter(policies.values())), dev, calibration)
    return manifest.model_copy(update={"calibration": calibration, "figures": figures})


def _quantisation(
    settings: Settings, folder: Path, model: Model, policy: Policy, dev: Examples, calibration: Calibration
) -> dict[str, float]:
    """What int8 costs: a sample of dev texts, each encoded alone by the exact encoder and by the one that ships."""
    picked = np.random.default_rng(settings.seed).permutation(len(dev.rows))[:QUANTISATION_SAMPLE]
    picked = picked[[bool(policy.categories_on(SURFACES[dev.surfaces[index]])) for index in picked]]
    windows = [model.words.ids(dev.rows[index].content)[: WINDOWS.size - 2] for index in picked]
    exact, quantised = (
        policy_logits(
            model, policy, np.concatenate([encoder.encode([window]) for window in windows]), dev.surfaces[picked]
        )
        for encoder in (_text_encoder(folder, "encoder-fp32.onnx"), model.encoder)
    )
    return shift_by_quantisation(exact, quantised, calibration)


def _publish(folder: Path, out: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in (*get_args(WeightFile), MANIFEST):
        os.replace(folder / name, out / name)
