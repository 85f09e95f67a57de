"""Several prompts behind one request: `predict`'s answers, alone and among others, and its ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.serve.engine.planted import KINDS, parts_of, planted, tiny

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.predict import predictor_for
from tunewise.errors import BusyError, ConfigError, RequestTooLongError
from tunewise.measure.questions._probabilities import label_probabilities
from tunewise.model.base import Base
from tunewise.serve.contract import Finished, Piece, Request
from tunewise.serve.engine import together
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.requests import row_request
from tunewise.task.prompt import Demonstration, PromptText

TEXTS = ["abc0", "hgf edcba1 " * 6, "", "é日本0"]
PROMPTS = (
    PromptText("One of these."),
    PromptText("", (Demonstration("ab", "no"), Demonstration("c", "yes sir"))),
    PromptText("Which?", pool=tuple(Demonstration(t, "maybe") for t in TEXTS if t), nearest=1),
)


def ensemble(base: Base, kind: str = "prompt_text", seed: int = 0) -> Adaptation:
    """Three prompts before whatever else an adaptation of this kind has."""
    made = planted(base, kind, seed, "score")
    others = tuple(part for part in parts_of(base, kind, seed) if part.kind != "prompt_text")
    others = tuple(
        replace(part, replaces_shared_text=False) if hasattr(part, "replaces_shared_text") else part
        for part in others
    )
    return replace(made, parts=(PromptTextPart(PROMPTS[0], PROMPTS[1:]), *others))


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny()


@pytest.fixture
def engine(base: Base) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(base, EngineSettings(slots=2, most_waiting=3, prompt_positions=32))
    yield engine
    engine.close()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_what_is_served_is_what_is_predicted(architecture: str, plain: bool) -> None:
    base = tiny(architecture)
    cases = {f"three {kind}": ensemble(base, kind) for kind in KINDS}
    cases |= {f"one {kind}": planted(base, kind, 1, "score") for kind in KINDS}
    cases["free"] = planted(base, "low_rank", 2)
    wanted = {}
    for name, adaptation in cases.items():
        with predictor_for(base, adaptation) as predictor:
            wanted[name] = predictor.answers(TEXTS)
    engine = EmbeddedEngine(base, EngineSettings(slots=5, prompt_positions=48), plain=plain)

    def asked(name: str, text: str) -> Request:
        return row_request(engine.ready("t", name, lambda: cases[name]), text)

    # Each alone, prefixes not computed yet; then all in one batch.
    alone = {
        (name, text): engine.submit(asked(name, text)).result(60)
        for name in cases
        for text in TEXTS[:2]
    }
    streams = {(name, text): engine.submit(asked(name, text)) for text in TEXTS for name in cases}
    for name in cases:
        for text, answer in zip(TEXTS, wanted[name], strict=True):
            found = streams[name, text].result(60)
            assert found.error is None
            assert found.text == answer.text
            assert found.probability == pytest.approx(answer.probability, rel=2e-3, abs=1e-12)
            assert "".join(piece.text for piece in streams[name, text]) == found.text
            if (name, text) in alone:
                assert alone[name, text].text == answer.text
                assert alone[name, text].probability == pytest.approx(found.probability, rel=2e-3)
    engine.close()


def test_labels_are_those_of_the_mean(engine: EmbeddedEngine, base: Base) -> None:
    adaptation = ensemble(base)
    with predictor_for(base, adaptation) as predictor:
        wanted = label_probabilities(predictor, adaptation, TEXTS)
    ready = engine.ready("t", "a", lambda: adaptation)
    for text, row in zip(TEXTS, wanted, strict=True):
        found = engine.submit(row_request(ready, text, readout="labels")).result(20)
        assert [label for label, _ in found.labels] == list(adaptation.spec.labels)
        assert [each for _, each in found.labels] == pytest.approx(row.tolist(), rel=2e-3)
        assert (found.text, found.probability) == ("", None)


def test_all_positions_are_told(engine: EmbeddedEngine, base: Base) -> None:
    ready = engine.ready("t", "a", lambda: ensemble(base))
    request = row_request(ready, "abc")
    first, again = (engine.submit(request).result(20).usage for _ in range(2))
    before = [each.prefix_positions for each in (ready, *ready.others)]
    rows = [len(each) for each in (request.tokens, *request.others)]
    assert first.prompt_tokens == again.prompt_tokens == sum(before) + sum(rows)
    assert (first.cached_tokens, again.cached_tokens) == (0, sum(before))
    assert first.completion_tokens == 0
    singles = [
        engine.ready("t", prompt.instruction + "alone", lambda prompt=prompt: replace(
            ensemble(base), parts=(PromptTextPart(prompt),)
        ))
        for prompt in PROMPTS
    ]  # fmt: skip
    assert ready.bytes == sum(each.bytes for each in singles)


@pytest.mark.parametrize("readout", ["text", "embedding"])
def test_what_several_prompts_have_not_in_common_is_refused(
    readout: str, engine: EmbeddedEngine, base: Base
) -> None:
    ready = engine.ready("t", "a", lambda: ensemble(base))
    request = row_request(ready, "abc")
    with pytest.raises(ConfigError, match="several prompts"):
        engine.submit(replace(request, readout=readout))
    with pytest.raises(ConfigError, match="not rendered for all prompts"):
        engine.submit(replace(request, others=()))
    with pytest.raises(RequestTooLongError):
        engine.submit(row_request(ready, "x" * 490))
    assert engine.submit(request).result(20).error is None
    assert ready.held.running == 0


def test_an_abort_ends_all_rows(base: Base) -> None:
    # Room for all three requests, whether or not the engine has come to the first.
    engine = EmbeddedEngine(base, EngineSettings(slots=2, most_waiting=9, prompt_positions=32))
    ready = engine.ready("t", "a", lambda: ensemble(base))
    streams = [engine.submit(row_request(ready, "abc " * 60)) for _ in range(2)]
    events: list[Piece | Finished] = []
    streams[1].subscribe(events.append)
    for stream in streams:
        stream.abort()
    assert {stream.result(20).reason for stream in streams} <= {"aborted", "stop"}
    assert events[-1] is streams[1].result(0)
    assert engine.submit(row_request(ready, "abc")).result(20).error is None
    stats = engine.stats()
    assert (stats.running, stats.waiting, ready.held.running) == (0, 0, 0)
    engine.close()


def test_closing_ends_it(base: Base) -> None:
    engine = EmbeddedEngine(base, EngineSettings(slots=1, prompt_positions=1))
    ready = engine.ready("t", "a", lambda: ensemble(base))
    stream = engine.submit(row_request(ready, "abc " * 90))
    engine.close()
    assert stream.result(20).reason in {"aborted", "stop"}


def test_a_full_queue_takes_all_rows_or_none(engine: EmbeddedEngine, base: Base) -> None:
    ready = engine.ready("t", "a", lambda: ensemble(base))
    streams = []

    def flood() -> None:
        while len(streams) < 50:
            streams.append(engine.submit(row_request(ready, "abc " * 60)))

    with pytest.raises(BusyError):
        flood()
    ends = [stream.result(60) for stream in streams]
    assert all(each.error is None for each in ends)
    assert len({each.text for each in ends}) == 1
    assert ready.held.running == 0


def test_what_fails_in_one_row_or_in_the_end_is_told(
    engine: EmbeddedEngine, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = engine.ready("t", "a", lambda: ensemble(base))

    def broken(scores: object) -> None:
        raise ValueError("no mean")

    monkeypatch.setattr(together, "joined_scores", broken)
    found = engine.submit(row_request(ready, "abc")).result(20)
    assert found.reason == "failed"
    assert "no mean" in str(found.error)
    monkeypatch.undo()
    assert engine.submit(row_request(ready, "abc")).result(20).error is None
    ready.others[1].held.tree = "no tree"
    found = engine.submit(row_request(ready, "abc")).result(20)
    assert (found.reason, found.usage.completion_tokens) == ("failed", 0)
    assert ready.held.running == 0


def test_it_stays_while_it_runs(base: Base) -> None:
    """What is in use is not evicted, whichever of its rows is the one that still runs."""
    size = EmbeddedEngine(base)
    one = size.ready("t", "a", lambda: ensemble(base)).bytes
    size.close()
    engine = EmbeddedEngine(
        base, EngineSettings(slots=1, budget_bytes=one, prompt_positions=8), plain=False
    )
    ready = engine.ready("t", "a", lambda: ensemble(base))
    stream = engine.submit(row_request(ready, "abc " * 60))
    with pytest.raises(BusyError):
        engine.ready("t", "b", lambda: ensemble(base, seed=1))
    assert stream.result(60).error is None
    engine.ready("t", "b", lambda: ensemble(base, seed=1))
    assert engine.stats().evictions == 1
    engine.close()
