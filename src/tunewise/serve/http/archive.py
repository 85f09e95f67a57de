"""Unpacking what somebody sent: a zip of one adaptation's files, nothing else, into nowhere else.

The archive's own table says how long files are and may lie, so bytes are counted as they come out.
"""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from tunewise.adaptation.folder import check_name
from tunewise.errors import AdaptationError, CorruptAdaptationError

MOST_FILES = 64
CHUNK_BYTES = 1 << 20
ENDINGS = (".json", ".safetensors")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What the library is known to raise on bytes that are no archive, or a damaged one.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    NotImplementedError,
    ValueError,
)
_AGAIN = "zip the files inside the adaptation's folder: cd FOLDER && zip -r ../adaptation.zip ."


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> None:
    """Unpack an archive.

    Args:
        archive: a zip file.
        folder: absent; made here. What was written before an error stays there.
        most_bytes: of all files together, unpacked.

    Raises:
        AdaptationError: it is no zip, or holds what no adaptation holds: names that lead
            elsewhere, links, passwords, other kinds of files, too many of them or too long ones.
        CorruptAdaptationError: a file in it is damaged.
    """
    folder.mkdir(mode=0o700)
    left = most_bytes
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [each for each in packed.infolist() if not each.is_dir()]
            _check(entries)
            for entry in entries:
                place = folder / entry.filename
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                left = _write(packed, entry, place, left)
    except _UNREADABLE as error:
        raise _unreadable(error) from error
    except OSError as error:
        # A table that points before the beginning of the file; the disk's own errors go on.
        if error.errno != errno.EINVAL:
            raise
        raise _unreadable(error) from error


def _check(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if not 1 <= len(entries) <= MOST_FILES:
        raise _refused("the archive has too few or too many files", f"{len(entries)}")
    # Two names that differ in case are one file on some disks.
    if len({name.casefold() for name in names}) != len(names):
        raise _refused("the archive holds a file twice", "")
    for entry in entries:
        check_name(entry.filename)
        mode = entry.external_attr >> 16
        # A file of a system without Unix modes has none.
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _refused("the archive holds something that is no plain file", entry.filename)
        if entry.flag_bits & 0x1:
            raise _refused("a file in the archive is behind a password", entry.filename)
        if entry.compress_type not in METHODS:
            raise _refused("a file in the archive is packed in an unusual way", entry.filename)
        if not entry.filename.endswith(ENDINGS):
            raise _refused("the archive holds another kind of file", entry.filename)


def _write(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path, left: int) -> int:
    """Write one file; returns how many bytes may still come."""
    with packed.open(entry) as source, place.open("xb") as target:
        while data := source.read(CHUNK_BYTES):
            left -= len(data)
            if left < 0:
                raise _refused("the archive unpacks to more bytes than one may have", "")
            target.write(data)
    return left


def _unreadable(error: Exception) -> CorruptAdaptationError:
    return CorruptAdaptationError(
        "the upload is no readable zip archive",
        found=type(error).__name__,
        expected="a zip of an adaptation's files",
        fix=_AGAIN,
    )


def _refused(what: str, found: str) -> AdaptationError:
    return AdaptationError(
        what,
        found=found[:200],
        expected=f"up to {MOST_FILES} files that end in {' or '.join(ENDINGS)}",
        fix=_AGAIN,
    )
