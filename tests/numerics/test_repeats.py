"""Agreement and pass^k against drawing, and drawing at a temperature against softmax."""

from __future__ import annotations

import numpy as np
import pytest

from tunewise.numerics.repeats import agreement, all_right, at_temperature


def test_agreement_by_hand() -> None:
    assert agreement(["a", "a", "a"]) == 1.0
    assert agreement(["a", "b", "c"]) == 0.0
    assert agreement(["a", "a", "b", None]) == pytest.approx(1 / 6)


def test_agreement_and_all_right_are_unbiased() -> None:
    random = np.random.default_rng(0)
    chance = np.array([0.6, 0.3, 0.1])
    agreed, right = [], []
    for _ in range(20_000):
        answers = random.choice(3, size=5, p=chance).tolist()
        agreed.append(agreement(answers))
        right.append(all_right(answers.count(0), 5, 3))
    assert np.mean(agreed) == pytest.approx((chance**2).sum(), abs=0.005)
    assert np.mean(right) == pytest.approx(0.6**3, abs=0.005)


def test_all_right_by_hand() -> None:
    assert all_right(5, 5, 3) == 1.0
    assert all_right(2, 5, 3) == 0.0
    assert all_right(3, 5, 3) == pytest.approx(0.1)
    assert all_right(3, 5, 1) == pytest.approx(0.6)


def test_a_temperature_divides() -> None:
    scores = np.log([[0.5, 0.3, 0.2]])
    assert at_temperature(scores, 1.0)[0] == pytest.approx([0.5, 0.3, 0.2])
    squared = np.array([0.25, 0.09, 0.04])
    assert at_temperature(scores, 0.5)[0] == pytest.approx(squared / squared.sum())
    assert at_temperature([[-1e4, 0.0]], 0.1)[0] == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize(
    ("right", "repeats", "power"), [(6, 5, 1), (-1, 5, 1), (1, 5, 0), (1, 5, 6)]
)
def test_numbers_that_do_not_fit_are_refused(right: int, repeats: int, power: int) -> None:
    with pytest.raises(ValueError, match="in a row"):
        all_right(right, repeats, power)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="two answers"):
        agreement(["a"])
    with pytest.raises(ValueError, match="above 0"):
        at_temperature([[0.0]], 0.0)
