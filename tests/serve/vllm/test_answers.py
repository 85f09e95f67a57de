"""What vLLM answers through the engine is what `predict` answers, for every part and readout."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from tests.serve.engine.planted import DECODINGS, LABELS, constant, parts_of, planted, tiny
from tests.serve.vllm.fake import FakeVllm

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.readout import Answer
from tunewise.model.base import Base
from tunewise.serve.contract import Finished, Request, Sampling
from tunewise.serve.engine.engine import EmbeddedEngine
from tunewise.serve.requests import chat_tokens, row_request
from tunewise.serve.vllm.engine import VllmEngine, VllmSettings

TEXTS = ["abc0", "hgf edcba1 " * 6, "", "é日本0"]
KINDS = ("prompt_text", "virtual_tokens", "low_rank", "both")


def carriable(base: Base, kind: str, seed: int, mode: str) -> Adaptation:
    if kind != "both":
        return planted(base, kind, seed, mode)
    made = planted(base, "virtual_tokens", seed, mode)
    low_rank = parts_of(base, "low_rank", seed)[1]
    return Adaptation((*made.parts, low_rank), made.decoding, made.spec, made.provenance)


def same(found: Finished, wanted: Answer, mode: str) -> None:
    assert found.error is None
    assert found.text == wanted.text
    if mode == "json":
        assert found.probability is None
    else:
        assert found.probability == pytest.approx(wanted.probability, rel=2e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("architecture", "chat", "asked_ids"),
    [("llama", True, True), ("llama", False, True), ("qwen3", True, False), ("gemma3", True, True)],
)
def test_all_that_it_carries_in_one_queue(architecture: str, chat: bool, asked_ids: bool) -> None:
    base = tiny(architecture, chat=chat)
    cases = {
        (kind, mode, seed): carriable(base, kind, seed, mode)
        for kind, mode, seed in product(KINDS, DECODINGS, (0, 1, 2))
        if mode == "free" or seed == 0
    }
    wanted = {}
    for key, adaptation in cases.items():
        with predictor_for(base, adaptation) as predictor:
            wanted[key] = predictor.answers(TEXTS)
    with FakeVllm(tiny(architecture, chat=chat), asked_ids=asked_ids) as fake:
        engine = VllmEngine(base, fake.url, VllmSettings(slots=5))
        streams = {
            (key, text): engine.submit(
                row_request(engine.ready("t", str(key), lambda key=key: cases[key]), text)
            )
            for text in TEXTS
            for key in cases
        }
        for key in cases:
            for text, answer in zip(TEXTS, wanted[key], strict=True):
                same(streams[key, text].result(120), answer, key[1])
                joined = "".join(piece.text for piece in streams[key, text])
                assert joined == streams[key, text].result(0).text
        distinct = {streams[key, TEXTS[1]].result(0).text for key in cases if key[1] == "free"}
        # They would all agree if parts had no effect.
        assert len(distinct) > len(KINDS)
        engine.close()


def test_gpt2_carries_what_has_no_low_rank_change() -> None:
    base = tiny("gpt2")
    with FakeVllm(tiny("gpt2")) as fake:
        engine = VllmEngine(base, fake.url)
        for kind in ("prompt_text", "virtual_tokens"):
            adaptation = planted(base, kind, 1, "score")
            with predictor_for(base, adaptation) as predictor:
                wanted = predictor.answers(TEXTS)
            ready = engine.ready("t", kind, lambda adaptation=adaptation: adaptation)
            for text, answer in zip(TEXTS, wanted, strict=True):
                same(engine.submit(row_request(ready, text)).result(60), answer, "score")
        engine.close()


def chat(engine: Any, text: str, **sampling: Any) -> Request:
    tokens = chat_tokens(engine.base.tokenizer, [("user", text)])
    wanted = {"max_new_tokens": 12} | sampling
    return Request(engine.base_alone("t"), tokens, sampling=Sampling(**wanted))


@pytest.mark.parametrize(
    "sampling",
    [
        {"logprobs": 3},
        {"logprobs": 0},
        {"ignore_end": True, "max_new_tokens": 40},
        {"json_schema": {}},
        {"json_schema": {"type": "array", "items": {"type": "integer"}}, "max_new_tokens": 30},
    ],
)
def test_the_base_alone_answers_as_the_embedded_engine(
    sampling: dict[str, Any], engine: VllmEngine, base: Base
) -> None:
    embedded = EmbeddedEngine(base)
    for text in ("a", "bcd " * 30, "é"):
        ours, theirs = (each.submit(chat(each, text, **sampling)) for each in (embedded, engine))
        wanted, found = ours.result(30), theirs.result(30)
        assert found.error is None
        assert (found.text, found.reason) == (wanted.text, wanted.reason)
        assert found.usage.completion_tokens == wanted.usage.completion_tokens
        assert found.usage.prompt_tokens == wanted.usage.prompt_tokens
        pairs = zip(
            [choice for piece in theirs for choice in piece.choices],
            [choice for piece in ours for choice in piece.choices],
            strict=True,
        )
        for choice, other in pairs:
            assert (choice.token, choice.text) == (other.token, other.text)
            assert choice.log_probability == pytest.approx(other.log_probability, abs=1e-3)
            assert [each[0] for each in choice.top] == [each[0] for each in other.top]
    embedded.close()


def test_a_stop_text_ends_the_answer_before_it(engine: VllmEngine, fake: FakeVllm) -> None:
    whole = engine.submit(chat(engine, "stop", max_new_tokens=30)).result(20).text
    stop = whole[8:10]
    stream = engine.submit(chat(engine, "stop", max_new_tokens=30, stop=(stop, "zzzz")))
    finished = stream.result(20)
    assert finished.text == whole[: whole.index(stop)]
    assert finished.reason == "stop"
    assert finished.usage.completion_tokens < 30


def test_a_seed_decides(engine: VllmEngine) -> None:
    texts = [
        engine.submit(chat(engine, "x", temperature=1.5, seed=seed, max_new_tokens=20)).result(20)
        for seed in (7, 7, 8)
    ]
    assert texts[0].text == texts[1].text != texts[2].text
    schema = {"type": "array", "items": {"type": "integer"}}
    drawn = [
        engine.submit(chat(engine, "x", temperature=1.0, seed=seed, json_schema=schema)).result(20)
        for seed in (2**63 - 1, 2**63 - 1, -5)
    ]
    assert drawn[0].text == drawn[1].text
    assert all(isinstance(json.loads(each.text), list) for each in drawn)


def test_draws_under_a_schema_follow_the_probabilities_of_what_it_allows(
    engine: VllmEngine, base: Base
) -> None:
    """One token of two, drawn often: by what the model thinks of the two alone."""
    request = chat(engine, "y", temperature=2.0, json_schema={"enum": [1, 2]}, max_new_tokens=1)
    logits = base.model(input_ids=torch.tensor([request.tokens])).logits[0, -1]
    ids = [base.tokenizer.encode(text, add_special_tokens=False)[0] for text in "12"]
    expected = float((logits[ids] / 2.0).softmax(dim=-1)[0])
    streams = []
    for seed in range(200):
        sampling = Sampling(1, 2.0, seed=seed, json_schema={"enum": [1, 2]})
        streams.append(engine.submit(Request(request.ready, request.tokens, sampling=sampling)))
    counts = Counter(stream.result(60).text for stream in streams)
    assert set(counts) <= {"1", "2"}
    # Five standard errors of 200 draws.
    assert counts["1"] / 200 == pytest.approx(expected, abs=5 * 0.5 / 200**0.5)


def test_labels_with_their_probabilities(engine: VllmEngine, base: Base) -> None:
    scored = planted(base, "virtual_tokens", 1, "score")
    embedded = EmbeddedEngine(base)
    found, wanted = (
        each.submit(row_request(each.ready("t", "s", lambda: scored), "abc", readout="labels"))
        for each in (engine, embedded)
    )
    assert [label for label, _ in found.result(20).labels] == list(LABELS)
    for (_, one), (_, other) in zip(found.result(0).labels, wanted.result(20).labels, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    free = engine.submit(row_request(engine.ready("t", "s", lambda: scored), "a", readout="text"))
    assert free.result(20).labels == ()
    embedded.close()


def test_one_that_never_calls_the_base_answers_at_once(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    before = len(fake.asked)
    ready = engine.ready("t", "c", lambda: constant(base, "yes"))
    found = engine.submit(row_request(ready, "x")).result(0)
    assert (found.text, found.probability) == ("yes", 0.5)
    assert len(fake.asked) == before
