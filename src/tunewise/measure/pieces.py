"""Pieces of a measurement as they are done, so that a killed run goes on behind the last one."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.measure.files import read_json, write_json


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces by key, a file each.

    Attributes:
        folder: where they are; None keeps nothing.
        identity: of what they belong to; pieces of another are passed over.
    """

    folder: Path | None = None
    identity: str = ""

    def read(self, key: str) -> dict[str, Any] | None:
        """The piece of this key, or None."""
        path = self._path(key)
        stored = None if path is None else read_json(path)
        if stored is None or stored.get("identity") != self.identity or stored.get("key") != key:
            return None
        piece = stored.get("piece")
        return piece if isinstance(piece, dict) else None

    def write(self, key: str, piece: Mapping[str, Any]) -> None:
        """Keep a piece (JSON values).

        Raises:
            StorageError: the disk is full or refuses.
        """
        path = self._path(key)
        if path is not None:
            write_json(path, {"identity": self.identity, "key": key, "piece": dict(piece)})

    def clear(self) -> None:
        """Remove all of them."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path | None:
        if self.folder is None:
            return None
        # The words are for whoever looks into the folder; the hash keeps like keys apart.
        words = re.sub(r"[^A-Za-z0-9.]+", "-", key)[:60]
        return self.folder / f"{words}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
