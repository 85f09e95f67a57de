"""Slices against counting by hand, on records whose truth is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.questions.running import Run, planted_context

from tunewise.measure.questions._registry import QUESTIONS
from tunewise.measure.records import RowResult
from tunewise.task.types import Kind

QUESTION = QUESTIONS.find("accuracy")


def ask(context: Any, **settings: Any) -> Any:
    """Ask it of planted records."""
    return QUESTION.measure(context, QUESTION.Settings(**settings))


def figure(answered: Any, name: str, about: str = "lora", **part: Any) -> Any:
    """One figure."""
    (found,) = [
        each
        for each in answered.measurements
        if (each.name, each.about, dict(each.part)) == (name, about, part)
    ]
    return found


def test_scores_by_label_length_and_domain_are_what_counting_gives() -> None:
    outputs = ["a", "b"] * 30
    inputs = ["x" * (1 + n // 20) for n in range(60)]
    domains = ["one" if n < 15 else "two" for n in range(60)]
    scores = {0: [float(n % 3 > 0) for n in range(60)], 1: [float(n % 2 == 0) for n in range(60)]}
    context = planted_context(outputs, {"lora": scores}, inputs=inputs, domains=domains)
    answered = ask(context)
    both = np.array([scores[0], scores[1]])
    members = {
        ("label", "a"): [n for n in range(60) if n % 2 == 0],
        ("label", "b"): [n for n in range(60) if n % 2],
        ("length", "1 to 1 tokens"): list(range(20)),
        ("length", "2 to 2 tokens"): list(range(20, 40)),
        ("length", "3 to 3 tokens"): list(range(40, 60)),
        ("domain", "one"): list(range(15)),
        ("domain", "two"): list(range(15, 60)),
    }
    for (kind, value), own in members.items():
        found = figure(answered, "score", **{kind: value})
        assert found.value == pytest.approx(both[:, own].mean())
        assert (found.n, found.seeds) == (len(own), (0, 1))
        assert found.low <= found.value <= found.high
    assert figure(answered, "score").value == pytest.approx(both.mean())
    assert len([each for each in answered.measurements if each.name == "score"]) == 8


def test_a_weak_label_and_false_sureness_are_named() -> None:
    outputs = ["a", "b"] * 50
    scores = [1.0 if n % 2 == 0 else float(n % 10 == 1) for n in range(100)]
    context = planted_context(outputs, {"lora": {0: scores}}, probability=0.95)
    answered = ask(context)
    told = " ".join(answered.findings)
    assert "rows labelled b" in told
    assert (
        "lora is surer than right: its mean probability minus its share of right answers is 35.0"
        in told
    )
    over = figure(answered, "overconfidence")
    assert over.value == pytest.approx(0.95 - 0.6)
    assert over.higher_is_better is None
    assert figure(answered, "calibration_error").value == pytest.approx(0.35, abs=0.05)
    brier = figure(answered, "brier_score")
    assert brier.value == pytest.approx(0.6 * 0.05**2 + 0.4 * 0.95**2)
    assert 0 <= brier.low <= brier.value <= brier.high


def test_answers_without_a_probability_say_so() -> None:
    context = planted_context(["a", "b"] * 10, {"lora": {0: [1.0] * 20}}, probability=None)
    found = figure(ask(context), "calibration_error")
    assert found.value is None
    assert "no probability" in found.absent
    text = planted_context(["a", "b"] * 10, {"lora": {0: [1.0] * 20}}, kind=Kind.GENERATION)
    assert "right or wrong" in figure(ask(text), "brier_score").absent


def test_labels_of_multi_label_rows_are_counted_each() -> None:
    context = planted_context(
        ["a, b", "b", "A"], {"lora": {0: [1.0, 0.0, 1.0]}}, kind=Kind.MULTI_LABEL, labels=("a", "b")
    )
    answered = ask(context)
    assert figure(answered, "score", label="a").value == 1.0
    assert figure(answered, "score", label="b").value == 0.5


def test_failed_rows_are_counted() -> None:
    results = [RowResult("r0", None, 0.0, failure="too long"), RowResult("r1", "a", 1.0, 0.9)]
    context = planted_context(["a", "a"], {}, results={"lora": results}, labels=("a", "b"))
    found = figure(ask(context), "score")
    assert (found.value, found.n, found.n_failed) == (0.5, 2, 1)


def test_on_a_run(small_run: Run, tmp_path: Path) -> None:
    evidence = small_run.ask("accuracy", tmp_path)
    assert not evidence.absent
    for record in small_run.records:
        overall = evidence.find("score", record.method)
        assert overall is not None
        assert overall.n == len(small_run.rows)
    assert evidence.planned_passes == 0
    titles = [picture.title for picture in evidence.answered.pictures]
    assert len(titles) == 2


def test_the_worst_of_many_equally_hard_labels_is_not_named() -> None:
    """Of 77 labels the lowest and the highest are told apart by chance alone, two by two."""
    numbers = np.random.default_rng(5)
    outputs = [f"l{n % 77}" for n in range(77 * 40)]
    scores = [float(each < 0.85) for each in numbers.random(len(outputs))]
    answered = ask(planted_context(outputs, {"lora": {0: scores}}, probability=0.85))
    by_label = [each for each in answered.measurements if "label" in each.part]
    low = min(by_label, key=lambda each: each.number)
    high = max(by_label, key=lambda each: each.number)
    assert low.high < high.low
    assert not any("rows labelled" in told for told in answered.findings)


def test_rows_of_a_group_widen_the_intervals() -> None:
    outputs = ["a", "b"] * 60
    scores = [float(n // 6 % 3 > 0) for n in range(120)]
    context = planted_context(outputs, {"lora": {0: scores}})
    grouped = replace(
        context,
        test=tuple(replace(row, group=f"g{n // 6}") for n, row in enumerate(context.test)),
    )
    for part in ({}, {"label": "a"}):
        plain, wide = (figure(ask(each), "score", **part) for each in (context, grouped))
        assert wide.value == plain.value
        assert wide.high - wide.low > 1.5 * (plain.high - plain.low)
