"""The folder of fetched models: what lies in it, whether it is whole, and how one gets in.

A model is made in a folder with a name that is never looked up, and renamed when it is complete.
So a fetch that is interrupted leaves no model, and of two that run at once the first one stays.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
import psutil
from safetensors import SafetensorError

from tunewise.errors import RunError, StorageError

RECORD = "tunewise-model.json"
_FORMAT = 1
_PARTIAL = ".partial"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a file was when it was stored.

    Attributes:
        bytes: its size.
        sha256: its hash.
        mtime_ns: when it was written, in nanoseconds; a file that kept it is not read again.
    """

    bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What is known of a cached model; stored beside it as `tunewise-model.json`.

    Attributes:
        name: the name it is found under.
        source: where it came from, in words.
        licence: SPDX identifier or the name of the terms, "" where unknown.
        fingerprint: SHA-256 over weights, tokenizer and chat template.
        files: name -> what it was.
        versions: the libraries that made it.
    """

    name: str
    source: str
    licence: str
    fingerprint: str
    files: Mapping[str, StoredFile]
    versions: Mapping[str, str]


def home() -> Path:
    """The cache folder: the environment variable TUNEWISE_HOME, else the user's cache folder."""
    chosen = os.environ.get("TUNEWISE_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("tunewise"))


def model_folder(name: str) -> Path:
    """Where the model of this name lies, or would lie."""
    return home() / "models" / name


def cached_names() -> list[str]:
    """The names of the models that lie in the cache, whole or damaged."""
    root = home() / "models"
    if not root.is_dir():
        return []
    return sorted(
        folder.name
        for folder in root.iterdir()
        if not folder.name.startswith(".") and (folder / RECORD).is_file()
    )


def read_record(folder: Path) -> ModelRecord:
    """The record beside a cached model.

    Raises:
        RunError: it cannot be read.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")
        files = {name: StoredFile(**stored) for name, stored in content.pop("files").items()}
        return ModelRecord(files=files, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{RECORD} cannot be read ({error})") from error


def check(folder: Path, *, thorough: bool = False) -> ModelRecord:
    """Check that a cached model is what was stored.

    Args:
        folder: the model's folder.
        thorough: hash every file; else only those whose time of writing changed.

    Returns:
        Its record.

    Raises:
        RunError: a file is missing or differs; says how to fetch it again.
    """
    record = read_record(folder)
    for name, stored in record.files.items():
        path = folder / name
        try:
            status = path.stat()
        except OSError as error:
            raise _damaged(folder, f"{name} is missing") from error
        if status.st_size != stored.bytes:
            raise _damaged(folder, f"{name} has {status.st_size} bytes, not {stored.bytes}")
        if (thorough or status.st_mtime_ns != stored.mtime_ns) and (
            file_hash(path) != stored.sha256
        ):
            raise _damaged(folder, f"the bytes of {name} differ from what was stored")
    return record


def write_record(
    folder: Path,
    *,
    name: str,
    source: str,
    licence: str,
    fingerprint: str,
    versions: Mapping[str, str],
) -> None:
    """Write the record of a model that is complete in `folder`."""
    files = {
        path.relative_to(folder).as_posix(): StoredFile(
            bytes=path.stat().st_size, sha256=file_hash(path), mtime_ns=path.stat().st_mtime_ns
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    record = ModelRecord(name, source, licence, fingerprint, files, dict(versions))
    content = {"format": _FORMAT, **asdict(record)}
    (folder / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def new_model(name: str) -> Iterator[Path]:
    """A folder to make a model in; it becomes the model of this name when the block ends.

    An error inside the block removes it. Where another process finished first, its result stays.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    final = model_folder(name)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        prefix = f"{_PARTIAL}-{platform.node()}-{os.getpid()}-"
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    except OSError as error:
        raise _storage(error, final.parent) from error
    try:
        yield partial
        # mkdtemp makes a private folder; a shared cache follows the user's own umask instead.
        partial.chmod(0o777 & ~_umask())
        _take_place(partial, final)
    except (OSError, SafetensorError) as error:
        if not _disk_refuses(error):
            raise
        raise _storage(error, final.parent) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _take_place(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        try:
            check(final, thorough=True)
        except RunError:
            # What stands there is damaged: it is moved aside, so that readers see one or the other.
            aside = Path(tempfile.mkdtemp(prefix=partial.name, dir=final.parent))
            final.rename(aside / "old")
            partial.rename(final)
            shutil.rmtree(aside, ignore_errors=True)


def _sweep(root: Path) -> None:
    # Left by a process of this machine that was killed.
    mine = f"{_PARTIAL}-{platform.node()}-"
    for folder in root.glob(f"{mine}*"):
        owner = folder.name.removeprefix(mine).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _damaged(folder: Path, found: str) -> RunError:
    return RunError(
        f"the cached model {folder.name!r} is damaged",
        found=f"{found}, in {folder}",
        expected="the files as they were stored",
        fix=f"fetch it again: tunewise models --fetch {folder.name}; or delete {folder}",
    )


def _disk_refuses(error: OSError | SafetensorError) -> bool:
    # safetensors writes outside Python and tells the system's error number in its text only.
    code = error.errno if isinstance(error, OSError) else None
    return code in _DISK_ERRORS or any(f"os error {known})" in str(error) for known in _DISK_ERRORS)


def _storage(error: OSError | SafetensorError, folder: Path) -> StorageError:
    return StorageError(
        "a model cannot be stored",
        found=f"{getattr(error, 'strerror', None) or error} ({folder})",
        fix="free some space, or set TUNEWISE_HOME to a folder on another disk",
    )
