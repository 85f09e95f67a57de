"""L9 for serving: what is served is what `predict` answers, alone and among all the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from tests.laws.fitting import base_of, fit, generation_view, planted_view
from tests.laws.test_laws import INPUTS, METHODS, known_settings

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.readout import Answer
from tunewise.adaptation.store import fingerprint_of
from tunewise.model.base import Base
from tunewise.serve.contract import Finished, Ready
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.requests import row_request
from tunewise.task.types import Kind

VIEWS = {Kind.CLASSIFICATION: planted_view(), Kind.GENERATION: generation_view()}
CASES = [
    (name, kind) for name, method in METHODS.items() for kind in VIEWS if kind in method.needs.kinds
]


@pytest.fixture(scope="module")
def base() -> Base:
    return base_of("llama")


@pytest.fixture(scope="module")
def adaptations(base: Base) -> dict[tuple[str, Kind], Adaptation]:
    """One of every method and kind of task, after a few steps that move it."""
    found = {}
    for name, kind in CASES:
        wanted = known_settings(name, steps=4, batch_size=5, learning_rate=1e-2, most_positions=150)
        found[name, kind] = fit(base, name, VIEWS[kind], **wanted)
    return found


@pytest.fixture(scope="module")
def wanted(
    base: Base, adaptations: dict[tuple[str, Kind], Adaptation]
) -> dict[tuple[str, Kind], list[Answer]]:
    found = {}
    for key, adaptation in adaptations.items():
        with predictor_for(base, adaptation) as predictor:
            found[key] = predictor.answers(INPUTS)
    return found


@pytest.fixture(params=["in few calls", "through its own forward"])
def engine(request: pytest.FixtureRequest, base: Base) -> Iterator[EmbeddedEngine]:
    plain = request.param == "in few calls"
    engine = EmbeddedEngine(base, EngineSettings(slots=7, prompt_positions=48), plain=plain)
    yield engine
    engine.close()


def made_ready(engine: EmbeddedEngine, adaptation: Adaptation) -> Ready:
    return engine.ready("someone", fingerprint_of(adaptation), lambda: adaptation)


def check(found: Sequence[Finished], wanted: Sequence[Answer]) -> None:
    for finished, answer in zip(found, wanted, strict=True):
        assert finished.error is None
        assert finished.text == answer.text
        if answer.probability is not None:
            assert finished.probability == pytest.approx(answer.probability, rel=1e-3)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_l9_served_alone_it_answers_as_predicted(
    name: str,
    kind: Kind,
    engine: EmbeddedEngine,
    adaptations: dict[tuple[str, Kind], Adaptation],
    wanted: dict[tuple[str, Kind], list[Answer]],
) -> None:
    ready = made_ready(engine, adaptations[name, kind])
    found = [engine.submit(row_request(ready, text)).result(60) for text in INPUTS]
    check(found, wanted[name, kind])


def test_l9_served_together_all_answer_as_predicted(
    engine: EmbeddedEngine,
    adaptations: dict[tuple[str, Kind], Adaptation],
    wanted: dict[tuple[str, Kind], list[Answer]],
) -> None:
    """Every row of every adaptation in one queue, so that unlike ones share every batch."""
    ready = {key: made_ready(engine, each) for key, each in adaptations.items()}
    streams = {
        (key, text): engine.submit(row_request(ready[key], text))
        for text in INPUTS
        for key in adaptations
    }
    for key in adaptations:
        check([streams[key, text].result(120) for text in INPUTS], wanted[key])
    for stream in streams.values():
        assert "".join(piece.text for piece in stream) == stream.result(0).text
