"""The worst of many changes, and how far apart changes lie, without the flattery of choosing.

The lowest of many noisy means lies below the truth of all of them. So the worst change is chosen
on one half of the rows and measured on the other, and the halves then change places; and beside
the spread that was seen stands the spread that chance alone would show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tunewise.numerics.intervals import Floats, Interval
from tunewise.numerics.pairs import paired_difference

_PERMUTATIONS = 400


def worst_change(plain: ArrayLike, changed: ArrayLike, *, seed: int = 0) -> Interval:
    """Score under the worst change minus the plain score, the worst chosen on other rows.

    Args:
        plain: (n,) scores without a change.
        changed: (V changes, n) scores of the same rows under each.
        seed: of the halves and the bootstrap.

    Returns:
        The mean over rows with its 95% interval. With fewer than four rows the choice is made on
        the very rows.

    Raises:
        ValueError: no change, no rows, or rows that differ.
    """
    before, after = _checked(plain, changed)
    rows = before.size
    order = np.random.default_rng([seed, 5]).permutation(rows)
    halves = [order[: rows // 2], order[rows // 2 :]] if rows >= 4 else [order]
    chosen = np.empty(rows)
    for half in halves:
        others = np.setdiff1d(order, half) if len(halves) > 1 else half
        worst = int((after[:, others] - before[others]).mean(axis=1).argmin())
        chosen[half] = after[worst, half]
    found = paired_difference(chosen, before, seed=seed)
    return Interval(found.difference, found.low, found.high)


def spread_by_chance(scores: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """The range of the means over rows that would be seen if no change mattered.

    Args:
        scores: (V, n) of the same rows under each change, the plain one among them.
        seed: of the permutations within each row.

    Returns:
        Mean range over permutations, and the share of them (at least 1 / 401) whose range is no
        smaller than that of the scores: the p-value that changes do not matter.

    Raises:
        ValueError: no change or no rows.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"scores must be (changes, rows) and not empty, found {matrix.shape}")
    numbers = np.random.default_rng([seed, 6])
    ranges = np.array(
        [np.ptp(numbers.permuted(matrix, axis=0).mean(axis=1)) for _ in range(_PERMUTATIONS)]
    )
    seen = float(np.ptp(matrix.mean(axis=1)))
    # Rounding must not decide between a range that equals what was seen and one that passes it.
    extreme = int((ranges >= seen - 1e-12).sum())
    return float(ranges.mean()), (extreme + 1) / (_PERMUTATIONS + 1)


def _checked(plain: ArrayLike, changed: ArrayLike) -> tuple[Floats, Floats]:
    before = np.asarray(plain, dtype=np.float64)
    after = np.atleast_2d(np.asarray(changed, dtype=np.float64))
    if before.ndim != 1 or before.size == 0 or after.ndim != 2 or after.shape[0] == 0:
        raise ValueError(f"(n,) and (changes, n) are needed, found {before.shape}, {after.shape}")
    if after.shape[1] != before.size:
        raise ValueError(f"not the same rows: {before.size} and {after.shape[1]}")
    return before, after
