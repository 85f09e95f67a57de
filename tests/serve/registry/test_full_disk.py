"""A disk that fills up at any step of registering: told, and nothing half registered."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serve.registry.samples import stored, text

from tunewise.adaptation.store import load
from tunewise.errors import StorageError
from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry

STEPS = 40


def full_from(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """From this step to the disk on nothing can be written."""
    steps = itertools.count(1)

    def refusing(way: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(steps) >= step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return way(*arguments, **named)

        return call

    for name in ("fsync", "replace", "rename", "mkdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))


def test_full_at_any_step(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for step in range(1, STEPS):
        source = stored(tmp_path / f"s{step}", text(f"Say good or bad, {step}."))
        registration = Registration(parse_name(f"acme/x{step}"), "ann")
        with monkeypatch.context() as patch:
            full_from(patch, step)
            try:
                registry.add(source, registration)
                told.append(False)
            except StorageError:
                told.append(True)
        # What was refused is not there; what was not is whole.
        names = [str(each.name) for each in registry.names("acme", limit=1000)]
        assert (f"acme/x{step}" in names) != told[-1]
        assert registry.verify().faults == ()
        # With room again the same command does it.
        version = registry.add(source, registration)
        assert (version.number, load(registry.folder(version))) == (1, load(source))
    # The refused ones come first, and neither kind is missing.
    assert told == sorted(told, reverse=True)
    assert len(set(told)) == 2
