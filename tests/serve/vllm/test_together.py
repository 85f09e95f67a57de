"""Several prompts behind one request, through vLLM."""

from __future__ import annotations

import gc

import pytest
from tests.serve.engine.planted import planted
from tests.serve.engine.test_together import ensemble
from tests.serve.vllm.fake import FakeVllm
from tests.serve.vllm.test_answers import TEXTS, same
from tests.serve.vllm.test_engine import settle

from tunewise.adaptation.predict import predictor_for
from tunewise.errors import ConfigError
from tunewise.model.base import Base
from tunewise.serve.requests import row_request
from tunewise.serve.vllm.engine import VllmEngine


def test_what_is_served_is_what_is_predicted(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    cases = {kind: ensemble(base, kind) for kind in ("prompt_text", "virtual_tokens", "low_rank")}
    cases["one"] = planted(base, "prompt_text", 1, "score")
    cases["free"] = planted(base, "low_rank", 2)
    wanted = {}
    for name, adaptation in cases.items():
        with predictor_for(base, adaptation) as predictor:
            wanted[name] = predictor.answers(TEXTS)
    streams = {
        (name, text): engine.submit(
            row_request(engine.ready("t", name, lambda name=name: cases[name]), text)
        )
        for text in TEXTS
        for name in cases
    }
    for name in cases:
        for text, answer in zip(TEXTS, wanted[name], strict=True):
            same(streams[name, text].result(60), answer, cases[name].decoding.mode)
    # One LoRA for the three prompts before it, one for the other adaptation.
    assert len(fake.names) == 2


def test_its_lora_goes_when_nobody_holds_it(engine: VllmEngine, fake: FakeVllm, base: Base) -> None:
    ready = engine.ready("t", "a", lambda: ensemble(base, "low_rank"))
    fake.gate.clear()
    running = engine.submit(row_request(ready, "abc"))
    assert engine.drop("t", "a")
    del ready
    settle(engine)
    assert len(fake.loras) == 1
    fake.gate.set()
    found = running.result(30)
    assert found.error is None
    assert found.usage.prompt_tokens > 0
    del running
    gc.collect()
    settle(engine)
    assert fake.loras == {}


def test_an_abort_ends_all_rows_and_free_text_is_refused(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    ready = engine.ready("t", "a", lambda: ensemble(base))
    fake.gate.clear()
    stream = engine.submit(row_request(ready, "abc"))
    stream.abort()
    assert stream.result(20).reason == "aborted"
    fake.gate.set()
    with pytest.raises(ConfigError, match="several prompts"):
        engine.submit(row_request(ready, "abc", readout="text"))
    assert engine.submit(row_request(ready, "abc")).result(20).error is None
    assert ready.held.running == 0
