"""serve, as far as it comes without listening."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.terminal import tunewise

from tunewise.model.base import Base


def test_weights_of_8_bits_are_rounded_from_float32(tiny_folder: Path, tmp_path: Path) -> None:
    flags = ("--base", tiny_folder, "--open", "--registry", tmp_path / "registry")
    done = tunewise("serve", *flags, "--weights", "int8", "--dtype", "bfloat16")
    assert done.code == 2
    assert "float32 base" in done.err
    assert "--dtype float32" in done.err


class SeenError(Exception):
    """Ends the command where the engine would be made."""


@pytest.fixture
def made_of(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Base, Any]]:
    """What the engine is given for some flags."""
    seen: list[tuple[Base, Any]] = []

    def engine(base: Base, settings: Any) -> None:
        seen.append((base, settings))
        raise SeenError

    def ask(*flags: str) -> tuple[Base, Any]:
        monkeypatch.setattr("tunewise.serve.engine.engine.EmbeddedEngine", engine)
        place = ("--base", tiny_folder, "--open", "--registry", tmp_path / "registry")
        with pytest.raises(SeenError):
            tunewise("serve", *place, *flags)
        return seen.pop()

    return ask


@pytest.mark.parametrize(
    ("flags", "dtype", "weights"), [((), None, "own"), (("--weights", "int8"), "float32", "int8")]
)
def test_what_the_engine_is_given(
    flags: tuple[str, ...],
    dtype: str | None,
    weights: str,
    made_of: Callable[..., tuple[Base, Any]],
) -> None:
    base, settings = made_of(*flags)
    assert settings.weights == weights
    assert dtype is None or base.dtype_name == dtype


def test_where_prefixes_are_kept(
    made_of: Callable[..., tuple[Base, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the cache unless told otherwise, and nowhere where that cannot be written to."""
    monkeypatch.setenv("TUNEWISE_HOME", str(tmp_path / "home"))
    _, settings = made_of()
    assert settings.prefix_folder == tmp_path / "home" / "prefixes"
    assert settings.prefix_folder.stat().st_mode & 0o777 == 0o700
    assert settings.prefix_folder_bytes == 2**30
    _, settings = made_of("--prefix-folder", str(tmp_path / "own"), "--prefix-folder-mib", "7")
    assert (settings.prefix_folder, settings.prefix_folder_bytes) == (tmp_path / "own", 7 * 2**20)
    assert made_of("--prefix-folder", "none")[1].prefix_folder is None
    (tmp_path / "home" / "prefixes").chmod(0o777)
    assert made_of()[1].prefix_folder is None
    (tmp_path / "home" / "prefixes").chmod(0o700)
    assert made_of()[1].prefix_folder is not None

    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "no quota")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert made_of()[1].prefix_folder is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNEWISE_HOME", str(tmp_path / "file"))
    assert made_of()[1].prefix_folder is None


def test_a_port_that_is_taken_is_told_before_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunewise.model.base.load_base", lambda *a, **k: pytest.fail("slow work"))
    place = ("--registry", tmp_path / "registry")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = tunewise("serve", *place, "--open", "--port", port)
        assert done.code == 3
        assert f"127.0.0.1:{port}: Address already in use" in done.err
    done = tunewise("serve", *place, "--open", "--host", "192.0.2.1")
    assert done.code == 2
    assert "for this machine alone" in done.err
    done = tunewise("serve", *place, "--host", "192.0.2.1")
    assert done.code == 3
    assert "192.0.2.1:8000" in done.err


def test_who_has_made_no_key_is_told(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tunewise.serve.http.server.serve", lambda service, **k: service.engine.close()
    )
    place = ("--registry", tmp_path / "registry")
    flags = (*place, "--base", tiny_folder, "--port", "0")
    assert "no key was made yet" in tunewise("serve", *flags).err
    opened = tunewise("serve", *flags, "--open").err
    assert "no key" not in opened
    assert "registry add ADAPTATION local/NAME" in opened
    assert tunewise("keys", "tenant", "acme", *place).code == 0
    assert tunewise("keys", "create", "acme", "--right", "use", *place).code == 0
    told = tunewise("serve", *flags).err
    assert "no key" not in told
    assert "local/NAME" not in told


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--vllm-url", "http://127.0.0.1:1"), "--engine vllm"),
        (("--vllm-python", "py"), "--engine vllm"),
        (("--engine", "vllm"), "--vllm-url"),
        (
            ("--engine", "vllm", "--vllm-url", "http://127.0.0.1:1", "--vllm-python", "py"),
            "needs one server",
        ),
        (
            ("--engine", "vllm", "--vllm-url", "http://127.0.0.1:1", "--weights", "int8"),
            "embedded engine",
        ),
        (
            ("--engine", "vllm", "--vllm-url", "http://127.0.0.1:1", "--prefix-folder", "x"),
            "leave --prefix-folder out",
        ),
        (("--prefix-folder", __file__), "the folder for prefixes cannot be written to"),
        (("--prefix-folder", "x", "--prefix-folder-mib", "0"), "--prefix-folder-mib"),
        (("--prefix-folder", "none", "--prefix-folder-mib", "9"), "leave one of them out"),
        (
            ("--engine", "vllm", "--vllm-url", "http://127.0.0.1:1", "--prefix-folder-mib", "9"),
            "leave --prefix-folder-mib out",
        ),
        (("--engine", "vllm", "--vllm-url", "nonsense"), "http://127.0.0.1"),
        (("--engine", "vllm", "--vllm-python", "no/such/python"), "--vllm-python no/such/python"),
        (("--engine", "other"), "embedded"),
    ],
)
def test_flags_of_the_engine_that_cannot_take_effect(
    flags: tuple[str, ...], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    place = ("--base", tiny_folder, "--open", "--registry", tmp_path / "registry")
    done = tunewise("serve", *place, *flags)
    assert done.code == 2
    assert said in done.err
