"""Adaptations on disk: one folder, safetensors and JSON only, every byte accounted for.

`adaptation.json` is the manifest: format number, the parts with their files, decoding, task,
provenance, size and hash of every file, and `fingerprint`, the hash of all the rest of it. Since
the manifest holds the hash of every file, the fingerprint names the whole content. No clock times
and no paths of this machine are added, so the same adaptation gives the same bytes.

Objects that a method or a user fills freely (settings, notes, a schema) hold JSON values; a tuple
in them comes back as a list.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.files import (
    MANIFEST_ROOT,
    Files,
    PartEntry,
    json_bytes,
    part_files,
    read_part,
)
from tunewise.adaptation.folder import (
    MANIFEST,
    check_name,
    check_stored,
    files_in,
    some_of,
    write_folder,
)
from tunewise.adaptation.parts import LowRankPart, ShallowModelPart
from tunewise.errors import (
    AdaptationError,
    CorruptAdaptationError,
    OutputFolderError,
    StorageError,
    WrongBaseError,
)
from tunewise.task.types import TaskSpec

FORMAT = 1
RECORDED_LIBRARIES = ("tunewise", "torch", "transformers", "peft")
_AGAIN = "copy the folder again from where it came from, or fit it again"


class FileEntry(BaseModel):
    """Size and hash of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What `adaptation.json` holds; a field that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    format: Literal[1]
    fingerprint: str
    parts: tuple[PartEntry, ...]
    files: dict[str, FileEntry]
    decoding: Decoding
    spec: TaskSpec
    provenance: Provenance


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that take part in a fit, read without importing them."""
    found: dict[str, str] = {}
    for name in RECORDED_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def fingerprint_of(adaptation: Adaptation) -> str:
    """Content hash of an adaptation, without touching the disk.

    Returns:
        64 hexadecimal digits; equal to `fingerprint_of_folder` of where it is saved.

    Raises:
        AdaptationError: it cannot be stored exactly.
    """
    return str(json.loads(_all_files(adaptation)[MANIFEST])["fingerprint"])


def fingerprint_of_folder(folder: Path) -> str:
    """Content hash of a stored adaptation, from its manifest alone.

    The manifest is checked against the hash; the files it names are checked by `load`.

    Raises:
        AdaptationError: the folder holds no adaptation, or its manifest is damaged.
    """
    return _read_manifest(folder).fingerprint


def save(adaptation: Adaptation, folder: Path) -> None:
    """Write an adaptation into a folder, whole or not at all.

    Args:
        adaptation: what to store.
        folder: absent or empty; or it holds the identical adaptation already, and stays as it is.

    Raises:
        OutputFolderError: the folder holds something else.
        StorageError: the disk is full or refuses to be written; nothing is left behind.
        AdaptationError: the adaptation cannot be stored exactly.
    """
    files = _all_files(adaptation)
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputFolderError("the output folder is a file", found=str(folder))
        held = files_in(folder) if folder.is_dir() else []
        occupied = folder.is_dir() and any(folder.iterdir())
    except PermissionError as error:
        raise StorageError(
            "the output folder may not be read", found=str(folder), fix="choose another folder"
        ) from error
    if not occupied:
        write_folder(files, folder)
        return
    if held == sorted(files) and all(
        (folder / name).read_bytes() == data for name, data in files.items()
    ):
        return
    raise OutputFolderError(
        "the output folder holds something else",
        found=f"{folder}: {some_of(sorted(path.name for path in folder.iterdir()))}",
        expected="a folder that is absent or empty, or that holds this very adaptation",
        fix="choose another folder, or remove this one",
    )


def load(
    folder: Path, *, base_fingerprint: str | None = None, base_name: str | None = None
) -> Adaptation:
    """Read an adaptation, after checking every byte of it.

    Args:
        folder: where it was saved.
        base_fingerprint: of the base it is to be used with; None skips this check. An adaptation
            that never calls the base (a shallow model) goes with any.
        base_name: of that base, for the message.

    Returns:
        What was saved: tensors on the CPU, equal bit by bit.

    Raises:
        AdaptationError: the folder holds no adaptation, or one of a newer format.
        CorruptAdaptationError: a byte differs, or a file is missing or was added.
        WrongBaseError: it was made for another base.
    """
    manifest = _read_manifest(folder)
    contents = _read_files(folder, manifest)
    parts = tuple(read_part(entry, contents.__getitem__) for entry in manifest.parts)
    adaptation = Adaptation(parts, manifest.decoding, manifest.spec, manifest.provenance)
    uses_base = adaptation.part(ShallowModelPart) is None
    made_for = manifest.provenance
    if uses_base and base_fingerprint not in (None, made_for.base_fingerprint):
        raise WrongBaseError(
            "the adaptation was made for another base model",
            found=f"{folder} was made for {made_for.base_name} ({made_for.base_fingerprint})",
            expected=f"the base at hand: {base_name or 'name not given'} ({base_fingerprint})",
            fix=f"use --base {made_for.base_name}, or fit the adaptation again on this base",
        )
    return adaptation


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder, hidden ones left out."""
    return sum((folder / name).stat().st_size for name in files_in(folder))


def _all_files(adaptation: Adaptation) -> Files:
    """Every file of an adaptation by name, the manifest among them."""
    base_name = adaptation.provenance.base_name
    files: Files = {}
    entries: dict[str, dict[str, Any]] = {}
    # The root belongs to a low_rank part where there is one, whatever the order of the parts.
    for part in sorted(adaptation.parts, key=lambda part: not isinstance(part, LowRankPart)):
        entry, own = part_files(part, base_name, files)
        entries[part.kind] = entry.model_dump(exclude_none=True)
        files |= own
    body = {
        "format": FORMAT,
        "parts": [entries[kind] for kind in adaptation.kinds],
        "files": {name: _file_entry(data) for name, data in files.items()},
        "decoding": adaptation.decoding,
        "spec": adaptation.spec,
        "provenance": adaptation.provenance,
    }
    files[MANIFEST] = json_bytes({**body, "fingerprint": _fingerprint(body)}, MANIFEST_ROOT)
    return files


def _file_entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _fingerprint(body: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes(body, MANIFEST_ROOT)).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    check_stored(folder)
    data = _read(path)
    try:
        body = json.loads(data)
        number = body["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptAdaptationError(
            f"{MANIFEST} cannot be read",
            found=f"{path}, {len(data)} bytes: {error}",
            expected="JSON as it was saved",
            fix=_AGAIN,
        ) from error
    if isinstance(number, int) and number > FORMAT:
        raise AdaptationError(
            "the adaptation was saved by a newer version of Tunewise",
            found=f"{path}: format {number}",
            expected=f"format {FORMAT} or older",
            fix="upgrade: pip install --upgrade tunewise",
        )
    stored = body.pop("fingerprint", None)
    actual = _fingerprint(body)
    if stored != actual or json_bytes({**body, "fingerprint": stored}, MANIFEST_ROOT) != data:
        raise CorruptAdaptationError(
            f"{MANIFEST} differs from what was saved",
            found=f"{path} with hash {actual}",
            expected=f"hash {stored}, in the layout it was saved in",
            fix=_AGAIN,
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise CorruptAdaptationError(
            f"{MANIFEST} holds what this version does not know",
            found=f"{path}: {error}",
            fix=_AGAIN,
        ) from error
    for name in manifest.files:
        check_name(name)
    return manifest


def _read_files(folder: Path, manifest: Manifest) -> Files:
    """All files of an adaptation, each compared with its recorded size and hash."""
    present = set(files_in(folder)) - {MANIFEST}
    missing, extra = sorted(set(manifest.files) - present), sorted(present - set(manifest.files))
    if missing or extra:
        found = [f"missing: {some_of(missing)}"] if missing else []
        found += [f"not part of it: {some_of(extra)}"] if extra else []
        raise CorruptAdaptationError(
            "the folder does not hold the files that were saved",
            found=f"{folder}: {'; '.join(found)}",
            expected=some_of([MANIFEST, *sorted(manifest.files)]),
            fix="remove what does not belong there" if not missing else _AGAIN,
        )
    contents: Files = {}
    for name, entry in manifest.files.items():
        data = _read(folder / name)
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256 or len(data) != entry.bytes:
            raise CorruptAdaptationError(
                f"{name} differs from what was saved",
                found=f"{folder / name}: {len(data):,} bytes, sha256 {digest}",
                expected=f"{entry.bytes:,} bytes, sha256 {entry.sha256}",
                fix=_AGAIN,
            )
        contents[name] = data
    return contents


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AdaptationError(
            "a file of the adaptation cannot be read", found=f"{path}: {error.strerror}"
        ) from error
