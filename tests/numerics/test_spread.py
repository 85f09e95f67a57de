"""Student's interval against scipy's own and by simulation; spread against sorting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tunewise.numerics.spread import deviation_interval, spread_of, student_interval


def test_student_agrees_with_a_one_sample_test() -> None:
    values = [3.0, 4.5, 2.0, 7.0]
    mean, low, high = student_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((4.125, theirs.low, theirs.high))


def test_student_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        _, low, high = student_interval(random.normal(10, 3, 3))
        assert low is not None
        assert high is not None
        held += low <= 10 <= high
    assert 930 <= held <= 970


def test_one_value_has_no_limits_and_equal_ones_no_width() -> None:
    assert student_interval([2.0]) == (2.0, None, None)
    assert student_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_the_deviation_covers_the_truth() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        value, low, high = deviation_interval(random.normal(10, 3, 3))
        assert low <= value <= high
        held += low <= 3 <= high
    assert 930 <= held <= 970
    assert deviation_interval([1.0, 1.0]) == (0.0, 0.0, 0.0)


def test_spread_by_hand() -> None:
    found = spread_of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.lowest, found.highest, found.range, found.median) == (1.0, 5.0, 4.0, 3.0)
    assert found.interquartile == 2.0


@pytest.mark.parametrize("values", [[], [float("nan")], [[1.0]], [1.0, float("inf")]])
def test_bad_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        spread_of(values)
    with pytest.raises(ValueError, match="values"):
        student_interval(values)
    with pytest.raises(ValueError, match="values"):
        deviation_interval(values)


def test_clustered_values_by_hand() -> None:
    """Two groups of two values: one degree of freedom, and what each group adds to the mean."""
    mean, low, high = student_interval([1.0, 3.0, 5.0, 7.0], clusters=["a", "a", "b", "b"])
    # Sums of what is left of the mean 4: -4 and 4; 2 / 1 * 32 / 16 = 4, whose root is 2.
    reach = float(stats.t.ppf(0.975, 1)) * 2
    assert (mean, low, high) == pytest.approx((4.0, 4.0 - reach, 4.0 + reach))
    each = student_interval([1.0, 3.0, 5.0, 7.0], clusters=[1, 2, 3, 4])
    assert each == pytest.approx(student_interval([1.0, 3.0, 5.0, 7.0]))
    assert student_interval([1.0, 3.0], clusters=["a", "a"]) == (2.0, None, None)
