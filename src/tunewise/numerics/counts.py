"""F1 over rows of counts, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tunewise.numerics.intervals import RESAMPLES, Interval, cluster_sums


def f1_interval(
    counts: Sequence[tuple[int, int, int]],
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    clusters: ArrayLike | None = None,
) -> Interval:
    """Micro-averaged F1: 2 hits / (given + expected), rows or clusters drawn with replacement.

    As in `intervals`, pseudo-rows keep few rows from looking sure: two that are all right and two
    that are all wrong, of the mean row's size (the mean cluster's where all rows are right, or all
    wrong, since rows of a cluster may then all be the same). They move the limits, never the value.

    Args:
        counts: per row (hits, given, expected), at least one row and one value.
        level: of the interval.
        seed: of the bootstrap.
        resamples: drawings.
        clusters: (n,) group of each row; None where rows are independent.

    Raises:
        ValueError: no row, neither given nor expected values in any, or `clusters` of another
            length.
    """
    if not counts or sum(given + expected for _, given, expected in counts) == 0:
        raise ValueError("no values were given or expected")
    hits = np.array([each[0] for each in counts], dtype=np.float64)
    total = np.array([each[1] + each[2] for each in counts], dtype=np.float64)
    value = float(2 * hits.sum() / total.sum())
    size = float(total.mean())
    hits, sizes = cluster_sums(hits, clusters)
    total, _ = cluster_sums(total, clusters)
    if value in (0.0, 1.0):
        size *= float(sizes.mean())
    hits = np.append(hits, [0.0, 0.0, size / 2, size / 2])
    total = np.append(total, [size] * 4)
    numbers = np.random.default_rng(seed)
    drawn = numbers.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), size=resamples)
    draws = 2 * (drawn @ hits) / (drawn @ total)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))
