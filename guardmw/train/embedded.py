"""Training the embedded guard: fine-tune a sentence encoder and a policy-conditioned head, write int8 ONNX.

Read top to bottom: gather, tune, export, calibrate, measure, write. What it leaves out: of a text longer than one
window only the first is learned from (and, of a harmless one, a window from further inside), and rows whose label hangs
on something that the text doesn't show (`pairs.unusable`), which are counted in the log.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from guardmw.guard.encoder import (
    MANIFEST,
    FileHash,
    Manifest,
    Model,
    TextEncoder,
    WeightFile,
    Window,
    Windows,
    sequence,
    sha256,
)
from guardmw.guard.wordpiece import WordPiece
from guardmw.policy.load import bundled_ids, load_policies
from guardmw.policy.schema import Policy
from guardmw.train.corpus import CONTENT, CONTEXT, STREAMED, Corpus, at_most, everyday, sort_out
from guardmw.train.dataset import DatasetError, Row, Taxonomy, read_taxonomies
from guardmw.train.encoder import export_encoder, load_encoder
from guardmw.train.head import export_head
from guardmw.train.measure import Calibrations, calibrate, check_dev, measure, score, shift_by_quantisation
from guardmw.train.pairs import CategoryText, category_texts, own_categories
from guardmw.train.rows import read_folder
from guardmw.train.tuning import Tuner, Tuning
from guardmw.train.written import written_rows

__all__ = ["WINDOWS", "Settings", "gathered", "train_embedded"]

WINDOWS = Windows(
    size=CONTENT + 2, wide=256, overlap=32, stream_size=STREAMED + 2, look_back=8, context=CONTEXT
)  # fmt: skip
QUANTISATION_SAMPLE, SMOOTHING_SAMPLE = 400, 256
CHECKPOINT, TRAINED = "checkpoint.pt", "trained.pt"
NAMED_SOURCES = 5

Tell = Callable[[str], None]
Progress = Callable[[int, int, float], None]
"""Told the step, the number of steps, and the loss."""


@dataclass(frozen=True)
class Settings:
    """`data` holds ``train/``, ``dev/`` and ``taxonomies.json``; `encoder` is a hub id or a folder; `limit` bounds the
    rows of each source; `false_positives` is the share of benign dev texts that may reach 0.5 under any one of
    `policies` (files or ids; none given: the bundled ones), and fixes the calibrations' biases. A run that was cut off
    goes on from the checkpoint in `out`, unless its settings were others. `start` are the ``trained.pt`` of other runs:
    training begins with the mean of their encoders and heads, whatever their data were, and `pretrained` is the share
    of the encoder as it is in that mean (0 to 1). Data of which more than `most_bad` (a share of the lines, or of the
    files) can't be used are refused."""

    data: Path
    out: Path
    encoder: str
    version: str
    tuning: Tuning
    limit: int = 4000
    false_positives: float = 0.025
    policies: tuple[str, ...] = ()
    start: tuple[Path, ...] = ()
    pretrained: float = 0.0
    most_bad: float = 0.01

    @property
    def base(self) -> str:
        """The encoder's name, without where it lay on this machine."""
        return Path(self.encoder).name if Path(self.encoder).exists() else self.encoder


def train_embedded(settings: Settings, tell: Tell, progress: Progress) -> Manifest:
    """Train, calibrate, and write a folder of weights to ``settings.out``; what `manifest.json` there says.

    Files arrive one by one, the manifest last: a guard that is built meanwhile reports damage, never mixes weights.
    ``trained.pt`` there holds encoder and head in full precision, for a later run to start from. Raises DatasetError
    for unusable data, a checkpoint that is damaged or another run's, or an unusable start, EncoderError for an unusable
    encoder, OSError when `out` can't be written.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.out.parent) as temporary:
        folder = Path(temporary)
        encoder = load_encoder(settings.encoder, folder / "vocab.txt")
        words = WordPiece((folder / "vocab.txt").read_text("utf-8"))
        texts, train, dev = gathered(settings, words, tell)
        check_dev(dev)
        tell(f"{len(train.examples)} texts under {len(texts)} categories")
        shared: dict[str, str | int] = {"encoder": settings.base, "limit": settings.limit}
        tuner = Tuner(encoder, train, texts, words, settings.tuning, shared)
        _start(settings, tuner, tell)
        _tune(settings, tuner, tell, progress)
        export_encoder(tuner.encoder.cpu(), folder, _inputs(train, words, settings.tuning.seed))
        export_head(tuner.head.cpu(), folder / "head.onnx")
        tell("calibrating on dev")
        manifest = _calibrated(settings, folder, texts, dev)
        tuner.keep(settings.out / TRAINED)
        _publish(folder, settings.out, manifest)
    (settings.out / CHECKPOINT).unlink(missing_ok=True)
    return manifest


def gathered(settings: Settings, words: WordPiece, tell: Tell) -> tuple[list[CategoryText], Corpus, Corpus]:
    """The categories, and the texts of train and dev under them."""
    taxonomies = read_taxonomies(settings.data / "taxonomies.json")
    rows = _rows(settings, "train", taxonomies, own_categories(taxonomies), tell)
    if not any(row.unsafe for row in rows):
        raise DatasetError(
            f"{settings.data / 'train'} holds no unsafe row that can be learned from. "
            "Its rows must name categories of taxonomies.json; the lines above count what was left out."
        )
    texts = category_texts(taxonomies, rows)
    seed = settings.tuning.seed
    train = Corpus([*rows, *everyday(seed), *written_rows()], texts, words)
    own = {category.key for category in texts if category.key and category.siblings}
    dev = Corpus(_rows(settings, "dev", taxonomies, own, tell), texts, words)
    for part, corpus in (("train", train), ("dev", dev)):
        if corpus.unread:
            tell(f"{part}: {corpus.unread} rows left out, no word in them can be read")
    return texts, train, dev


def _rows(
    settings: Settings, part: str, taxonomies: Mapping[str, Taxonomy], own: Collection[str], tell: Tell
) -> list[Row]:
    found = read_folder(settings.data / part, taxonomies, settings.most_bad, tell)
    rows, left_out = sort_out(found, own)
    for line in _told(left_out):
        tell(f"{part}: {line}")
    return at_most(settings.limit, rows, settings.tuning.seed)


def _told(left_out: Counter[tuple[str, str]]) -> Iterator[str]:
    """A line for each reason why rows were left out, with the sources that lost most."""
    for why in dict.fromkeys(why for why, _ in left_out):
        sources = Counter({source: count for (reason, source), count in left_out.items() if reason == why})
        named = [f"{source} {count}" for source, count in sources.most_common(NAMED_SOURCES)]
        more = f" and {len(sources) - NAMED_SOURCES} more" if len(sources) > NAMED_SOURCES else ""
        yield f"{sources.total()} rows left out, {why}: {', '.join(named)}{more}"


def _start(settings: Settings, tuner: Tuner, tell: Tell) -> None:
    if not settings.start:
        return
    try:
        tuner.start(settings.start, settings.pretrained)
    except (OSError, ValueError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{what}. `--start` takes the {TRAINED} that a run of the same encoder left.") from error
    mixed = f", {settings.pretrained:.0%} of the encoder as it was before" if settings.pretrained else ""
    tell(f"starting from {' and '.join(map(str, settings.start))}{mixed}")


def _tune(settings: Settings, tuner: Tuner, tell: Tell, progress: Progress) -> None:
    checkpoint = settings.out / CHECKPOINT
    if checkpoint.exists():
        try:
            tuner.load(checkpoint)
        except ValueError as error:
            raise DatasetError(f"{checkpoint}: {error}. Delete it to begin anew.") from error
        tell(f"going on from step {tuner.step}")
    tuner.run(lambda step, loss: progress(step, settings.tuning.steps, loss), lambda: tuner.save(checkpoint))


def _inputs(train: Corpus, words: WordPiece, seed: int) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Some of what is learned from, as the exported encoder reads it."""
    for place in train.draw(SMOOTHING_SAMPLE, np.random.default_rng(seed)):
        example = train.examples[place]
        ids = np.array([sequence(Window(example.content[:CONTENT], example.context), words)], dtype=np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _calibrated(settings: Settings, folder: Path, texts: list[CategoryText], dev: Corpus) -> Manifest:
    """What vouches for the files in `folder`, with the calibration on dev and the figures it gives there."""
    manifest = _described(settings, folder)
    model = Model(manifest, folder, threads=1)
    policies = list(load_policies(*(settings.policies or bundled_ids())).policies.values())
    scores = score(model, model.encoder, policies, texts, dev.examples)
    calibrations = calibrate(scores, dev, settings.false_positives)
    figures = measure(scores, calibrations)
    figures["quantisation"] = _quantisation(settings, folder, model, policies[0], dev, calibrations)
    return manifest.model_copy(
        update={"calibration": calibrations.overall, "surfaces": calibrations.surfaces, "figures": figures}
    )


def _described(settings: Settings, folder: Path) -> Manifest:
    files = {
        name: FileHash(sha256=sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in get_args(WeightFile)
    }
    contents = "".join(files[name].sha256 for name in sorted(files)) + WINDOWS.model_dump_json()
    digest = hashlib.sha256(contents.encode()).hexdigest()[:8]
    return Manifest(
        version=f"{settings.version}+{digest}", base=settings.base, windows=WINDOWS, files=files,
        dimensions=_dimensions(folder),
    )  # fmt: skip


def _dimensions(folder: Path) -> int:
    import onnx

    output: Any = onnx.load(folder / "encoder-fp32.onnx", load_external_data=False).graph.output[0]
    return int(output.type.tensor_type.shape.dim[2].dim_value)


def _quantisation(
    settings: Settings, folder: Path, model: Model, policy: Policy, dev: Corpus, calibrations: Calibrations
) -> dict[str, float]:
    """What int8 costs: a sample of dev texts, judged by the exact encoder and by the one that ships."""
    picked = np.random.default_rng(settings.tuning.seed).permutation(len(dev.examples))[:QUANTISATION_SAMPLE]
    examples = [dev.examples[place] for place in picked]
    exact = TextEncoder(folder / "encoder-fp32.onnx", model.words, threads=1)
    before, after = (score(model, encoder, [policy], [], examples) for encoder in (exact, model.encoder))
    judged = np.isfinite(before.highest[policy.id])
    return shift_by_quantisation(
        *(
            calibrations.probabilities(each.highest[policy.id][judged], each.surfaces[judged])
            for each in (before, after)
        )
    )


def _publish(folder: Path, out: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in (*get_args(WeightFile), MANIFEST):
        os.replace(folder / name, out / name)
