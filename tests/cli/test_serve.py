"""serve, as far as it comes without listening."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("flags", "dtype", "weights"), [((), None, "own"), (("--weights", "int8"), "float32", "int8")]
)
def test_what_the_engine_is_given(
    flags: tuple[str, ...],
    dtype: str | None,
    weights: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class SeenError(Exception):
        """Ends the command where the engine would be made."""

    seen: list[tuple[Base, Any]] = []

    def engine(base: Base, settings: Any) -> None:
        seen.append((base, settings))
        raise SeenError

    monkeypatch.setattr("tunewise.serve.engine.engine.EmbeddedEngine", engine)
    place = ("--base", tiny_folder, "--open", "--registry", tmp_path / "registry")
    with pytest.raises(SeenError):
        tunewise("serve", *place, *flags)
    ((base, settings),) = seen
    assert settings.weights == weights
    assert dtype is None or base.dtype_name == dtype


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
