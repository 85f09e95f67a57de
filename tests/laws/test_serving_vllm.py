"""L9 through a vLLM server: what it carries answers as predicted, and the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.laws.fitting import base_of
from tests.laws.test_laws import INPUTS
from tests.laws.test_serving import CASES, check
from tests.laws.test_serving import adaptations as adaptations
from tests.laws.test_serving import base as base
from tests.laws.test_serving import wanted as wanted
from tests.serve.vllm.fake import FakeVllm

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.readout import Answer
from tunewise.adaptation.store import fingerprint_of
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.serve.requests import row_request
from tunewise.serve.vllm.engine import VllmEngine
from tunewise.task.types import Kind

NOT_CARRIED = {"kv_prefix", "weights"}


@pytest.fixture
def engine(base: Base) -> Iterator[VllmEngine]:
    with FakeVllm(base_of("llama")) as fake:
        engine = VllmEngine(base, fake.url)
        yield engine
        engine.close()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_l9_it_answers_as_predicted_or_says_why_not(
    name: str,
    kind: Kind,
    engine: VllmEngine,
    adaptations: dict[tuple[str, Kind], Adaptation],
    wanted: dict[tuple[str, Kind], list[Answer]],
) -> None:
    adaptation = adaptations[name, kind]
    content = fingerprint_of(adaptation)
    if NOT_CARRIED & set(adaptation.kinds):
        with pytest.raises(AdaptationError, match="vLLM") as refused:
            engine.ready("someone", content, lambda: adaptation)
        assert "embedded engine" in refused.value.fix
        return
    ready = engine.ready("someone", content, lambda: adaptation)
    found = [engine.submit(row_request(ready, text)).result(60) for text in INPUTS]
    check(found, wanted[name, kind])
