"""The state of a fit between two stages, on disk, so that an interrupted fit goes on from there.

One folder with two files, replaced as a whole: tensors as safetensors, the rest as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewise.errors import StorageError

_TENSORS, _FACTS = "state.safetensors", "state.json"


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the stored state.

    Args:
        folder: the checkpoint's own folder; made where it is missing.
        tensors: by name.
        facts: JSON values.

    Raises:
        StorageError: it cannot be written; the state before stays.
    """
    fresh = folder.with_name(folder.name + ".new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh / _TENSORS)
        (fresh / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        # A rename replaces no folder that holds files, so the old one steps aside first.
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise StorageError(
            "a checkpoint cannot be written", found=str(error), fix="free some space and run again"
        ) from error


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The stored state, or None where there is none. A kill between two renames is mended."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.replace(old, folder)
    facts = folder / _FACTS
    if not facts.exists():
        return None
    return load_file(folder / _TENSORS), json.loads(facts.read_text(encoding="utf-8"))


def clear_state(folder: Path) -> None:
    """Remove the stored state. A kill on the way leaves it whole, or nothing that is read again."""
    for suffix in (".new", ".old", ".gone"):
        shutil.rmtree(folder.with_name(folder.name + suffix), ignore_errors=True)
    if folder.exists():
        gone = folder.with_name(folder.name + ".gone")
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)
