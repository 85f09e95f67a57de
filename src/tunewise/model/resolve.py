"""From a name to a folder with a model in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import ConfigError
from tunewise.model.fingerprint import folder_fingerprint


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that lies on this disk.

    Attributes:
        name: as asked.
        path: the folder.
        source: where it came from.
    """

    name: str
    path: str
    source: str


def resolve(name: str) -> ResolvedModel:
    """The folder of a model."""
    if (Path(name) / "config.json").is_file():
        return ResolvedModel(name=name, path=str(Path(name).resolve()), source="folder")
    raise ConfigError("no such model", found=name)


def stored_fingerprint(folder: Path, tokenizer: Any) -> str:
    """The fingerprint of a model folder."""
    return folder_fingerprint(folder, tokenizer)
