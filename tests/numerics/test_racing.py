"""Racing: who stays, who is taken, against plain loops and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunewise.numerics.racing import cheapest_within_noise, paired_error, survivors


def test_the_paired_error_by_a_plain_loop() -> None:
    values = [0.5, -1.0, 2.0, 0.25]
    mean = sum(values) / 4
    variance = sum((value - mean) ** 2 for value in values) / 3
    assert paired_error(np.array(values)) == pytest.approx(math.sqrt(variance / 4))
    assert paired_error(np.array([1.0])) == math.inf


def test_no_more_survive_than_are_kept_and_the_best_stands_first() -> None:
    random = np.random.default_rng(0)
    losses = random.normal(size=(6, 40)) + np.array([3.0, 1.0, 1.1, 2.0, 1.05, 1.2])[:, None]
    kept = survivors(losses, 3)
    means = losses.mean(axis=1)
    assert kept == sorted(kept, key=lambda index: means[index])
    assert kept[0] == int(means.argmin())
    assert set(kept) <= {1, 2, 4, 5}
    assert len(kept) <= 3


def test_who_is_behind_on_every_row_goes_and_who_is_behind_by_noise_stays() -> None:
    rows = np.random.default_rng(1).normal(size=50)
    noisy = np.random.default_rng(2).permutation(rows) + 0.01
    assert survivors(np.stack([rows, rows + 0.5, noisy]), 3) == [0, 2]


def test_a_loss_that_is_not_finite_never_wins() -> None:
    losses = np.array([[math.nan] * 4, [2.0, 2.0, 2.0, 2.1], [math.inf] * 4])
    assert cheapest_within_noise(losses, np.array([1.0, 9.0, 1.0])) == 1
    assert survivors(losses, 1) == [1]


@pytest.mark.parametrize(("gap", "wanted"), [(0.0, 1), (0.5, 0)])
def test_the_dearer_one_is_taken_only_beyond_the_noise(gap: float, wanted: int) -> None:
    random = np.random.default_rng(3)
    dear = random.normal(size=200) ** 2
    cheap = dear + gap + random.normal(size=200) * 0.1
    cheap -= (cheap - dear).mean() - gap - 0.001
    assert cheapest_within_noise(np.stack([dear, cheap]), np.array([300.0, 30.0])) == wanted


def test_how_much_is_noise_may_be_said() -> None:
    random = np.random.default_rng(4)
    dear = random.normal(size=100)
    cheap = dear + random.normal(size=100)
    cheap += dear.mean() - cheap.mean() + 0.05  # half a standard error, about
    losses, prices = np.stack([dear, cheap]), np.array([300.0, 30.0])
    assert cheapest_within_noise(losses, prices) == 1
    assert cheapest_within_noise(losses, prices, errors=0.25) == 0


def test_of_equal_prices_the_lower_loss_is_taken() -> None:
    losses = np.array([[1.0, 1.2], [1.0, 1.1], [1.0, 1.3]])
    assert cheapest_within_noise(losses, np.ones(3)) == 1
