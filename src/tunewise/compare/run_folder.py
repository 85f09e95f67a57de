"""The folder of one run: claimed by its identity, so that the same command goes on where it was."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tunewise.errors import OutputFolderError
from tunewise.measure.files import read_json, write_json

_locks: ModuleType | None
try:
    import fcntl

    _locks = fcntl
except ImportError:  # no such locks here; two processes in one folder are then not noticed
    _locks = None

_CLAIM = "run.json"
# What a kill in the middle of the very first write leaves.
_HALF_CLAIM = f".{_CLAIM}.new"
_FITTED = "adaptations"
# What stands in the folder of a run in which nothing is fitted yet.
_BEGUN_FILES = (_CLAIM, "started.json", "budget.json", "data_check.json")
_BEGUN_FOLDERS = ("checkpoints", "fits", "trials", _FITTED)
# Whoever looks whether a folder is free holds it for a moment; who wants it waits that long.
_LOOKED_AT_SECONDS = 1.0
_EXPECTED = "a new or empty folder, or that of the same run"


def check_out(folder: Path, plan: str) -> None:
    """Refuse a folder that this run cannot have, before any slow work. Nothing is touched.

    Args:
        folder: of the run.
        plan: hash of what is known of the run so far.

    Raises:
        OutputFolderError: it is a file, or holds another run or something else.
    """
    held = _claim_in(folder)
    if held is not None and held.get("plan", plan) != plan:
        raise _another_run(folder, held)


def check_free(folder: Path) -> None:
    """Refuse a folder that no run can have: a file, or one with something else in it.

    Args:
        folder: of a run, new or begun.

    Raises:
        OutputFolderError: it is; nothing is touched.
    """
    _claim_in(folder)


def claim(folder: Path, identity: str, command: str, plan: str = "") -> bool:
    """Take a folder for a run.

    Args:
        folder: new, empty, or of the same run.
        identity: hash of everything that decides the results.
        command: the command line, for the message to the next who comes.
        plan: for `check_out` of the next who comes.

    Returns:
        True where an earlier, unfinished or finished, run of the same identity is there.

    Raises:
        OutputFolderError: it holds another run, or something else; nothing is touched.
    """
    held = _claim_in(folder)
    if held is None:
        write_json(folder / _CLAIM, {"identity": identity, "plan": plan, "command": command})
        return False
    if held.get("identity") != identity:
        raise _another_run(folder, held)
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a claimed folder while the context lasts.

    Two would write the same checkpoints and clear each other's away. The lock is the system's and
    lies on the folder itself: it goes with the process, however that ends, and leaves no file.

    Args:
        folder: that is there.

    Raises:
        OutputFolderError: another process works in it.
    """
    if _locks is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + _LOOKED_AT_SECONDS
        while not _locked(_locks, handle, shared=False):
            if time.monotonic() > until:
                raise _in_use(folder)
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def release(folder: Path, *, keep: bool) -> None:
    """Give a claimed folder back as it was; one in which something is fitted stays.

    Args:
        folder: empty or absent before it was claimed.
        keep: whether the folder itself was there before.
    """
    if any((folder / _FITTED).glob("*")):
        return
    for name in _BEGUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for name in _BEGUN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    if not keep and not any(folder.iterdir()):
        folder.rmdir()


def _claim_in(folder: Path) -> dict[str, object] | None:
    """The claim of a run that is there, or None in a folder that is free."""
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(
            "--out is a file", found=str(folder), expected="a folder", fix="choose another --out"
        )
    if folder.exists():
        _check_idle(folder)
    held = read_json(folder / _CLAIM)
    if held is not None:
        return held
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    others = sorted(names - {_HALF_CLAIM})
    if others:
        raise OutputFolderError(
            "the output folder is not empty",
            found=f"{folder}: {', '.join(others[:5])}",
            expected=_EXPECTED,
            fix="choose another --out",
        )
    return None


def _check_idle(folder: Path) -> None:
    """Refuse a folder in which a process is at work."""
    if _locks is None:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _locked(_locks, handle, shared=True):
            raise _in_use(folder)
    finally:
        os.close(handle)


def _locked(locks: ModuleType, handle: int, *, shared: bool) -> bool:
    """Whether the lock could be had; True too where the file system has none to give."""
    try:
        locks.flock(handle, (locks.LOCK_SH if shared else locks.LOCK_EX) | locks.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _in_use(folder: Path) -> OutputFolderError:
    return OutputFolderError(
        "another process works in the output folder",
        found=str(folder),
        expected="one process at a time",
        fix="wait for it, or stop it and run the same command again, which goes on from there; or "
        "choose another --out",
    )


def _another_run(folder: Path, held: dict[str, object]) -> OutputFolderError:
    return OutputFolderError(
        "the output folder holds another run",
        found=f"{folder}: {held.get('command', 'an unknown command')}",
        expected=_EXPECTED,
        fix="choose another --out, or remove the folder",
    )
