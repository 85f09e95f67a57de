"""Areas against counting pairs, scikit-learn, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tunewise.numerics.ranking import area_under_curve


def test_pairs_are_counted() -> None:
    # 3 > 1, 3 > 2, 2 > 1, 2 = 2
    assert area_under_curve([3.0, 2.0], [1.0, 2.0]).value == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_says_the_same(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    truth = numbers.uniform(size=80) < 0.3
    score = np.round(numbers.normal(size=80) + truth, 1)
    told = area_under_curve(score[truth], score[~truth])
    assert told.value == pytest.approx(roc_auc_score(truth, score))
    assert told.low < told.value < told.high


@pytest.mark.parametrize(("shift", "value"), [(-10.0, 0.0), (10.0, 1.0)])
def test_groups_that_do_not_overlap_are_not_certain(shift: float, value: float) -> None:
    told = area_under_curve(np.arange(6) + shift, np.arange(6))
    assert told.value == value
    assert told.high - told.low > 0.2
    assert 0.0 <= told.low <= told.high <= 1.0


@pytest.mark.parametrize("shift", [0.0, 0.7, 1.8])
def test_limits_cover_in_simulation(shift: float) -> None:
    truth = float(norm.cdf(shift / 2**0.5))
    inside = 0
    for seed in range(400):
        numbers = np.random.default_rng(seed)
        told = area_under_curve(numbers.normal(shift, size=40), numbers.normal(size=90))
        inside += told.low <= truth <= told.high
    assert inside / 400 >= 0.92


@pytest.mark.parametrize(
    ("ones", "others", "words"),
    [([], [1.0], "hold numbers"), ([1.0], [], "hold numbers"), ([float("nan")], [1.0], "finite")],
)
def test_what_cannot_be_ranked_is_refused(
    ones: list[float], others: list[float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        area_under_curve(ones, others)


def test_copies_of_numbers_are_worth_one() -> None:
    numbers = np.random.default_rng(7)
    ones, others = numbers.normal(1, size=30), numbers.normal(size=30)
    alone = area_under_curve(ones, others)
    groups = (np.repeat(np.arange(30), 4), np.repeat(np.arange(30, 60), 4))
    found = area_under_curve(np.repeat(ones, 4), np.repeat(others, 4), clusters=groups)
    assert found.value == pytest.approx(alone.value)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.1)
    sure = area_under_curve(np.repeat(ones, 4), np.repeat(others, 4))
    assert sure.high - sure.low < 0.6 * (alone.high - alone.low)


def test_groups_that_never_overlap_are_counted_as_clusters() -> None:
    groups = (np.repeat(np.arange(3), 20), np.repeat(np.arange(3, 6), 20))
    told = area_under_curve(np.ones(60), np.zeros(60), clusters=groups)
    assert told.value == 1.0
    assert told.low < 0.8 < area_under_curve(np.ones(60), np.zeros(60)).low


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="group of 3 rows"):
        area_under_curve([1.0, 2.0], [0.0], clusters=([1, 2], [3, 4]))
