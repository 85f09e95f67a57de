"""Intervals of a mean: coverage by simulation, slow loops, and the cases where width must not be 0.

Coverage seen when this was written (nominal 95%): Wilson 0.953 at n=30 p=0.5, 0.938 at n=30 p=0.95,
0.942 at n=100 p=0.9, 0.949 at n=400 p=0.95; bootstrap on Beta(8, 2) scores 0.955, 0.959, 0.948 at
n=30, 100, 400; three seeds whose true accuracies differ, 0.957 to 0.970 at n=100, 0.937 at n=400.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tunewise.numerics.intervals import (
    as_score_matrix,
    bootstrap_means,
    mean_interval,
    rows_worth_one,
    seed_effects,
    seed_variance,
    share_limits,
)


def coverage(
    draw: Callable[[], np.ndarray], truth: float, runs: int, resamples: int = 800
) -> float:
    """Share of simulated intervals that hold the truth."""
    held = 0
    for _ in range(runs):
        found = mean_interval(draw(), resamples=resamples)
        held += found.low <= truth <= found.high
    return held / runs


@pytest.mark.parametrize(
    ("rows", "p"), [(30, 0.5), (30, 0.95), (100, 0.9), (400, 0.95), (400, 0.6)]
)
def test_covers_right_and_wrong_answers(rows: int, p: float) -> None:
    numbers = np.random.default_rng(1)
    held = coverage(lambda: (numbers.random(rows) < p).astype(float), p, runs=1200)
    assert 0.925 <= held <= 0.975  # 0.93 to 0.97, and the noise of 1,200 simulations


@pytest.mark.parametrize("rows", [30, 100, 400])
def test_covers_graded_scores(rows: int) -> None:
    numbers = np.random.default_rng(2)
    held = coverage(lambda: numbers.beta(8, 2, rows), 0.8, runs=400)
    assert 0.925 <= held <= 0.985


@pytest.mark.parametrize("between_seeds", [0.0, 0.15, 0.4])
def test_covers_the_mean_over_all_seeds(between_seeds: float) -> None:
    """Rows differ in difficulty, seeds in skill: both must be in the interval."""
    numbers = np.random.default_rng(3)

    def chance(skill: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-skill))

    def draw() -> np.ndarray:
        skill = 1.5 + 2 * numbers.standard_normal((1, 100))
        skill = skill + between_seeds * numbers.standard_normal((3, 1))
        return (numbers.random((3, 100)) < chance(skill)).astype(float)

    spread = math.sqrt(4 + between_seeds**2)
    truth = float(chance(1.5 + spread * numbers.standard_normal(400_000)).mean())
    assert 0.92 <= coverage(draw, truth, runs=300, resamples=500) <= 0.995


def test_wilson_by_hand() -> None:
    """81 of 100: the limits solve (p - 0.81)^2 = z^2 p (1 - p) / 100."""
    found = mean_interval(np.repeat([1.0, 0.0], [81, 19]))
    z2 = 1.959963984540054**2
    roots = np.roots([1 + z2 / 100, -(2 * 0.81 + z2 / 100), 0.81**2])
    assert (found.low, found.high) == pytest.approx((roots.min(), roots.max()))
    assert found.value == 0.81
    assert found.half_width == pytest.approx((roots.max() - roots.min()) / 2)


def test_bootstrap_equals_plain_loop() -> None:
    """The same drawings, one row at a time."""
    scores = np.random.default_rng(4).random(7)
    fast = bootstrap_means(scores, np.ones(7), seed=5, resamples=40)
    drawn = np.random.default_rng([5, 0, 0]).integers(0, 7, size=(40, 7))
    slow = [sum(scores[index] for index in line) / 7 for line in drawn]
    assert fast == pytest.approx(slow)


def test_seed_variance_equals_plain_loops() -> None:
    scores = np.random.default_rng(6).random((3, 11)) + np.array([[0.0], [0.4], [0.9]])
    seeds, rows = scores.shape
    grand = scores.sum() / scores.size
    residual = between = 0.0
    for s in range(seeds):
        between += (scores[s].sum() / rows - grand) ** 2 / (seeds - 1)
        for r in range(rows):
            left = scores[s, r] - scores[s].sum() / rows - scores[:, r].sum() / seeds + grand
            residual += left**2 / ((seeds - 1) * (rows - 1))
    assert seed_variance(scores) == pytest.approx(between - residual / rows)


def test_seeds_that_disagree_widen_the_interval() -> None:
    base = np.tile([1.0, 1.0, 1.0, 0.0], 100)
    calm = np.stack([base, np.roll(base, 1), np.roll(base, 2)])
    worse = base.copy()
    worse[:160] = 0.0
    restless = np.stack([base, np.roll(base, 1), worse])
    assert mean_interval(restless).half_width > 3 * mean_interval(calm).half_width
    assert seed_effects(calm, np.random.default_rng(0), 5).tolist() == [0.0] * 5


def test_equal_seeds_are_one_seed() -> None:
    """A method that does not depend on its seed gains no rows by being run three times."""
    scores = np.repeat([1.0, 0.0], [40, 10])
    assert mean_interval(np.stack([scores] * 3)) == mean_interval(scores)


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("rows", [1, 5, 30])
def test_scores_that_never_vary_have_a_width(value: float, rows: int) -> None:
    found = mean_interval(np.full(rows, value))
    assert found.half_width > 0.3 / math.sqrt(rows) / 3
    assert 0.0 <= found.low <= value <= found.high <= 1.0


def test_width_shrinks_with_rows() -> None:
    numbers = np.random.default_rng(8)
    widths = [mean_interval(numbers.beta(2, 2, rows)).half_width for rows in (25, 400, 6400)]
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)
    assert widths[1] / widths[2] == pytest.approx(4, rel=0.3)


def test_clusters_are_drawn_whole() -> None:
    """Ten copies of each row are worth one row."""
    numbers = np.random.default_rng(9)
    rows = numbers.beta(2, 2, 60)
    copies = np.repeat(rows, 10)
    alone = mean_interval(rows).half_width
    assert mean_interval(copies).half_width == pytest.approx(alone / math.sqrt(10), rel=0.15)
    grouped = mean_interval(copies, clusters=np.repeat(np.arange(60), 10))
    assert grouped.half_width == pytest.approx(alone, rel=0.15)
    assert grouped.value == pytest.approx(rows.mean())


def test_clusters_without_variation_are_counted_as_clusters() -> None:
    few = mean_interval(np.ones(200), clusters=np.repeat(np.arange(4), 50))
    many = mean_interval(np.ones(200), clusters=np.arange(200))
    assert few.low < 0.7 < many.low


def test_same_seed_same_interval_whatever_the_memory() -> None:
    scores = np.random.default_rng(10).random((2, 300))
    assert mean_interval(scores, seed=3) == mean_interval(scores, seed=3)
    assert mean_interval(scores, seed=3) != mean_interval(scores, seed=4)


def test_two_thousand_rows_in_less_than_a_second() -> None:
    scores = (np.random.default_rng(11).random((3, 2000)) < 0.8).astype(float)
    started = time.process_time()
    mean_interval(scores)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "scores", [[], [[]], np.zeros((2, 2, 2)), [0.5, math.nan], [math.inf], np.zeros((0, 4))]
)
def test_what_is_not_a_table_of_scores_is_refused(scores: object) -> None:
    with pytest.raises(ValueError, match="scores must be"):
        as_score_matrix(scores)  # type: ignore[arg-type]  # wrong on purpose


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="group of 3 rows"):
        mean_interval([0.1, 0.2, 0.3], clusters=[1, 2])


@pytest.mark.parametrize("level", [0.95, 0.999])
def test_limits_of_a_share_are_wilsons(level: float) -> None:
    for right, rows in ((0, 5), (3, 9), (81, 100), (7, 7)):
        exact = stats.binomtest(right, rows).proportion_ci(level, method="wilson")
        found = share_limits(right / rows, rows, level=level)
        assert found == pytest.approx((exact.low, exact.high))


def test_right_answers_of_groups_by_hand() -> None:
    """Rows of a group all alike: as many independent rows as groups, with Student's limits."""
    right, groups = np.repeat([1.0] * 28 + [0.0] * 12, 5), np.repeat(np.arange(40), 5)
    found = mean_interval(right, clusters=groups)
    narrowed = 40 * (stats.t.ppf(0.975, 199) / stats.t.ppf(0.975, 39)) ** 2
    low, high = share_limits(0.7, narrowed)
    assert (found.low, found.high) == pytest.approx((low, high))
    wilson = stats.binomtest(28, 40).proportion_ci(method="wilson")
    assert found.low == pytest.approx(wilson.low, abs=0.005)


def test_rows_of_a_group_that_differ_are_worth_more() -> None:
    numbers = np.random.default_rng(14)
    right, groups = (numbers.random(200) < 0.7).astype(float), np.repeat(np.arange(40), 5)
    assert 1.0 <= rows_worth_one(right, groups) < 2.0
    assert rows_worth_one(np.repeat(right[:40], 5), groups) == pytest.approx(5.0)
    assert rows_worth_one(np.ones(200), groups) == 5.0
    assert rows_worth_one(right, None) == 1.0


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_right_answers_of_groups_cover(share: float) -> None:
    """Half of the variance lies between forty groups of five rows."""
    numbers, groups = np.random.default_rng(15), np.repeat(np.arange(40), 5)
    held = {True: 0, False: 0}
    for _ in range(400):
        levels = numbers.beta(share, 1 - share, 40)
        right = (numbers.random(200) < levels[groups]).astype(float)
        for grouped in held:
            found = mean_interval(right, clusters=groups if grouped else None)
            held[grouped] += found.low <= share <= found.high
    assert held[True] / 400 >= 0.93
    assert held[False] / 400 <= 0.85
