"""Calibration error: near 0 where it should be, found where it is, and its interval holds."""

from __future__ import annotations

import numpy as np
import pytest

from tunewise.numerics.reliability import calibration_error, reliability_bins


def test_a_gap_that_is_everywhere_is_the_error() -> None:
    stated = np.full(4000, 0.9)
    right = np.random.default_rng(0).random(4000) < 0.7
    found = calibration_error(stated, right)
    assert found.value == pytest.approx(abs(0.9 - right.mean()), abs=0.002)
    assert found.low < 0.2 < found.high


def test_a_calibrated_model_has_none_on_few_rows_either() -> None:
    random = np.random.default_rng(1)
    values = []
    for _ in range(200):
        stated = random.uniform(0.5, 1, 100)
        found = calibration_error(stated, random.random(100) < stated)
        values.append(found.value**2)
    # The usual estimate is about 0.137 here; what is left comes of cutting it off at 0.
    assert np.mean(values) < 0.065**2
    assert np.median(values) < 0.04**2


@pytest.mark.parametrize(("gap", "rows"), [(0.0, 150), (0.1, 150), (0.25, 400)])
def test_the_interval_covers_the_truth(gap: float, rows: int) -> None:
    random = np.random.default_rng(2)
    held = 0
    for number in range(200):
        stated = random.uniform(0.5, 1, rows)
        right = random.random(rows) < stated - gap
        found = calibration_error(stated, right, seed=number)
        held += found.low <= gap <= found.high
    assert held >= 0.9 * 200


def test_bins_hold_equally_many_rows_and_all_of_them() -> None:
    stated = np.linspace(0, 1, 103)
    bins = reliability_bins(stated, stated > 0.5)
    assert sum(each.n for each in bins) == 103
    assert max(each.n for each in bins) - min(each.n for each in bins) <= 1
    assert [each.stated for each in bins] == sorted(each.stated for each in bins)
    assert len(reliability_bins(stated[:25], stated[:25])) == 2
    assert len(reliability_bins([0.5], [1.0])) == 1


def test_an_error_by_hand() -> None:
    # Two bins of ten: 0.6 stated and 0.5 right, 0.9 stated and 1.0 right.
    stated = [0.6] * 10 + [0.9] * 10
    right = [1.0] * 5 + [0.0] * 5 + [1.0] * 10
    noise = (0.25 * 10 / 9 / 10 + 0.0) / 2
    assert calibration_error(stated, right).value == pytest.approx(
        np.sqrt(max(0.0, 0.01 - noise)), abs=1e-9
    )


@pytest.mark.parametrize(
    ("stated", "right"),
    [
        ([], []),
        ([0.5], [1.0]),
        ([0.5, 0.5], [1.0]),
        ([0.5, 1.5], [1.0, 0.0]),
        ([0.5, float("nan")], [1.0, 0.0]),
        ([[0.5, 0.5]], [[1.0, 0.0]]),
    ],
)
def test_bad_values_are_refused(stated: list[float], right: list[float]) -> None:
    with pytest.raises(ValueError, match=r"needed|between"):
        calibration_error(stated, right)
