"""From a name to a folder with a model in it.

A name is, in this order: a short name of the catalog, a local folder, a GGUF file, a name that lies
in the cache, a hub id "organisation/name". Short names are fetched when they are first used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import ConfigError, RunError
from tunewise.model import cache
from tunewise.model.catalog import CATALOG
from tunewise.model.convert import check_gguf, convert_gguf, converter_versions
from tunewise.model.fetch import fetch_entry, hub_snapshot
from tunewise.model.fingerprint import folder_fingerprint
from tunewise.model.names import check_name

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that lies on this disk.

    Attributes:
        name: as asked.
        path: the folder with its config, safetensors and tokenizer.
        source: where it came from, in words.
    """

    name: str
    path: str
    source: str


def resolve(name: str) -> ResolvedModel:
    """Find a model; a short name or hub id that is not here yet is fetched.

    Args:
        name: see the module's own description.

    Raises:
        UnknownNameError: no such name; shows close ones.
        ConfigError: a folder or file that holds no usable model.
        UnavailableError: it must be fetched and cannot be.
        RunError: the cached copy is damaged.
    """
    check_name(name)
    if name in CATALOG:
        folder = cache.model_folder(name)
        if not (folder / cache.RECORD).is_file():
            fetch_entry(CATALOG[name])
        return ResolvedModel(name=name, path=str(folder), source=cache.check(folder).source)
    path = Path(name).expanduser()
    if path.is_dir():
        check_folder(path)
        return ResolvedModel(name=name, path=str(path.resolve()), source="folder")
    if path.is_file():
        return _from_gguf(path, name)
    if name in cache.cached_names():
        folder = cache.model_folder(name)
        return ResolvedModel(name=name, path=str(folder), source=cache.check(folder).source)
    folder = hub_snapshot(name)
    check_folder(folder)
    return ResolvedModel(name=name, path=str(folder), source=f"Hugging Face Hub: {name}")


def fetch(name: str) -> ResolvedModel:
    """Make sure that a model is here and whole: every byte is checked, a damaged copy replaced.

    Args:
        name: as for `resolve`.

    Raises:
        As `resolve`.
    """
    folder = cache.model_folder(name)
    if name in CATALOG and (folder / cache.RECORD).exists():
        try:
            cache.check(folder, thorough=True)
        except RunError:
            fetch_entry(CATALOG[name])
    return resolve(name)


def stored_fingerprint(folder: Path, tokenizer: Any, *, verify: bool = False) -> str:
    """The fingerprint of a model folder, remembered as long as its files do not change.

    Args:
        folder: a model folder.
        tokenizer: the tokenizer loaded from it.
        verify: hash the files in any case.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        RunError: `verify` found a cached model that differs from what was stored.
    """
    if (folder / cache.RECORD).is_file():
        return cache.check(folder, thorough=verify).fingerprint
    marks = {
        path.name: [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    memory = cache.home() / "fingerprints" / f"{key}.json"
    if not verify:
        known = _recall(memory, marks)
        if known is not None:
            return known
    fingerprint = folder_fingerprint(folder, tokenizer)
    _remember(memory, {"marks": marks, "fingerprint": fingerprint})
    return fingerprint


def check_folder(folder: Path) -> None:
    """Check that a folder can be loaded as a base model, without loading it.

    Raises:
        ConfigError: says what is in it and what is missing.
    """
    names = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "nothing"
    found = f"{folder} holds {shown}"
    if "config.json" not in names:
        raise ConfigError(
            "this folder holds no base model: it has no config.json",
            found=found,
            expected="a folder with config.json, safetensors and a tokenizer",
            fix=_guess(names, folder),
        )
    if not any(name.endswith(".safetensors") for name in names):
        if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
            raise ConfigError(
                "the weights of this folder are Python pickles, which can run code when read",
                found=found,
                expected="safetensors",
                fix="if you trust the folder, convert it once: load it with transformers' "
                "AutoModelForCausalLM.from_pretrained, call save_pretrained on a new folder, and "
                "save its tokenizer there too",
            )
        raise ConfigError("this folder holds no weights", found=found, expected="*.safetensors")
    lost = [name for name in _listed_shards(folder) if name not in names]
    if lost:
        raise ConfigError(
            "weights of this folder are missing",
            found=f"{', '.join(lost[:3])}: listed in the index, not in {folder}",
            fix="copy or download the folder again, completely",
        )
    if not any(name in names for name in _TOKENIZERS):
        raise ConfigError(
            "this folder holds no tokenizer",
            found=found,
            expected=f"one of {', '.join(_TOKENIZERS)}",
            fix="save the model's tokenizer into the same folder (save_pretrained)",
        )


def _from_gguf(file: Path, name: str) -> ResolvedModel:
    check_gguf(file)
    content = cache.file_hash(file)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip(".-") or "gguf"
    # The content decides: the same file under another path is the same model.
    folder = cache.model_folder(f"{stem}-{content[:12]}")
    if not (folder / cache.RECORD).is_file():
        with cache.new_model(folder.name) as made:
            fingerprint = convert_gguf(file, made)
            cache.write_record(
                made,
                name=folder.name,
                source=f"GGUF file {file.name}, SHA-256 {content}",
                licence="",
                fingerprint=fingerprint,
                versions=converter_versions(),
            )
    return ResolvedModel(name=name, path=str(folder), source=cache.check(folder).source)


def _guess(names: list[str], folder: Path) -> str:
    if "adapter_config.json" in names:
        return "this is an adapter: give the base model it was made for"
    quantized = [name for name in names if name.endswith(".gguf")]
    if quantized:
        return f"give the file itself: {folder / quantized[0]}"
    inside = [path.parent for path in sorted(folder.glob("*/config.json"))]
    return f"did you mean {inside[0]}?" if inside else ""


def _listed_shards(folder: Path) -> list[str]:
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _recall(memory: Path, marks: dict[str, list[int]]) -> str | None:
    try:
        content = json.loads(memory.read_text(encoding="utf-8"))
        return str(content["fingerprint"]) if content["marks"] == marks else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path, content: dict[str, Any]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=memory.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        Path(partial).replace(memory)
    except OSError:
        # Only a memory: without it the next load hashes again.
        return
