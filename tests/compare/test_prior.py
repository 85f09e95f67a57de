"""The prior: counts over the nearest measured runs, and nothing that was not measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tunewise.compare.prior import (
    FAMILIES,
    NEAREST,
    MeasuredEntry,
    MeasuredRun,
    Shape,
    distance,
    measured_runs,
    prior,
)
from tunewise.compare.priorities import Priorities
from tunewise.numerics.intervals import share_limits

SHAPE = Shape("classification", 1000, 4, 30.0)


def run(name: str, scores: dict[str, float], shape: Shape = SHAPE) -> MeasuredRun:
    """A run with the best of each family at these scores."""
    parts = {"untouched": "prompt_text", "classifier": "shallow_model", "constant": "shallow_model"}
    roles = {"untouched": "untouched_base", "classifier": "shallow", "prompt_text": "prompt_text"}
    entries = tuple(
        MeasuredEntry(
            family,
            tuple(dict.fromkeys(("prompt_text", parts.get(family, family)))),
            roles.get(family, "constant" if family == "constant" else "trained"),
            value,
            value - 0.03,
            value + 0.03,
        )
        for family, value in scores.items()
    )
    return MeasuredRun(name, shape, "accuracy", 300, 1, "tiny", 1000, entries)


def shallow(found: MeasuredRun) -> MeasuredRun:
    """The same with classifiers that hold nothing but themselves."""
    entries = tuple(
        replace(each, parts=("shallow_model",)) if each.role in ("shallow", "constant") else each
        for each in found.entries
    )
    return replace(found, entries=entries)


def test_a_factor_of_ten_in_rows_is_one() -> None:
    assert distance(SHAPE, SHAPE) == 0
    assert distance(SHAPE, replace(SHAPE, train_rows=100)) == pytest.approx(1)
    assert distance(SHAPE, replace(SHAPE, labels=16)) == pytest.approx(1)
    assert distance(SHAPE, replace(SHAPE, input_tokens=7.5)) == pytest.approx(1)
    assert distance(SHAPE, replace(SHAPE, kind="json", labels=0)) > 3
    far = replace(SHAPE, train_rows=10)
    assert distance(SHAPE, far) == distance(far, SHAPE)


def test_odds_are_counts() -> None:
    runs = [
        run("a", {"untouched": 0.5, "virtual_tokens": 0.90, "low_rank": 0.91}),
        run("b", {"untouched": 0.6, "virtual_tokens": 0.80, "low_rank": 0.90}),
        run("c", {"untouched": 0.7, "virtual_tokens": 0.92, "low_rank": 0.89}),
    ]
    odds = {each.family: each for each in prior(SHAPE, runs).odds}
    soft = odds[FAMILIES["virtual_tokens"]]
    assert (soft.sets, soft.runs, soft.near_best) == (3, 3, pytest.approx(2))
    assert soft.loss == pytest.approx((1 + 10 + 0) / 3)
    assert soft.gain == pytest.approx(22)  # of 40, 20 and 22
    assert soft.low < 2 / 3 < soft.high
    assert odds[FAMILIES["low_rank"]].loss == pytest.approx(1)
    assert FAMILIES["weights"] not in odds


def test_the_cheapest_that_loses_little_is_expected() -> None:
    near = [
        run(name, {"untouched": 0.5, "virtual_tokens": 0.9, "low_rank": 0.905}) for name in "ab"
    ]
    assert prior(SHAPE, near).family == "a soft prompt"
    strict = Priorities.model_validate({"give_up_points": 0})
    assert prior(SHAPE, near, strict).family == "low-rank fine-tuning"
    good = [run("a", {"untouched": 0.9, "low_rank": 0.905})]
    assert prior(SHAPE, good).family == "the untouched base"


def test_a_classifier_counts_and_a_constant_answer_does_not() -> None:
    made = shallow(run("a", {"classifier": 0.9, "constant": 0.99, "untouched": 0.5}))
    assert made.family_values() == {"shallow_model": 0.9, "untouched": 0.5}
    assert prior(SHAPE, [made]).family == "a small classifier"


def test_a_classifier_of_other_kinds_of_task_says_nothing() -> None:
    labels = shallow(run("a", {"classifier": 0.9, "untouched": 0.5, "low_rank": 0.89}))
    texts = run("b", {"untouched": 0.2, "low_rank": 0.4}, replace(SHAPE, kind="json", labels=0))
    found = prior(replace(SHAPE, kind="json", labels=0), [labels, texts])
    assert FAMILIES["shallow_model"] not in {each.family for each in found.odds}
    assert found.family == "low-rank fine-tuning"
    of_labels = {each.family: each.sets for each in prior(SHAPE, [labels, texts]).odds}
    assert of_labels == {
        "the untouched base": 2,
        "a small classifier": 1,
        "low-rank fine-tuning": 2,
    }


def test_only_the_nearest_count() -> None:
    far = replace(SHAPE, train_rows=10_000_000)
    near = [run(f"n{i}", {"untouched": 0.5, "low_rank": 0.9}) for i in range(NEAREST)]
    others = [run(f"f{i}", {"untouched": 0.99, "low_rank": 0.5}, far) for i in range(50)]
    found = prior(SHAPE, [*others, *near])
    assert [each.name for _, each in found.nearest] == [each.name for each in near]
    assert found.family == "low-rank fine-tuning"


def test_a_set_counts_once() -> None:
    """Eight sets at three sizes are eight; computed a second time by plain loops."""
    numbers = np.random.default_rng(0)
    sizes = (50, 300, 1500)
    runs = [
        run(
            f"set{number}",
            {
                "untouched": float(numbers.uniform(0.3, 0.5)),
                "virtual_tokens": float(numbers.uniform(0.85, 0.9)),
                "low_rank": float(numbers.uniform(0.86, 0.9)),
            },
            replace(SHAPE, train_rows=size),
        )
        for number in range(8)
        for size in sizes
    ]
    found = prior(SHAPE, [runs[at] for at in numbers.permutation(len(runs))])
    assert (len(found.sets), len(found.nearest)) == (NEAREST, 3 * NEAREST)
    near, losses, gains = [], [], []
    for name in found.sets:
        # 1,500 is nearest to the task's 1,000 rows.
        far = {size: abs(math.log10(size / 1000)) for size in sizes}
        weights = {size: 10 ** -(far[size] - far[1500]) for size in sizes}
        own = {each.shape.train_rows: each.family_values() for each in runs if each.name == name}
        total = sum(weights.values())
        lost = {s: 100 * (max(v.values()) - v["virtual_tokens"]) for s, v in own.items()}
        near.append(sum(weights[s] * (lost[s] <= 1) for s in sizes) / total)
        losses.append(sum(weights[s] * lost[s] for s in sizes) / total)
        gains.append(
            sum(weights[s] * 100 * (own[s]["virtual_tokens"] - own[s]["untouched"]) for s in sizes)
            / total
        )
    soft = next(each for each in found.odds if each.family == FAMILIES["virtual_tokens"])
    assert (soft.sets, soft.runs) == (6, 18)
    assert soft.near_best == pytest.approx(sum(near))
    assert soft.loss == pytest.approx(np.mean(losses))
    assert soft.gain == pytest.approx(np.median(gains))
    assert (soft.low, soft.high) == pytest.approx(share_limits(sum(near) / 6, 6))
    weights = [each["weight"] for each in found.as_dict()["nearest"]]
    assert sum(weights) == pytest.approx(NEAREST)
    assert "On the 6 measured sets most like it (18 runs)" in found.headline


def test_the_same_run_again_changes_nothing() -> None:
    once = [
        run(name, {"untouched": 0.5, "low_rank": 0.9, "weights": score})
        for name, score in (("a", 0.88), ("b", 0.95), ("c", 0.905))
    ]
    alone, thrice = prior(SHAPE, once), prior(SHAPE, once * 3)
    for one, other in zip(alone.odds, thrice.odds, strict=True):
        assert (other.sets, other.runs) == (one.sets, 3 * one.runs)
        for name in ("near_best", "low", "high", "loss", "gain"):
            assert getattr(one, name) == pytest.approx(getattr(other, name)), name


def test_minimum_quality_is_counted() -> None:
    runs = [run("a", {"untouched": 0.5, "low_rank": 0.9}), run("b", {"low_rank": 0.7})]
    wanted = Priorities.model_validate({"minimum_quality": 80})
    (untouched, low_rank) = prior(SHAPE, runs, wanted).odds
    assert (untouched.reached, untouched.sets) == (0, 1)
    assert (low_rank.reached, low_rank.sets) == (1, 2)
    assert all(each.reached is None for each in prior(SHAPE, runs).odds)


def test_it_says_that_it_is_a_prior_and_how_little_it_knows() -> None:
    assert "A prior, not a result" in prior(SHAPE).headline
    other = prior(replace(SHAPE, kind="generation"), [run("a", {"low_rank": 0.9})])
    assert "None of them is of kind generation" in other.headline
    nothing = prior(SHAPE, [])
    assert (nothing.family, nothing.odds) == ("", ())
    assert "No measured run" in nothing.headline


def test_the_runs_that_come_with_the_program_can_be_read() -> None:
    runs = measured_runs()
    assert len({(each.name, each.shape, each.budget) for each in runs}) == len(runs) > 2
    for each in runs:
        assert {"untouched", "low_rank"} <= set(each.family_values())
        assert all(0 <= x.low <= x.value <= x.high <= 1 for x in each.entries)
        assert each.test_rows > 0
        assert each.shape.input_tokens > 0
