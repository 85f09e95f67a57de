"""Costs: read from records as they are, timed in turns, and break-even by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.questions.running import Run, planted_context

from tunewise.errors import AdaptationError
from tunewise.measure.questions import _together
from tunewise.measure.questions._registry import QUESTIONS
from tunewise.measure.questions._together import MIXED, SERVED, SHARE, SPEED, served
from tunewise.measure.questions.cost_to_serve import _pair

SCORES = {"lora": {0: [1.0] * 4, 1: [1.0] * 4}, "zero_shot": {0: [0.0] * 4}}


def test_cost_to_fit_is_what_the_records_say() -> None:
    question = QUESTIONS.find("cost_to_fit")
    context = planted_context(["a", "b"] * 2, SCORES, seconds={"zero_shot": 2.0, "lora": 36.0})
    answered = question.measure(context, question.Settings(price_per_hour=10.0, watts=50.0))
    by = {(each.name, each.about): each for each in answered.measurements}
    assert by["seconds", "lora"].value == 36.0
    assert by["seconds", "lora"].seeds == (0, 1)
    assert by["token_passes", "zero_shot"].value == 1000
    assert by["money", "lora"].value == pytest.approx(0.1)
    assert by["energy", "zero_shot"].value == pytest.approx(50 * 2 / 3600)
    assert by["seconds", "zero_shot"].low is None
    assert all(each.higher_is_better is False for each in answered.measurements)
    assert answered.findings == ("A fit takes from 2.0 s (zero_shot) to 36.0 s (lora).",)


def test_unpriced_runs_have_no_money() -> None:
    question = QUESTIONS.find("cost_to_fit")
    answered = question.measure(planted_context(["a", "b"] * 2, SCORES), question.Settings())
    assert {each.name for each in answered.measurements} == {
        "token_passes",
        "flops",
        "seconds",
        "peak_bytes",
    }


def test_break_even_by_hand() -> None:
    slow, quick = np.full(5, 0.030), np.full(5, 0.010)
    found = _pair("lora", "few_shot", 100.0, slow, quick)
    assert found.value == pytest.approx(5000)
    assert (found.about, found.beside, found.unit) == ("lora", "few_shot", "requests")


def test_break_even_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    held = told = 0
    for _ in range(400):
        slow, quick = random.normal(0.030, 0.002, 5), random.normal(0.020, 0.002, 5)
        found = _pair("a", "b", 100.0, slow, quick)
        if found.low is not None and found.high is not None:
            told += 1
            held += found.low <= 10_000 <= found.high
    assert told > 380
    assert held >= 0.93 * told


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        ([0.01, 0.01, 0.01], "no less time"),
        ([0.021, 0.019, 0.026], "cannot be told apart"),
    ],
)
def test_no_break_even_is_told(slow: list[float], words: str) -> None:
    found = _pair("a", "b", 100.0, np.array(slow), np.full(3, 0.02))
    assert found.value is None
    assert words in found.absent


def test_cost_to_serve_on_a_run(small_run: Run, tmp_path: Path) -> None:
    evidence = small_run.ask("cost_to_serve", tmp_path, rounds=2, batch_rows=4, alone_rows=1)
    assert not evidence.absent
    for record in small_run.records:
        (tokens, *_) = [
            each
            for each in evidence.answered.measurements
            if each.name == "prompt_tokens_per_request" and each.about == record.method
        ]
        assert tokens.value is not None
        one, thousand = (
            _value(evidence, "bytes_on_disk", record.method, domains=count) for count in (1, 1000)
        )
        assert thousand == 1000 * one
        assert _value(evidence, "milliseconds_alone", record.method) > 0
    # Every number of the prefix part is held in memory, in the base's own dtype.
    base = small_run.jobs.ground.base
    whole = sum(parameter.numel() for parameter in base.model.parameters()) * base.dtype.itemsize
    assert _value(evidence, "bytes_in_memory", "full", domains=1) >= 0.5 * whole
    assert _value(evidence, "bytes_in_memory", "zero_shot", domains=1) > 0
    shared = {"zero_shot", "few_shot", "soft_prompt", "prefix", "lora"}
    assert {each.about for each in evidence.answered.measurements if each.name == SERVED} == shared
    assert _value(evidence, MIXED, "") > 0
    assert _value(evidence, SHARE, "") > 0
    work = evidence.work["forward_tokens"]
    assert 0.8 * evidence.planned_passes <= work <= 1.25 * evidence.planned_passes


def test_mixed_batches_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    context = planted_context(["a", "b"] * 2, SCORES)
    entries = dict.fromkeys(("lora", "zero_shot"))
    monkeypatch.setattr(_together, "carried", lambda context: entries)
    asked: list[list[tuple[str, str]]] = []

    @contextmanager
    def serving(base: Any, given: Any, slots: int, ledger: Any) -> Iterator[Any]:
        assert (given, slots) == (entries, 3)

        def answer(pairs: list[tuple[str, str]]) -> float:
            asked.append(list(pairs))
            mixed = len({name for name, _ in pairs}) > 1
            return 0.060 if mixed else {"lora": 0.060, "zero_shot": 0.030}[pairs[0][0]]

        yield answer

    found = served(replace(context, serving=serving), ["x", "y", "z"], 2)
    by = {(each.name, each.about): each for each in found}
    assert by[SERVED, "lora"].value == pytest.approx(20.0)
    assert by[SERVED, "zero_shot"].value == pytest.approx(10.0)
    assert by[MIXED, ""].value == pytest.approx(20.0)
    assert by[SHARE, ""].value == pytest.approx(0.75)
    # "x", "y" and "z" of both entries are six tokens in 0.120 s.
    assert by[SPEED, ""].value == pytest.approx(50.0)
    assert by[SHARE, ""].seeds == (0,)
    assert by[SHARE, ""].n == 2
    # After one row each, every round: each entry's rows, then the same in batches that are mixed.
    warm, first = asked[:2], asked[2:6]
    assert [len(each) for each in warm] == [1, 1]
    assert sorted(first[0] + first[1]) == sorted(first[2] + first[3])
    assert all(len({name for name, _ in each}) == 2 for each in first[2:])


def test_an_engine_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    context = planted_context(["a", "b"] * 2, SCORES)
    monkeypatch.setattr(_together, "carried", lambda context: dict.fromkeys(("lora", "zero_shot")))

    def serving(base: Any, given: Any, slots: int, ledger: Any) -> Any:
        raise AdaptationError("no such layers")

    found = served(replace(context, serving=serving), ["x", "y"], 2)
    assert {each.name for each in found} == {MIXED, SPEED, SHARE}
    assert all("no such layers" in each.absent for each in found)
    # With one row no batch can be mixed.
    alone = served(replace(context, serving=serving), ["x"], 2)
    assert all("one row" in each.absent for each in alone)


def test_an_entry_that_the_engine_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    context = planted_context(["a", "b"] * 2, SCORES)
    names = ("lora", "zero_shot", "few_shot")
    monkeypatch.setattr(_together, "carried", lambda context: dict.fromkeys(names))
    scores = {**SCORES, "few_shot": {0: [0.0] * 4}}
    context = planted_context(["a", "b"] * 2, scores)

    @contextmanager
    def serving(base: Any, given: Any, slots: int, ledger: Any) -> Iterator[Any]:
        def answer(pairs: list[tuple[str, str]]) -> float:
            if any(name == "lora" for name, _ in pairs):
                raise AdaptationError("no place for it")
            return 0.010 * len(pairs)

        yield answer

    found = served(replace(context, serving=serving), ["x", "y"], 2)
    by = {(each.name, each.about): each for each in found}
    assert "no place for it" in by[SERVED, "lora"].absent
    assert by[SERVED, "few_shot"].value == pytest.approx(10.0)
    assert by[SHARE, ""].value == pytest.approx(1.0)


def _value(evidence: Any, name: str, about: str, **part: Any) -> float:
    found = evidence.find(name, about, **part)
    assert found is not None
    return float(found.value)
