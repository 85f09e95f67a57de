"""A registry in a temporary folder, its clock standing still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.serve.registry.samples import Clock

from tunewise.serve.registry.registry import Registry


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    opened = Registry.open(str(tmp_path / "registry"))
    yield replace(opened, clock=clock)
    opened.close()
