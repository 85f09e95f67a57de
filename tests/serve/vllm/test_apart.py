"""Requests that name tokens, and those for the likeliest, never run at a server together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.serve.engine.planted import planted, tiny
from tests.serve.vllm.fake import FakeVllm
from tests.serve.vllm.test_answers import chat

from tunewise.adaptation.predict import predictor_for
from tunewise.errors import RunError
from tunewise.model.base import Base
from tunewise.serve.engine.engine import EmbeddedEngine
from tunewise.serve.requests import row_request
from tunewise.serve.vllm.apart import Apart, Sides
from tunewise.serve.vllm.engine import VllmEngine, VllmSettings


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny()


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    with FakeVllm(tiny()) as fake:
        yield fake


@pytest.fixture
def engine(base: Base, fake: FakeVllm) -> Iterator[VllmEngine]:
    engine = VllmEngine(base, fake.url, VllmSettings(slots=8))
    yield engine
    engine.close()


def test_ranked_waits_for_named_and_keeps_new_ones_out() -> None:
    async def run() -> list[str]:
        apart, told = Apart(), []

        async def ranked() -> None:
            async with apart.ranked():
                told.append("ranked")

        with apart.named() as one, apart.named() as two:
            task = asyncio.create_task(ranked())
            await asyncio.sleep(0)
            assert (one, two, told) == (True, True, [])
            with apart.named() as late:
                assert not late
            given_up = asyncio.create_task(ranked())
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
        await task
        with apart.named() as after:
            assert after
        with pytest.raises(ValueError, match="x"), apart.named():
            raise ValueError("x")
        await ranked()
        return told

    assert asyncio.run(run()) == ["ranked", "ranked"]


def test_sides_take_turns_and_nobody_waits_for_ever() -> None:
    async def run() -> list[int]:
        sides, told, now = Sides(on=True), [], {True: 0, False: 0}

        async def one(number: int, side: bool) -> None:
            async with sides.held(side):
                now[side] += 1
                try:
                    assert not now[not side]
                    for _ in range(3):
                        await asyncio.sleep(0)
                    told.append(number)
                finally:
                    now[side] -= 1

        tasks = [asyncio.create_task(one(n, n % 3 == 0)) for n in range(30)]
        await asyncio.sleep(0)
        tasks[7].cancel()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(now.values())
        return sorted(told)

    assert asyncio.run(asyncio.wait_for(run(), 20)) == [n for n in range(30) if n not in (0, 7)]


def test_labels_and_the_likeliest_tokens_asked_for_at_once(engine: VllmEngine, base: Base) -> None:
    scored = planted(base, "virtual_tokens", 1, "score")
    texts = [f"text {number}" for number in range(5)]
    with predictor_for(base, scored) as predictor:
        wanted = predictor.answers(texts)
    embedded = EmbeddedEngine(base)
    ready = engine.ready("t", "s", lambda: scored)
    labels, ranked = [], []
    for text in texts:
        labels.append(engine.submit(row_request(ready, text)))
        ranked.append(engine.submit(chat(engine, text, logprobs=3)))
    for text, answer, one, other in zip(texts, wanted, labels, ranked, strict=True):
        assert one.result(60).error is None, one.result(0).error.found
        assert one.result(0).text == answer.text
        assert one.result(0).probability == pytest.approx(answer.probability, rel=2e-3)
        assert other.result(60).error is None
        alone = embedded.submit(chat(embedded, text, logprobs=3))
        assert alone.result(60).text == other.result(0).text
        here, there = ([c.top for piece in each for c in piece.choices] for each in (alone, other))
        for mine, its in zip(here, there, strict=True):
            assert len(mine) == len(its) == 3
            # In another batch the last bits differ, and two that are next to equal change places.
            for (token, _, likely), (its_token, _, its_likely) in zip(mine, its, strict=True):
                assert token == its_token or abs(likely - its_likely) < 1e-4
    embedded.close()


def test_a_foreign_client_that_names_tokens_is_found_out(
    engine: VllmEngine, fake: FakeVllm
) -> None:
    fake.named += 1
    found = engine.submit(chat(engine, "a", logprobs=2)).result(20)
    assert isinstance(found.error, RunError)
    assert "likeliest" in str(found.error)
    # Where only the taken token's own is asked, nothing is lost.
    assert engine.submit(chat(engine, "a", logprobs=0)).result(20).error is None
