"""An engine on a stand-in for vLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.serve.engine.planted import tiny
from tests.serve.vllm.fake import FakeVllm

from tunewise.model.base import Base
from tunewise.serve.vllm.engine import VllmEngine, VllmSettings


@pytest.fixture(scope="module")
def base() -> Base:
    """The base on this side."""
    return tiny()


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    """The other side, with a base of the same numbers."""
    with FakeVllm(tiny()) as fake:
        yield fake


@pytest.fixture
def settings() -> VllmSettings:
    """Of the engine; a module may have others."""
    return VllmSettings(slots=4)


@pytest.fixture
def engine(base: Base, fake: FakeVllm, settings: VllmSettings) -> Iterator[VllmEngine]:
    """It is closed in the end."""
    engine = VllmEngine(base, fake.url, settings)
    yield engine
    engine.close()
