"""Packs the written training texts for the wheel: nothing but training reads them, and there they take a fifth."""

from __future__ import annotations

import lzma
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WRITTEN = Path("guardmw") / "train" / "written"


class PackedTexts(BuildHookInterface[Any]):
    """Puts ``written/*.jsonl.xz`` into the wheel where the repository has ``written/*.jsonl``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self.folder = TemporaryDirectory()
        for file in sorted((Path(self.root) / WRITTEN).glob("*.jsonl")):
            packed = Path(self.folder.name) / f"{file.name}.xz"
            packed.write_bytes(lzma.compress(file.read_bytes(), preset=9))
            build_data["force_include"][str(packed)] = str(WRITTEN / packed.name)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()
