"""The worst of many changes, and how far apart changes lie, without the flattery of choosing.

The lowest of many noisy means lies below the truth of all of them. So the worst change is chosen
on one half of the rows and measured on the other, and the halves then change places; and beside
the spread that was seen stands the spread that chance alone would show. Rows of one cluster stand
in the same half and are permuted together, since they are hurt together.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunewise.numerics.intervals import Floats, Interval, cluster_sums
from tunewise.numerics.pairs import paired_difference

Places: TypeAlias = NDArray[np.intp]
_PERMUTATIONS = 400


def worst_change(
    plain: ArrayLike, changed: ArrayLike, *, seed: int = 0, clusters: ArrayLike | None = None
) -> Interval:
    """Score under the worst change minus the plain score, the worst chosen on other rows.

    Args:
        plain: (n,) scores without a change.
        changed: (V changes, n) scores of the same rows under each.
        seed: of the halves and the bootstrap.
        clusters: (n,) group of each row; None where rows are independent.

    Returns:
        The mean over rows with its 95% interval. With fewer than four rows, or clusters, the choice
        is made on the very rows.

    Raises:
        ValueError: no change, no rows, rows that differ, or `clusters` of another length.
    """
    before, after = _checked(plain, changed)
    units = _units(before.size, clusters)
    order = np.random.default_rng([seed, 5]).permutation(len(units))
    few = len(units) < 4
    halves = [order] if few else [order[: len(units) // 2], order[len(units) // 2 :]]
    chosen = np.empty(before.size)
    for half in halves:
        own = np.concatenate([units[unit] for unit in half])
        others = own if few else np.setdiff1d(np.arange(before.size), own)
        worst = int((after[:, others] - before[others]).mean(axis=1).argmin())
        chosen[own] = after[worst, own]
    found = paired_difference(chosen, before, seed=seed, clusters=clusters)
    return Interval(found.difference, found.low, found.high)


def spread_by_chance(
    scores: ArrayLike, *, seed: int = 0, clusters: ArrayLike | None = None
) -> tuple[float, float]:
    """The range of the means over rows that would be seen if no change mattered.

    Args:
        scores: (V, n) of the same rows under each change, the plain one among them.
        seed: of the permutations within each row.
        clusters: (n,) group of each row, which is permuted whole; None where rows are independent.

    Returns:
        Mean range over permutations, and the share of them (at least 1 / 401) whose range is no
        smaller than that of the scores: the p-value that changes do not matter.

    Raises:
        ValueError: no change, no rows, or `clusters` of another length.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"scores must be (changes, rows) and not empty, found {matrix.shape}")
    if clusters is not None:
        # Scaled so that the mean over clusters is the mean over rows.
        sums = np.stack([cluster_sums(line, clusters)[0] for line in matrix])
        matrix = sums * (sums.shape[1] / matrix.shape[1])
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


def _units(rows: int, clusters: ArrayLike | None) -> list[Places]:
    """The places of the rows that stay together: of each cluster, or of each row."""
    if clusters is None:
        return list(np.arange(rows)[:, None])
    groups: NDArray[Any] = np.asarray(clusters)
    if groups.shape != (rows,):
        raise ValueError(f"clusters must name the group of {rows} rows, found {groups.shape}")
    return [np.flatnonzero(groups == each) for each in np.unique(groups)]
