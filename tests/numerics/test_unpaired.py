"""Differences of independent means: a published example, symmetry, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tunewise.numerics.intervals import Interval, mean_interval
from tunewise.numerics.unpaired import difference_of


def proportion(right: int, total: int) -> Interval:
    """Wilson's interval of a count."""
    return mean_interval([1.0] * right + [0.0] * (total - right))


@pytest.mark.parametrize(
    ("counts", "limits"),
    [  # Newcombe (1998), table II, method 10
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((10, 10, 0, 20), (0.6791, 1.0000)),
    ],
)
def test_published_examples(counts: tuple[int, int, int, int], limits: tuple[float, float]) -> None:
    told = difference_of(proportion(counts[0], counts[1]), proportion(counts[2], counts[3]))
    assert (told.low, told.high) == pytest.approx(limits, abs=6e-5)


def test_the_other_way_round_has_the_other_sign() -> None:
    a, b = proportion(30, 40), proportion(10, 50)
    one, other = difference_of(a, b), difference_of(b, a)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_limits_cover_in_simulation() -> None:
    numbers = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        a = proportion(int(numbers.binomial(60, 0.9)), 60)
        b = proportion(int(numbers.binomial(150, 0.7)), 150)
        told = difference_of(a, b)
        inside += told.low <= 0.2 <= told.high
    assert 0.92 <= inside / 400 <= 0.98
