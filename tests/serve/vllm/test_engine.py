"""The vLLM engine as a server sees it: tenants, versions, aborts, limits, a LoRA's whole life."""

from __future__ import annotations

import gc
import random
from typing import Any

import pytest
from tests.serve.engine.planted import planted
from tests.serve.vllm.fake import BLOCK, FakeVllm
from tests.serve.vllm.test_answers import KINDS, carriable, chat

from tunewise.adaptation.predict import predictor_for
from tunewise.errors import BusyError, RunError
from tunewise.model.base import Base
from tunewise.serve.contract import Finished, Piece
from tunewise.serve.requests import row_request
from tunewise.serve.vllm import asking
from tunewise.serve.vllm.engine import VllmEngine, VllmSettings


@pytest.fixture
def settings() -> VllmSettings:
    return VllmSettings(slots=2, most_waiting=6)


def settle(engine: VllmEngine) -> None:
    """Until whatever was left for the engine's thread is done."""
    gc.collect()
    for _ in range(3):
        engine._call(engine._wire.models())


def test_tenants_share_nothing_that_was_computed(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    cached = {}
    for tenant in ("u", "v", "u"):
        ready = engine.ready(tenant, "a", lambda: planted(base, "prompt_text", 1))
        usage = engine.submit(row_request(ready, "x")).result(20).usage
        cached.setdefault(tenant, []).append(usage.cached_tokens)
    assert cached == {"u": [0, (usage.prompt_tokens - 1) // BLOCK * BLOCK], "v": [0]}
    salts = {body["cache_salt"] for body in fake.asked if body["max_tokens"] > 1}
    assert len(salts) == 2
    assert all(len(salt) >= 43 and "u" not in salt for salt in salts)
    # A LoRA of the same bytes is loaded for each tenant.
    held = [engine.ready(t, "b", lambda: planted(base, "low_rank", 0)) for t in ("u", "v")]
    assert len(fake.loras) == 2
    assert held[0].held.model != held[1].held.model


def test_a_lora_has_a_name_of_its_own_and_goes_when_nobody_holds_it(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    adaptation = planted(base, "low_rank", 0)
    with predictor_for(base, adaptation) as predictor:
        wanted = predictor.answers(["swap"])[0].text
    held = engine.ready("t", "old", lambda: adaptation)
    fake.gate.clear()
    running = engine.submit(row_request(held, "swap"))
    assert engine.drop("t", "old")
    assert not engine.drop("t", "old")
    settle(engine)
    assert len(fake.loras) == 1
    again = engine.ready("t", "old", lambda: adaptation)
    fake.gate.set()
    late = engine.submit(row_request(held, "swap"))
    assert {running.result(30).text, late.result(30).text} == {wanted}
    assert len(fake.loras) == 2
    assert len(set(fake.names)) == 2
    del held, running, late
    settle(engine)
    assert list(fake.loras) == [again.held.model]
    engine.close()
    assert fake.loras == {}


def test_what_does_not_fit_the_budget_leaves_the_server_too(fake: FakeVllm, base: Base) -> None:
    size = sum(t.nbytes for t in planted(base, "low_rank", 0).parts[1].tensors.values())
    engine = VllmEngine(base, fake.url, VllmSettings(budget_bytes=int(2.5 * size)))
    for seed in (0, 6, 12, 18):
        ready = engine.ready("t", str(seed), lambda seed=seed: planted(base, "low_rank", seed))
        assert engine.submit(row_request(ready, "x")).result(20).error is None
        del ready
        settle(engine)
    assert len(fake.loras) == engine.stats().resident == 2
    assert engine.stats().evictions == 2
    engine.close()


def test_an_abort_ends_the_answer_on_the_server(
    engine: VllmEngine, fake: FakeVllm, base: Base
) -> None:
    long = [engine.submit(chat(engine, f"{n}", max_new_tokens=400)) for n in range(6)]
    next(iter(long[0]), None)
    for stream in long:
        stream.abort()
    assert {stream.result(20).reason for stream in long} <= {"aborted", "stop", "length"}
    assert engine.submit(chat(engine, "next")).result(20).error is None
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)


def test_more_than_it_takes_is_refused_and_closing_ends_the_rest(
    engine: VllmEngine, fake: FakeVllm
) -> None:
    fake.gate.clear()
    streams, refused = [], 0
    for _ in range(12):
        try:
            streams.append(engine.submit(chat(engine, "a", max_new_tokens=400)))
        except BusyError:
            refused += 1
    assert refused >= 4
    engine.close()
    engine.close()
    fake.gate.set()
    assert {stream.result(5).reason for stream in streams} == {"aborted"}
    with pytest.raises(RunError, match="closed"):
        engine.submit(chat(engine, "a"))


def test_a_flood_of_one_tenant_does_not_hold_up_another(base: Base, fake: FakeVllm) -> None:
    engine = VllmEngine(base, fake.url, VllmSettings(slots=1))
    order: list[str] = []

    def note(name: str) -> Any:
        def heard(event: Piece | Finished) -> None:
            if isinstance(event, Finished):
                order.append(name)

        return heard

    fake.gate.clear()
    streams = []
    for tenant in ["flood"] * 12 + ["calm"]:
        ready = engine.ready(tenant, "a", lambda: planted(base, "prompt_text", 1))
        streams.append(engine.submit(row_request(ready, "x")))
        streams[-1].subscribe(note(tenant))
    fake.gate.set()
    assert all(stream.result(60).error is None for stream in streams)
    assert order.index("calm") <= 2
    engine.close()


def test_a_choice_among_very_many_is_found_by_ruling_out(
    engine: VllmEngine, base: Base, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a schema allows more tokens than vLLM lets be named."""
    adaptation = planted(base, "prompt_text", 0, "json")
    with predictor_for(base, adaptation) as predictor:
        wanted = predictor.answers(["abc"])[0].text
    monkeypatch.setattr(asking, "MOST_ALLOWED", 1)
    ready = engine.ready("t", "j", lambda: adaptation)
    assert engine.submit(row_request(ready, "abc")).result(60).text == wanted
    assert any("logit_bias" in body for body in fake.asked)
    monkeypatch.setattr(asking, "_MOST_TRIES", 0)
    lost = engine.submit(row_request(ready, "abc")).result(60)
    assert isinstance(lost.error, RunError)


def test_any_order_of_requests_aborts_and_evictions_gives_the_right_answers(
    base: Base, fake: FakeVllm
) -> None:
    known = {
        (kind, seed): carriable(base, kind, seed, "free" if seed else "score")
        for kind in KINDS
        for seed in (0, 1)
    }
    texts = ["a", "bc de", "fgh " * 9]
    wanted = {}
    for key, adaptation in known.items():
        with predictor_for(base, adaptation) as predictor:
            wanted[key] = [answer.text for answer in predictor.answers(texts)]
    draw = random.Random(5)
    engine = VllmEngine(base, fake.url, VllmSettings(3, budget_bytes=60_000, most_waiting=1000))
    running, refused = [], 0
    for _ in range(80):
        key, number, tenant = draw.choice(list(known)), draw.randrange(3), draw.choice("uv")
        try:
            held = engine.ready(tenant, str(key), lambda key=key: known[key])
        except BusyError:
            refused += 1
            continue
        stream = engine.submit(row_request(held, texts[number]))
        del held
        running.append((key, number, stream))
        if draw.random() < 0.1:
            draw.choice(running)[2].abort()
        if draw.random() < 0.1:
            engine.drop(tenant, str(draw.choice(list(known))))
        if draw.random() < 0.3:
            stream.result(60)
    for key, number, stream in running:
        finished = stream.result(120)
        assert finished.error is None
        if finished.reason != "aborted":
            assert finished.text == wanted[key][number]
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.evictions > 3
    assert refused < 60
    settle(engine)
    named = sum("low_rank" in each.kinds for each in engine._residents._table.values())
    assert len(fake.loras) <= named + len({id(each) for *_, each in running})
    engine.close()
    assert fake.loras == {}
