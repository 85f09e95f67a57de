"""Racing of candidates on shared rows: who stays, and who is taken in the end.

Successive halving (Jamieson & Talwalkar 2016) with a paired test beside it, as in F-Race (Birattari
et al. 2002). The last choice is the cheapest whose loss is within the noise of the best, as in the
one-standard-error rule (Breiman et al. 1984, section 3.4.3), of so many errors as are asked for.
Rows of one cluster (aspects of one review) are won and lost together, so a cluster is one unit of
every error.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tunewise.numerics.intervals import Floats, cluster_sums, row_variance

# Paired differences further than this from zero, in standard errors, are no noise.
_LOST_ERRORS = 2.0


def paired_error(difference: Floats, clusters: ArrayLike | None = None) -> float:
    """Standard error of a mean of paired differences.

    Args:
        difference: (n,) per row.
        clusters: (n,) group of each row; None where rows are independent.

    Returns:
        In the differences' unit; infinite for a single row, or a single cluster.

    Raises:
        ValueError: `clusters` of another length.
    """
    sums, sizes = cluster_sums(difference, clusters)
    count = len(sums)
    if count < 2:
        return math.inf
    if clusters is None:
        return float(difference.std(ddof=1)) / math.sqrt(count)
    return math.sqrt(row_variance(sums, sizes, float(difference.mean())) / len(difference))


def survivors(losses: Floats, keep: int, clusters: ArrayLike | None = None) -> list[int]:
    """Which candidates go on.

    Args:
        losses: (C, n) loss of every candidate on the same n rows.
        keep: candidates at most; of these, those go that have clearly lost against the best.
        clusters: (n,) group of each row; None where rows are independent.

    Returns:
        Indices, the best first, at least one.
    """
    means = losses.mean(axis=1)
    order = [int(index) for index in np.lexsort((np.arange(len(means)), means))][:keep]
    best = order[0]
    kept = [best]
    for index in order[1:]:
        behind = losses[index] - losses[best]
        if not behind.mean() > _LOST_ERRORS * paired_error(behind, clusters):
            kept.append(index)
    return kept


def cheapest_within_noise(
    losses: Floats, prices: Floats, *, errors: float = 1.0, clusters: ArrayLike | None = None
) -> int:
    """The cheapest candidate whose loss is within the noise of the best one's.

    Args:
        losses: (C, n) loss of every candidate on the same n rows.
        prices: (C,) what an answer costs; of equal prices the lower loss is taken.
        errors: standard errors of the paired difference that are held for noise.
        clusters: (n,) group of each row; None where rows are independent.
    """
    means = losses.mean(axis=1)
    # What has no finite loss has blown up, whatever its answers hit.
    means = np.where(np.isfinite(means), means, np.inf)
    best = int(means.argmin())
    within = []
    for index in map(int, np.flatnonzero(np.isfinite(means))):
        noise = errors * paired_error(losses[index] - losses[best], clusters)
        if means[index] - means[best] <= noise:
            within.append(index)
    return min({best, *within}, key=lambda index: (prices[index], means[index], index))
