"""Prefixes on disk: an engine that starts anew computes none of them again, and says the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.serve.engine.planted import KINDS, planted, tiny

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import KVPrefixPart, PromptTextPart
from tunewise.errors import ConfigError
from tunewise.model.base import Base
from tunewise.serve.contract import Finished
from tunewise.serve.engine import prefix_files, prefix_names
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.engine.prefix_files import PrefixFiles
from tunewise.serve.engine.residents import Resident
from tunewise.serve.requests import row_request
from tunewise.task.prompt import PromptText


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny()


@contextmanager
def engine_on(
    folder: Path, base: Base, plain: bool = True, **settings: Any
) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(
        base, EngineSettings(slots=4, prefix_folder=folder, **settings), plain=plain
    )
    try:
        yield engine
    finally:
        engine.close()


def asked(
    engine: EmbeddedEngine, adaptation: Adaptation, name: str = "a", tenant: str = "t"
) -> tuple[Finished, int]:
    """An answer, and how many positions of prompts it took to compute."""
    before = engine.stats().prompt_tokens
    ready = engine.ready(tenant, name, lambda: adaptation)
    end = engine.submit(row_request(ready, "abc ab")).result(60)
    assert end.error is None
    return end, engine.stats().prompt_tokens - before


def prefixes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.prefix"))


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("kind", [*KINDS, "three prompts"])
def test_an_engine_that_starts_anew_reads_what_was_computed(
    tmp_path: Path, base: Base, kind: str, plain: bool
) -> None:
    if kind == "three prompts":
        adaptation = planted(base, "prompt_text", 0, "score")
        prompts = PromptText("One."), (PromptText("Which of them?"), PromptText("A third one."))
        adaptation = replace(adaptation, parts=(PromptTextPart(*prompts),))
    else:
        adaptation = planted(base, kind, 1)
    with engine_on(tmp_path, base, plain) as engine:
        first, computed = asked(engine, adaptation)
        ready = engine.ready("t", "a", lambda: adaptation)
        positions = sum(each.prefix_positions for each in (ready, *ready.others))
    assert len(prefixes(tmp_path)) == len(adaptation.prompts)
    with engine_on(tmp_path, base, plain) as engine:
        again, left = asked(engine, adaptation)
    assert (again.text, again.reason) == (first.text, first.reason)
    # Stored keys and values were never computed.
    part = adaptation.part(KVPrefixPart)
    assert computed - left == positions - (0 if part is None else part.keys[0].shape[1])
    assert again.usage.prompt_tokens == first.usage.prompt_tokens


def test_prefixes_belong_to_a_tenant_a_content_and_a_way_of_computing(
    tmp_path: Path, base: Base
) -> None:
    adaptation = planted(base, "prompt_text", 0)
    with engine_on(tmp_path, base) as engine:
        _, computed = asked(engine, adaptation)
    with engine_on(tmp_path, base) as engine:
        assert asked(engine, adaptation, tenant="u")[1] == computed
        assert asked(engine, adaptation, name="b")[1] == computed
        assert asked(engine, adaptation)[1] < computed
    with engine_on(tmp_path, base, weights="int8") as engine:
        assert asked(engine, adaptation)[1] == computed
    other = tiny("qwen3")
    made = planted(other, "prompt_text", 0)
    with engine_on(tmp_path, other) as engine:
        assert asked(engine, made)[1] == computed


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: data[:-7],
        lambda data: b"",
        lambda data: data + b"x",
    ],
)
def test_a_damaged_file_is_computed_again_and_replaced(
    tmp_path: Path, base: Base, harm: Callable[[bytes], bytes]
) -> None:
    adaptation = planted(base, "virtual_tokens", 0)
    with engine_on(tmp_path, base) as engine:
        first, computed = asked(engine, adaptation)
    (path,) = prefixes(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    with engine_on(tmp_path, base) as engine:
        assert asked(engine, adaptation) == (first, computed)
    assert path.read_bytes() == whole


def resident(number: int) -> Resident:
    return Resident(("t", str(number)), positions=4)


def test_the_least_recently_used_leave(tmp_path: Path, base: Base) -> None:
    prefix = torch.randn(2, 4, 4, 8)
    room = 3 * (prefix.nbytes + 200)
    files = PrefixFiles(tmp_path, room, base, "own")
    for number in range(3):
        files.keep(resident(number), prefix + number)
    files.close()
    for age, path in enumerate(prefixes(tmp_path)):
        os.utime(path, (1000 + age, 1000 + age))
    files = PrefixFiles(tmp_path, room, base, "own")
    found = files.find(resident(1))
    assert found is not None
    assert found.equal(prefix + 1)
    files.keep(resident(3), prefix)
    files.keep(resident(4), prefix.repeat(9, 1, 1, 1))
    files.close()
    assert len(prefixes(tmp_path)) == 3
    assert all(files.find(resident(number)) is not None for number in (1, 3))
    assert files.find(resident(4)) is None
    assert sum(path.stat().st_size for path in prefixes(tmp_path)) <= room
    assert all(path.stat().st_mode & 0o077 == 0 for path in prefixes(tmp_path))


def test_a_full_disk_and_a_killed_process_leave_nothing_and_stop_nothing(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    adaptation = planted(base, "prompt_text", 0)
    gone = 2**22 + 1  # beyond any process's number
    (tmp_path / f"abc.{gone}.part").write_bytes(b"half")
    (tmp_path / f"def.{os.getppid()}.part").write_bytes(b"under way")
    with monkeypatch.context() as patched:
        patched.setattr(prefix_files.os, "replace", full)
        with engine_on(tmp_path, base) as engine:
            first = asked(engine, adaptation)
    assert not prefixes(tmp_path)
    with engine_on(tmp_path, base) as engine:
        assert asked(engine, adaptation) == first
    assert len(prefixes(tmp_path)) == 1
    assert [path.name for path in tmp_path.glob("*.part")] == [f"def.{os.getppid()}.part"]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, base: Base) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the folder for prefixes"):
        EmbeddedEngine(base, EngineSettings(prefix_folder=tmp_path / "file"))


def test_what_is_forgotten_is_computed_anew_and_nothing_else(tmp_path: Path, base: Base) -> None:
    """By tenant and content, whatever the prompt, the base and the way of computing."""
    adaptation = planted(base, "prompt_text", 0, "score")
    several = (PromptText("One."), PromptText("Which of them?"))
    joint = replace(adaptation, parts=(PromptTextPart(several[0], several[1:]),))
    with engine_on(tmp_path, base) as engine:
        asked(engine, joint, "joint")
        asked(engine, joint, "joint", tenant="other")
        asked(engine, adaptation, "single")
    assert len(prefixes(tmp_path)) == 5
    for tenant, content in (("t", "joint"), ("nobody", "joint"), ("t", "unknown")):
        prefix_names.forget(tmp_path, tenant, content)
    assert len(prefixes(tmp_path)) == 3
    with engine_on(tmp_path, base) as engine:
        assert asked(engine, joint, "joint")[1] > asked(engine, joint, "joint", tenant="other")[1]
    prefix_names.forget(tmp_path / "not there", "t", "joint")
