"""Where kept prefixes lie and how they are called, so that an adaptation's are found unread."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path

FOLDER = "prefixes"
ENDING, UNFINISHED = ".prefix", ".part"


def owner(tenant: str, content_hash: str) -> str:
    """How the names of one adaptation's files begin."""
    return hashlib.sha256(json.dumps([tenant, content_hash]).encode()).hexdigest()[:32]


def forget(folder: Path, tenant: str, content_hash: str) -> None:
    """Remove the prefixes of one adaptation, as far as they are there.

    Args:
        folder: of kept prefixes.
        tenant, content_hash: whose.
    """
    for path in folder.glob(f"{owner(tenant, content_hash)}-*{ENDING}"):
        # It is a cache: what cannot be removed now leaves by age.
        with contextlib.suppress(OSError):
            path.unlink()


def make(folder: Path, *, own: bool) -> None:
    """Make the folder, if it is not there, and try to write there.

    Args:
        folder: of kept prefixes.
        own: whether it must be this user's alone: who can write there decides what is read.

    Raises:
        OSError: it cannot be written to, or others can.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = folder.stat()
    if own and (told.st_uid != os.geteuid() or told.st_mode & 0o022):
        raise PermissionError(errno.EPERM, "others can write there", str(folder))
    probe = folder / f"probe.{os.getpid()}{UNFINISHED}"
    probe.write_bytes(b"0")
    probe.unlink(missing_ok=True)
