"""The learning-rate factors, step by step."""

from __future__ import annotations

import pytest

from tunewise.numerics.schedule import linear_decay, warm_constant


def test_warm_up_rises_in_equal_steps() -> None:
    assert [warm_constant(step, 3) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_no_warm_up() -> None:
    assert [warm_constant(step, 0) for step in (0, 1, 100)] == [1.0, 1.0, 1.0]


def test_decay_falls_in_equal_steps_and_ends_above_zero() -> None:
    factors = [linear_decay(step, 2, 6) for step in range(6)]
    assert factors == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert linear_decay(6, 2, 6) == 0.0
    assert linear_decay(60, 2, 6) == 0.0


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, 10), (9, 10), (3, 50)])
def test_every_step_moves_and_none_rises(begin: int, end: int) -> None:
    factors = [linear_decay(step, begin, end) for step in range(end)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors == sorted(factors, reverse=True)
