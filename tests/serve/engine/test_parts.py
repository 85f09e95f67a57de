"""Every kind of part and readout on every architecture: as `predict`, alone and mixed."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES
from tests.serve.engine.planted import DECODINGS, KINDS, constant, planted, tiny

from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.readout import Answer
from tunewise.model.base import Base
from tunewise.serve.contract import Finished
from tunewise.serve.engine.decoder import plain_decoder
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.engine.layout import plain_lay
from tunewise.serve.requests import row_request

TEXTS = ["abc0", "hgf edcba1 " * 6, "", "é日本0"]


def same(found: Finished, wanted: Answer) -> None:
    assert found.error is None
    assert found.text == wanted.text
    assert found.probability == pytest.approx(wanted.probability, rel=2e-3, abs=1e-12)


def test_the_family_of_llama_runs_in_few_calls() -> None:
    bases = {name: tiny(name) for name in ALL_ARCHITECTURES}
    plain = {n for n, base in bases.items() if plain_decoder(base, 64, plain_lay(base)) is not None}
    assert plain == {"llama", "qwen3"}


@pytest.mark.parametrize(
    ("architecture", "chat"), [*((name, True) for name in ALL_ARCHITECTURES), ("llama", False)]
)
def test_all_kinds_and_readouts_in_one_queue(architecture: str, chat: bool) -> None:
    base = tiny(architecture, chat=chat)
    cases = {
        (kind, mode, seed): planted(base, kind, seed, mode)
        for kind, mode, seed in product(KINDS, DECODINGS, (0, 1, 2))
        if mode == "free" or seed == 0
    }
    wanted = {}
    for key, adaptation in cases.items():
        with predictor_for(base, adaptation) as predictor:
            wanted[key] = predictor.answers(TEXTS)
    engine = EmbeddedEngine(base, EngineSettings(slots=9, prompt_positions=40))
    try:
        streams = {
            (key, text): engine.submit(
                row_request(engine.ready("t", str(key), lambda key=key: cases[key]), text)
            )
            for text in TEXTS
            for key in cases
        }
        for key in cases:
            for text, answer in zip(TEXTS, wanted[key], strict=True):
                same(streams[key, text].result(60), answer)
        distinct = {streams[key, TEXTS[1]].result(0).text for key in cases if key[1] == "free"}
        # They would all agree if parts had no effect.
        assert len(distinct) > len(KINDS)
    finally:
        engine.close()


def test_one_that_never_calls_the_base_answers_at_once() -> None:
    base = tiny()
    engine = EmbeddedEngine(base)
    try:
        ready = engine.ready("t", "c", lambda: constant(base, "yes"))
        found = engine.submit(row_request(ready, "x")).result(0)
        assert (found.text, found.probability) == ("yes", 0.5)
        assert engine.stats().steps == 0
    finally:
        engine.close()


def test_bfloat16_runs_and_gives_the_logits_of_its_own_forward() -> None:
    base = tiny()
    half = Base.from_model(base.model, base.tokenizer, dtype=torch.bfloat16)
    found = plain_decoder(half, 64, plain_lay(half))
    assert found is not None
