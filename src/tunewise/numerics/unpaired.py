"""The difference of two means that come from different rows, from their two intervals.

Newcombe (1998, method 10) for proportions; Zou & Donner (2008, "MOVER") for anything that has an
interval: each limit is as far from the difference as the two nearer limits are from their values,
joined as independent distances are.
"""

from __future__ import annotations

from math import hypot

from tunewise.numerics.intervals import Interval


def difference_of(a: Interval, b: Interval) -> Interval:
    """`a` minus `b` with limits of the level that both have.

    Args:
        a: mean over some rows.
        b: mean over other rows, independent of the first.
    """
    value = a.value - b.value
    low = value - hypot(a.value - a.low, b.high - b.value)
    high = value + hypot(a.high - a.value, b.value - b.low)
    return Interval(value, low, high)
