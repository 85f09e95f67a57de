"""Adaptations on disk: one folder, safetensors and JSON only."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tunewise.adaptation.bundle import Adaptation

RECORDED_LIBRARIES = ("tunewise", "torch", "transformers", "peft")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that take part in a fit, read without importing them."""
    found: dict[str, str] = {}
    for name in RECORDED_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def fingerprint_of(adaptation: Adaptation) -> str:
    """Content hash of an adaptation, the same in memory and on disk."""
    raise NotImplementedError


def fingerprint_of_folder(folder: Path) -> str:
    """Content hash of a stored adaptation; equals `fingerprint_of` of what `load` returns."""
    raise NotImplementedError


def save(adaptation: Adaptation, folder: Path) -> None:
    """Write an adaptation into a folder, whole or not at all."""
    raise NotImplementedError


def load(
    folder: Path, *, base_fingerprint: str | None = None, base_name: str | None = None
) -> Adaptation:
    """Read an adaptation, after checking every byte."""
    raise NotImplementedError


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
