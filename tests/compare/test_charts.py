"""Charts: what they hold, that they are drawn at all, and where points and names stand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.compare.planted import CONTEXT, SPEC, compare, make_record, make_rows

from tunewise.compare.charts import (
    FIT,
    MOST_POINTS,
    REQUEST,
    SIZE,
    Cost,
    cost_chart,
    curve_chart,
    difference_chart,
)
from tunewise.compare.contract import Comparison
from tunewise.compare.front import pareto_front, place_dots
from tunewise.compare.table import build_comparison

TRUTH = {
    "majority": 0.33,
    "tfidf": 0.7,
    "zero_shot": 0.6,
    "few_shot": 0.65,
    "soft_prompt": 0.9,
    "prefix": 0.9,
    "lora": 0.92,
    "full": 0.91,
}


@pytest.fixture(scope="module")
def whole() -> Comparison:
    return compare(TRUTH, 120, seeds=2)


@pytest.mark.parametrize("cost", [FIT, REQUEST, SIZE])
def test_cost_chart_names_every_method(whole: Comparison, cost: Cost) -> None:
    svg = cost_chart(whole, cost)
    for method in TRUTH:
        assert f">{method}<" in svg
    assert "currentColor" in svg
    assert ("none" in re.findall(r"<text[^>]*>([^<]*)</text>", svg)) == (cost is FIT)


def test_difference_chart_names_all_but_the_recommended(whole: Comparison) -> None:
    svg = difference_chart(whole)
    chosen = whole.recommendation.method
    named = set(re.findall(r">(\w+)</text>", svg))
    assert set(TRUTH) - {chosen} <= named
    assert chosen not in named
    assert difference_chart(compare({"lora": 0.9}, 30)) == ""


def test_curves_are_drawn_where_there_are_losses(whole: Comparison) -> None:
    assert curve_chart(whole.entry("lora")).count('aria-roledescription="line mark"') == 4
    assert curve_chart(whole.entry("zero_shot")) == ""
    rows = make_rows(6)
    strange = replace(
        make_record("lora", [1.0] * 6, rows),
        curve=(
            {"step": 0.0, "train_loss": float("nan")},
            *({"step": float(step), "train_loss": 1.0} for step in range(5000)),
        ),
    )
    long = build_comparison(SPEC, [strange], [], CONTEXT, rows).entry("lora")
    svg = curve_chart(long)
    assert "NaN" not in svg
    path = max(re.findall(r'd="([^"]*)"', svg), key=len)
    assert 100 < path.count("L") <= MOST_POINTS + 1


def test_front_against_plain_loops(whole: Comparison) -> None:
    costs = [SIZE.of(entry) for entry in whole.entries]
    dots = place_dots(whole.entries, costs, 400, 260)
    front = {dot.entry.method for dot in pareto_front(dots)}
    slow = {
        a.entry.method
        for a in dots
        if not any(
            b.cost <= a.cost
            and b.entry.test.value >= a.entry.test.value
            and (b.cost < a.cost or b.entry.test.value > a.entry.test.value)
            for b in dots
        )
    }
    assert front == slow


@pytest.mark.parametrize("cost", [FIT, REQUEST, SIZE])
def test_names_and_points_do_not_cover_each_other(whole: Comparison, cost: Cost) -> None:
    costs = [cost.of(entry) for entry in whole.entries]
    dots = place_dots(whole.entries, costs, 400, 260)
    for index, first in enumerate(dots):
        assert first.axis_low <= first.x <= first.axis_high
        for second in dots[index + 1 :]:
            same_place = abs(first.x / second.x - 1) < 0.01
            assert not same_place
            close = abs(first.label_x / second.label_x - 1) < 0.05
            assert not close or abs(first.label_value - second.label_value) > 1.0


@pytest.mark.parametrize("costs", [[0.0] * 8, [5.0] * 8, [0.0] + [1e12] * 7, [1.0, 1e18] * 4])
def test_any_costs_can_be_placed(whole: Comparison, costs: list[float]) -> None:
    dots = place_dots(whole.entries, costs, 400, 260)
    for dot in dots:
        assert 0 < dot.axis_low <= dot.x <= dot.axis_high
