"""Differences between two methods on the same rows: interval, p-value, correction for many.

Per row, each method's scores are averaged over its seeds and subtracted; everything is about these
paired differences.

The interval is a paired two-level bootstrap with percentile limits: rows are drawn for both methods
together, the effect of the seed for each on its own (see `intervals`). Two pseudo-rows join them,
one at plus and one at minus the largest difference seen (plus and minus 1 where there is none):
Bonett & Price (2012) add one row to each discordant cell of a paired 2 x 2 table, and this is their
idea for any score. Without them two methods that agree on 30 rows would get an interval of zero
width.

The p-value, that there is no difference:

- one seed each and 0/1 scores: exact McNemar, a binomial test on the rows where exactly one method
  is right (McNemar 1947);
- else: a sign-flip permutation test over rows (Fisher 1935; as (count + 1) / (resamples + 1)). It
  takes the fits as given. Where a method has several seeds, or one and it is told how much seeds
  matter, the p-value found by inverting the bootstrap interval, which knows that seeds vary, is
  computed too, and the larger one holds.

Rows of one cluster (sentences of a document) say less than as many independent ones. Where clusters
are given they are drawn whole, and signs are flipped cluster by cluster, right-or-wrong scores
included (Cameron, Gelbach & Miller 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from tunewise.numerics.intervals import (
    RESAMPLES,
    Floats,
    as_score_matrix,
    bootstrap_means,
    cluster_sums,
    is_binary,
    row_variance,
    seed_effects,
    seed_variance,
    widened,
)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of `a` minus mean of `b`, its interval, p-value, and where its noise comes from.

    Attributes:
        difference, low, high, p_value: see above.
        row_deviation: standard deviation of the per-row differences; of clustered rows that of as
            many independent ones that would leave the mean as unsure.
        seed_deviation: that of the mean difference by the seeds of the fits, which more rows do not
            lessen.
    """

    difference: float
    low: float
    high: float
    p_value: float
    row_deviation: float
    seed_deviation: float


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    unseen: tuple[float, float] = (0.0, 0.0),
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    clusters: ArrayLike | None = None,
) -> PairedDifference:
    """Mean of `a` minus mean of `b` on the same rows.

    Args:
        a: (S seeds, n rows) or (n,) scores of one method.
        b: (S' seeds, n rows) or (n,) scores of the other, rows in the same order.
        unseen: standard deviation of the effect of the seed on either mean, known from elsewhere;
            it counts for a method with one seed, whose own rows cannot tell it.
        level: of the interval.
        seed: of bootstrap and permutation.
        resamples: drawings of each.
        clusters: (n,) group of each row; None where rows are independent.

    Raises:
        ValueError: no rows, a score that is not finite, or different numbers of rows.
    """
    first, second = as_score_matrix(a), as_score_matrix(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"not the same rows: {first.shape[1]} and {second.shape[1]}")
    per_row = first.mean(axis=0) - second.mean(axis=0)
    difference = float(per_row.mean())
    sums, sizes = cluster_sums(per_row, clusters)
    draws = bootstrap_means(*_padded(per_row, sums, sizes), seed=seed, resamples=resamples)
    draws = widened(draws, len(sizes), len(per_row), level)
    numbers = np.random.default_rng([seed, 1])
    draws += seed_effects(first, numbers, resamples) - seed_effects(second, numbers, resamples)
    known = [
        deviation if len(matrix) == 1 else 0.0
        for matrix, deviation in zip((first, second), unseen, strict=True)
    ]
    for deviation in known:
        draws += deviation * numbers.standard_normal(resamples)
    low, high = np.clip(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]), -1.0, 1.0)
    single = len(first) == len(second) == 1 and clusters is None
    if single and is_binary(first) and is_binary(second):
        p_value = mcnemar(int((per_row > 0).sum()), int((per_row < 0).sum()))
    else:
        p_value = sign_flip(sums, seed=seed, resamples=resamples)
    if len(first) > 1 or len(second) > 1:
        p_value = max(p_value, _inverted(draws))
    elif any(known):
        # Rows and seeds are both near normal here, and a small p-value needs no resamples.
        p_value = max(p_value, float(2 * stats.norm.sf(abs(difference) / draws.std())))
    return PairedDifference(
        difference,
        min(float(low), difference),
        max(float(high), difference),
        p_value,
        math.sqrt(row_variance(sums, sizes, difference)),
        math.sqrt(sum(each**2 for each in known) + sum(map(_of_seeds, (first, second)))),
    )


def _of_seeds(matrix: Floats) -> float:
    """Variance of the mean over S seeds by the seeds."""
    return seed_variance(matrix) / len(matrix)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test.

    Args:
        only_a: rows that only the first method answers right.
        only_b: rows that only the second answers right.

    Returns:
        The p-value; 1.0 where the methods never differ.
    """
    total = only_a + only_b
    return 1.0 if total == 0 else float(stats.binomtest(only_a, total, 0.5).pvalue)


def sign_flip(differences: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided sign-flip permutation test that the differences are symmetric around 0.

    Args:
        differences: (n,) per row; rows that do not differ take no part.
        seed: of the flips.
        resamples: flips drawn.

    Returns:
        The p-value, at least 1 / (resamples + 1); 1.0 where no row differs.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    if values.size == 0:
        return 1.0
    # Rounding must not decide between a flip that equals what was seen and one that passes it.
    seen = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    numbers = np.random.default_rng([seed, 2])
    block = max(1, 2_000_000 // values.size)
    extreme = 0
    for start in range(0, resamples, block):
        drawn = min(block, resamples - start)
        positive = numbers.integers(0, 2, size=(drawn, values.size), dtype=np.int8)
        extreme += int((np.abs(2 * (positive @ values) - values.sum()) >= seen).sum())
    return (extreme + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the same order (Holm 1979).

    The i-th smallest of m is multiplied by m - i (i from 0), never falls below a smaller one's,
    and stops at 1.
    """
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def rows_to_resolve(
    difference: float,
    row_deviation: float,
    *,
    besides: float = 0.0,
    level: float = 0.95,
    power: float = 0.8,
) -> int | None:
    """Test rows at which a difference of this size is found by a two-sided test.

    Args:
        difference: mean difference per row.
        row_deviation: standard deviation of the per-row differences.
        besides: variance of the mean difference that more rows do not lessen, such as the seeds'.
        level: one minus the test's level.
        power: probability of finding it.

    Returns:
        Rows, by the normal approximation; None where the difference or its spread is 0, or where
        no number of rows would do.
    """
    reach = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power))
    left = difference**2 - reach**2 * besides
    if difference == 0 or row_deviation == 0 or left <= 0:
        return None
    return int(np.ceil((reach * row_deviation) ** 2 / left))


def _padded(per_row: Floats, sums: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Units (G + 2,) and sizes: one at plus and one at minus the largest difference (see above)."""
    reach, weight = float(np.abs(per_row).max()), 1.0
    if reach == 0:
        # Nothing differs, so rows of a cluster may all be the same: count clusters, not rows.
        reach, weight = 1.0, float(sizes.mean())
    pseudo = np.array([reach, -reach]) * weight
    return np.append(sums, pseudo), np.append(sizes, [weight, weight])


def _inverted(draws: Floats) -> float:
    """The p-value at which the bootstrap interval begins to hold 0."""
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (side + 1) / (len(draws) + 1))
