"""The folder of one run: claimed by its identity, so that the same command goes on where it was."""

from __future__ import annotations

from pathlib import Path

from tunewise.errors import OutputFolderError
from tunewise.measure.files import read_json, write_json

_CLAIM = "run.json"


def claim(folder: Path, identity: str, command: str) -> bool:
    """Take a folder for a run.

    Args:
        folder: new, empty, or of the same run.
        identity: hash of everything that decides the results.
        command: the command line, for the message to the next who comes.

    Returns:
        True where an earlier, unfinished or finished, run of the same identity is there.

    Raises:
        OutputFolderError: it holds another run, or something else; nothing is touched.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError("--out is a file", found=str(folder), expected="a folder")
    held = read_json(folder / _CLAIM)
    if held is not None:
        if held.get("identity") == identity:
            return True
        raise OutputFolderError(
            "the output folder holds another run",
            found=f"{folder}: {held.get('command', 'an unknown command')}",
            expected="a new or empty folder, or that of the same run",
            fix="choose another --out, or remove the folder",
        )
    others = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if others:
        raise OutputFolderError(
            "the output folder is not empty",
            found=f"{folder}: {', '.join(others[:5])}",
            expected="a new or empty folder, or that of the same run",
            fix="choose another --out",
        )
    write_json(folder / _CLAIM, {"identity": identity, "command": command})
    return False
