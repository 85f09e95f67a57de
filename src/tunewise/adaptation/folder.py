"""A folder of files, written whole or not at all, and read with every byte checked."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from tunewise.errors import (
    AdaptationError,
    CorruptAdaptationError,
    OutputFolderError,
    StorageError,
)

MANIFEST = "adaptation.json"

_MOST_NAMED = 8
REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "the folder may not be written",
    errno.EPERM: "the folder may not be written",
    errno.EROFS: "the disk is read-only",
}


def check_stored(folder: Path) -> None:
    """Refuse a folder that holds no adaptation, before torch is loaded for it.

    Args:
        folder: of an adaptation.

    Raises:
        AdaptationError: it holds none; those nearby that do are named.
    """
    if (folder / MANIFEST).is_file():
        return
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        found = f"{folder} holds {some_of(names) if names else 'nothing'}"
    else:
        found = f"{folder} is a file" if folder.exists() else f"{folder} does not exist"
    nearby: list[str] = []
    # A run keeps its adaptations in a folder of its own: two steps down.
    for where, down in ((folder, "*"), (folder, "*/*"), (folder.parent, "*")):
        if where.is_dir():
            nearby += [str(path.parent) for path in sorted(where.glob(f"{down}/{MANIFEST}"))]
    if folder.is_file() and (folder.parent / MANIFEST).is_file():
        nearby = [str(folder.parent)]
    close = difflib.get_close_matches(str(folder), nearby, n=3, cutoff=0.0)
    raise AdaptationError(
        "no adaptation is stored there",
        found=found,
        expected=f"a folder with {MANIFEST}",
        fix=f"did you mean {' or '.join(close)}?" if close else "make one with `tunewise fit`",
    )


def some_of(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def write_folder(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into a new folder through a temporary sibling.

    Every file reaches the disk before the folder gets its name. An error or an interrupt leaves
    nothing behind; what a killed process left is removed by the next write.

    Args:
        files: contents by name relative to the folder, "/" between folders.
        folder: where to; absent or empty.

    Raises:
        OutputFolderError: the folder was filled by someone else meanwhile.
        StorageError: the disk is full or refuses to be written.
    """
    folder = Path(os.path.realpath(folder))
    total = sum(len(data) for data in files.values())
    with _told(folder, total), _parents(folder.parent):
        _remove_abandoned(folder)
        partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
        try:
            for name, data in files.items():
                _write_file(partial / name, data)
            for inner in sorted({(partial / name).parent for name in files}):
                _sync_folder(inner)
            _rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync_folder(folder.parent)


def files_in(folder: Path) -> list[str]:
    """Names of all files in a folder, relative, sorted; hidden ones left out.

    Version control, file browsers and the Hub's client leave hidden files behind; nothing is ever
    read from them.
    """
    relative = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(
        name.as_posix() for name in relative if not any(part[0] == "." for part in name.parts)
    )


def check_name(name: str) -> None:
    """Refuse a file name that could lead out of the folder.

    Raises:
        CorruptAdaptationError: it is absolute, or holds "..", a backslash or a drive.
    """
    path = PurePosixPath(name)
    strange = "\\" in name or ":" in name or "\0" in name or str(path) != name
    if path.is_absolute() or ".." in path.parts or strange or not name:
        raise CorruptAdaptationError(
            "the adaptation names a file outside its folder",
            found=name,
            expected="names relative to the folder, without '..'",
            fix="do not use this adaptation; get it again from where it came from",
        )


@contextmanager
def _told(folder: Path, total: int) -> Iterator[None]:
    """Turn the system's refusals into the project's own error, with sizes."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        free = "unknown"
        with suppress(OSError):
            existing = next(path for path in folder.parents if path.is_dir())
            free = f"{shutil.disk_usage(existing).free:,}"
        raise StorageError(
            f"the adaptation could not be saved: {REFUSALS[error.errno]}",
            found=f"{folder}: {total:,} bytes to write, {free} bytes free ({error.strerror})",
            expected="a folder that can be written, with room for the whole adaptation",
            fix="free some space or choose another folder; nothing was left behind",
        ) from error


@contextmanager
def _parents(parent: Path) -> Iterator[None]:
    """Make missing parents; take back the ones made here where the body fails."""
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(partial: Path, folder: Path) -> None:
    """Give the finished folder its name; an empty folder of that name is replaced in one step."""
    try:
        partial.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise OutputFolderError(
            "the output folder was filled while the adaptation was being written",
            found=str(folder),
            fix="choose a folder that nothing else writes to",
        ) from error


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writers of this same folder left."""
    for path in folder.parent.glob(f".{folder.name}.*.partial"):
        writer = path.name.split(".")[-2]
        if writer.isdigit() and (int(writer) == os.getpid() or not _is_running(int(writer))):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
