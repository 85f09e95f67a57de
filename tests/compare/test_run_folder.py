"""The folder of a run belongs to one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunewise.compare.run_folder import alone, check_free, check_out, claim
from tunewise.errors import OutputFolderError

_HOLDS = """
import sys
from pathlib import Path
from tunewise.compare.run_folder import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _begun(tmp_path: Path) -> Path:
    folder = tmp_path / "my run"
    claim(folder, "identity", "tunewise compare rows.csv", "plan")
    return folder


def test_a_folder_in_use_is_refused_and_free_once_its_process_is_killed(tmp_path: Path) -> None:
    folder = _begun(tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(folder)], stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for taken in (
            lambda: check_free(folder),
            lambda: check_out(folder, "plan"),
            lambda: claim(folder, "identity", "tunewise compare rows.csv", "plan"),
            lambda: alone(folder).__enter__(),
        ):
            with pytest.raises(OutputFolderError, match="another process works"):
                taken()
        process.kill()
    with alone(folder):
        pass
    assert claim(folder, "identity", "tunewise compare rows.csv", "plan")
    assert sorted(path.name for path in folder.iterdir()) == before


def test_who_only_looks_keeps_nobody_out(tmp_path: Path) -> None:
    folder = _begun(tmp_path)
    check_free(folder)
    with alone(folder):
        pass
    check_free(folder)
