"""The embedded guard's weights: a text encoder and a head, loaded from a folder that a manifest vouches for.

A folder of weights holds `manifest.json` and the files it names with their SHA-256. Nothing is loaded unverified.
onnxruntime is imported when the first weights are loaded, never with the package.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, get_args
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from guardmw.errors import GuardConfigError
from guardmw.guard.calibration import Calibration
from guardmw.guard.wordpiece import WordPiece
from guardmw.types import Surface

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

__all__ = [
    "MANIFEST",
    "Encoded",
    "Manifest",
    "Model",
    "TextEncoder",
    "WeightFile",
    "Window",
    "Windows",
    "load_model",
    "sequence",
    "sha256",
]

Part = TypeVar("Part")

MANIFEST = "manifest.json"
BATCH = 2
"""Windows in one run of the encoder: more would only cost memory."""

WeightFile = Literal["encoder.onnx", "head.onnx", "vocab.txt"]
"""The files of a folder of weights: the int8 encoder, the head over its vectors, and the WordPiece vocabulary."""

REFETCH = "Reinstall guardmw, or point `weights` at a folder written by `guardmw train embedded`."


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileHash(_Frozen):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Windows(_Frozen):
    """How long texts are cut, in word pieces: `size` at most (with ``[CLS]`` and ``[SEP]``) in tools' results, where an
    order may be planted in much text, and `wide` elsewhere (None: the same), where a text is what it is as a whole.
    Neighbours share `overlap`. A check of a stream reads one window of `stream_size` when its new text leaves room for
    at least `look_back` pieces of what came before. Behind it at most `context` pieces of what it answers are read."""

    size: int = Field(ge=8, le=512)
    wide: int | None = Field(None, ge=8, le=512)
    overlap: int = Field(ge=0)
    stream_size: int = Field(ge=8, le=512)
    look_back: int = Field(ge=0)
    context: int = Field(ge=0, le=256)

    @model_validator(mode="after")
    def _advancing(self) -> Self:
        if 2 * self.overlap >= self.size - 2:
            raise ValueError(f"overlap ({self.overlap}) must be below half of the window's {self.size - 2} pieces")
        if self.wide is not None and self.wide < self.size:
            raise ValueError(f"wide ({self.wide}) must not be below size ({self.size})")
        return self

    def room_on(self, surface: Surface) -> int:
        """How many pieces of a text fill a window on `surface`."""
        return (self.size if self.wide is None or surface == "tool_result" else self.wide) - 2


class Manifest(_Frozen):
    """What stands in `manifest.json`; `surfaces` have calibrations of their own."""

    format: Literal[2] = 2
    version: str = Field(min_length=1)
    base: str
    dimensions: int = Field(gt=0)
    windows: Windows
    calibration: Calibration = Calibration()
    surfaces: dict[Surface, Calibration] = {}
    files: dict[WeightFile, FileHash]
    figures: dict[str, Any] = {}

    def calibration_on(self, surface: Surface) -> Calibration:
        return self.surfaces.get(surface, self.calibration)


class Window(NamedTuple):
    """Piece ids (without ``[CLS]`` and ``[SEP]``): what is judged, and what it answers."""

    content: Sequence[int]
    context: Sequence[int] = ()


class Encoded(NamedTuple):
    """The states of windows' pieces (windows x pieces x dimensions), a mask (windows x pieces) that is 1.0 on the
    pieces of what is judged, and the ids of those pieces by window."""

    tokens: Vectors
    mask: Vectors
    content: tuple[Sequence[int], ...]

    @property
    def vectors(self) -> Vectors:
        """The unit mean of what is judged, a row per window (Reimers & Gurevych, arXiv 1908.10084)."""
        import numpy as np

        kept = self.mask[:, :, None]
        means = (self.tokens * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1.0)
        unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return unit


class TextEncoder:
    """Windows of word pieces to the states of their pieces. Safe to call from many threads."""

    def __init__(self, weights: Path, words: WordPiece, threads: int) -> None:
        self.words = words
        self._session = _session(weights, threads)

    def encode(self, windows: Sequence[Window]) -> Encoded:
        """Reads ``[CLS] content [SEP]``, and ``context [SEP]`` behind it where there is one."""
        import numpy as np

        read = [sequence(window, self.words) for window in windows]
        ids = np.full((len(windows), max(map(len, read))), self.words.pad, dtype=np.int64)
        attended, judged = np.zeros_like(ids), np.zeros(ids.shape, dtype=np.float32)
        for row, (window, pieces) in enumerate(zip(windows, read, strict=True)):
            ids[row, : len(pieces)] = pieces
            attended[row, : len(pieces)] = 1
            judged[row, 1 : len(window.content) + 1] = 1
        tokens = self._session.run(None, {"input_ids": ids, "attention_mask": attended})[0]
        return Encoded(tokens, judged, tuple(window.content for window in windows))


def sequence(window: Window, words: WordPiece) -> list[int]:
    """The piece ids that the encoder reads for `window`."""
    behind = [*window.context, words.end] if window.context else []
    return [words.start, *window.content, words.end, *behind]


class Model:
    """The weights of a folder, ready to run; shared by every guard of that folder. Safe to call from many threads.

    Raises GuardConfigError when a file isn't what its name says.
    """

    def __init__(self, manifest: Manifest, folder: Path, threads: int) -> None:
        self.manifest = manifest
        self.words = _build(lambda path: WordPiece(path.read_text(encoding="utf-8")), folder / "vocab.txt")
        self.encoder = _build(lambda path: TextEncoder(path, self.words, threads), folder / "encoder.onnx")
        self._head = _build(lambda path: _session(path, threads), folder / "head.onnx")

    def encode_texts(self, texts: Iterable[str]) -> Vectors:
        """Unit vectors, one row per text; each text is read up to the first window's end."""
        import numpy as np

        limit = self.manifest.windows.size - 2
        windows = [Window(self.words.ids(text)[:limit]) for text in texts]
        starts = range(0, len(windows), BATCH)
        batches = [self.encoder.encode(windows[start : start + BATCH]).vectors for start in starts]
        return np.concatenate(batches) if batches else np.zeros((0, self.manifest.dimensions), dtype=np.float32)

    def score(self, **inputs: Vectors) -> Vectors:
        """The head's logits, windows by categories."""
        logits: Vectors = self._head.run(None, inputs)[0]
        return logits


_models: WeakValueDictionary[tuple[Path, str, int], Model] = WeakValueDictionary()
_loading = threading.Lock()


def load_model(folder: Path, threads: int) -> Model:
    """The model in `folder`, running on `threads` threads; loaded once while anyone uses it.

    Raises GuardConfigError when a file is missing, doesn't hash to what the manifest says, or can't be read.
    """
    folder = folder.resolve()
    with _lacking(folder / MANIFEST):
        stated = (folder / MANIFEST).read_bytes()
    with _loading:
        key = (folder, hashlib.sha256(stated).hexdigest(), threads)
        model = _models.get(key)
        if model is None:
            manifest = _manifest(stated, folder)
            _verify(manifest, folder)
            model = _models[key] = Model(manifest, folder, threads)
        return model


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises OSError when it can't be read."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _manifest(stated: bytes, folder: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(stated)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise GuardConfigError(f"{folder / MANIFEST} is no manifest: {where}: {first['msg']}. {REFETCH}") from error
    for name in get_args(WeightFile):
        if name not in manifest.files:
            raise GuardConfigError(f"{folder / MANIFEST} names no hash for {name}. {REFETCH}")
    return manifest


def _verify(manifest: Manifest, folder: Path) -> None:
    for name, expected in manifest.files.items():
        with _lacking(folder / name):
            actual = sha256(folder / name)
        if actual != expected.sha256:
            raise GuardConfigError(
                f"{folder / name} is damaged: its SHA-256 is {actual} ({(folder / name).stat().st_size} bytes), "
                f"the manifest expects {expected.sha256} ({expected.bytes} bytes). {REFETCH}"
            )


@contextmanager
def _lacking(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GuardConfigError(f"the embedded guard's weights lack {path}: {error.strerror}. {REFETCH}") from error


def _build(build: Callable[[Path], Part], path: Path) -> Part:
    """`build(path)`; whatever a broken file raises in there becomes an error that names it."""
    try:
        return build(path)
    except Exception as error:
        raise GuardConfigError(f"{path} can't be used: {error}. {REFETCH}") from error


def _session(weights: Path, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads would burn the core that the event loop runs on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The fused layer norm is six times slower on CPUs than the two nodes it replaces.
    return ort.InferenceSession(
        str(weights), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )
