"""Texts to vectors with the exported encoder, each text once: vectors are kept in a file between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["VectorCache"]

SAVE_EVERY = 4096
"""Vectors computed between two writes of the cache, so that a broken-off run loses little."""
BATCH = 16

Encode = Callable[[Sequence[Sequence[int]]], NDArray[np.float32]]


class VectorCache:
    """Vectors of windows of piece ids, in memory and in `file` (an ``.npz``, half precision: 1e-3 is what int8 keeps).

    One file belongs to one encoder: `encoder_sha256` names it, and a file of another encoder is not read.
    """

    def __init__(self, file: Path, encoder_sha256: str, encode: Encode) -> None:
        self._file, self._encoder, self._encode = file, encoder_sha256, encode
        self._vectors: dict[bytes, NDArray[np.float16]] = {}
        if file.exists():
            with np.load(file) as kept:
                if str(kept["encoder"]) == encoder_sha256:
                    self._vectors = {key.tobytes(): row for key, row in zip(kept["keys"], kept["vectors"], strict=True)}

    def of(
        self, windows: Sequence[Sequence[int]], done: Callable[[int], None] = lambda count: None
    ) -> NDArray[np.float32]:
        """One unit vector per window; `done` is told how many were computed since it was last called."""
        keys = [_key(window) for window in windows]
        missing = {key: window for key, window in zip(keys, windows, strict=True) if key not in self._vectors}
        done(len(windows) - len(missing))
        # By length, so that a batch holds no padding to speak of.
        ordered = sorted(missing.items(), key=lambda item: len(item[1]))
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            vectors = self._encode([window for _, window in batch]).astype(np.float16)
            self._vectors.update(zip((key for key, _ in batch), vectors, strict=True))
            done(len(batch))
            if start % SAVE_EVERY < BATCH and start:
                self.save()
        if ordered:
            self.save()
        return np.stack([self._vectors[key] for key in keys]).astype(np.float32)

    def save(self) -> None:
        keys = np.frombuffer(b"".join(self._vectors), dtype=np.uint8).reshape(len(self._vectors), -1)
        part = self._file.with_suffix(".part.npz")
        np.savez(part, encoder=np.array(self._encoder), keys=keys, vectors=np.stack(list(self._vectors.values())))
        part.replace(self._file)


def _key(window: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.asarray(window, dtype=np.int32).tobytes(), digest_size=16).digest()
