"""A disk that fills up in the middle: exit 3, and the same command goes on from there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise
from tests.cli.test_commands import bytes_of

FLAGS = ("--methods", "majority,soft_prompt", "--seeds", "1", "--budget", "20k", "--json")
PLACES = ("run.json", "checkpoints", "adaptations", "fits", "records", "comparison.json", "report")


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_loses_nothing(
    place: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_rows(tmp_path / "rows.jsonl", two_labels(40)), tmp_path / "run"
    real = os.replace, os.rename

    def refusing(way: Any) -> Any:
        def replace(source: Any, target: Any, **options: Any) -> Any:
            if f"/run/{place}" in str(target) and "majority" not in str(target):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            return way(source, target, **options)

        return replace

    command = ("compare", data, "--base", tiny_folder, "--out", out, *FLAGS)
    with monkeypatch.context() as full:
        full.setattr(os, "replace", refusing(real[0]))
        full.setattr(os, "rename", refusing(real[1]))
        full.setattr(Path, "replace", os.replace)
        full.setattr(Path, "rename", os.rename)
        stopped = tunewise(*command)
    assert stopped.code == 3, stopped.err
    assert stopped.json["error"] == "StorageError"
    assert "space" in stopped.json["fix"]
    assert "Traceback" not in stopped.err
    done = tunewise(*command)
    assert done.code == 0, done.err
    left = [name for name in bytes_of(out) if name.endswith((".new", ".tmp", ".partial"))]
    assert left == []


def test_a_folder_that_may_not_be_written(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(40))

    def mkdir(self: Path, *a: object, **k: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    done = tunewise("compare", data, "--base", tiny_folder, "--out", tmp_path / "run", *FLAGS)
    assert done.code == 3
    assert done.json["error"] == "StorageError"
    assert "Permission denied" in done.json["found"]
