"""Measured records as JSON files, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewise.errors import StorageError
from tunewise.measure.records import FitRecord, RowResult


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically.

    Raises:
        StorageError: the disk is full or refuses; the file before stays.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise StorageError(
            "a result cannot be written",
            found=f"{path}: {error.strerror or error}",
            expected="a disk with room, and a folder that can be written",
            fix="free some space or choose another --out, then run again",
        ) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None where there is no such file or it is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_record(path: Path, record: FitRecord) -> None:
    """Store one measured fit; what has no group is stored as it was before there were any."""
    content = asdict(record)
    for name in ("test", "validation"):
        content[name] = [_as_stored(result) for result in content[name]]
    write_json(path, content)


def read_record(path: Path) -> FitRecord | None:
    """A stored measured fit, or None where there is none that can be read."""
    content = read_json(path)
    if content is None:
        return None
    try:
        for name in ("test", "validation"):
            content[name] = _results(content[name])
        content["parts"] = tuple(content["parts"])
        content["curve"] = tuple(content["curve"])
        return FitRecord(**content)
    except (KeyError, TypeError):
        return None  # it is none of ours, or of another version: measured again


def write_results(path: Path, results: Iterable[RowResult], seconds: float) -> None:
    """Store answered rows, and how long answering took."""
    rows = [_as_stored(asdict(result)) for result in results]
    write_json(path, {"results": rows, "seconds": seconds})


def read_results(path: Path) -> tuple[RowResult, ...] | None:
    """Stored answered rows, or None where there are none that can be read."""
    content = read_json(path)
    try:
        return None if content is None else _results(content["results"])
    except (KeyError, TypeError):
        return None  # of another version: answered again


def _as_stored(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "group" or value is not None}


def _results(stored: Iterable[Mapping[str, Any]]) -> tuple[RowResult, ...]:
    return tuple(RowResult(**result) for result in stored)
