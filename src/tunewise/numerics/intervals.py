"""Confidence intervals for a mean score over test rows and training seeds.

One seed and 0/1 scores: Wilson's score interval (Wilson 1927), which stays wider than zero at 0%
and 100%. Rows that stand in clusters (sentences of a document) count as the number of independent
rows that would say as much (Kish 1965; with Student's t for few clusters, Korn & Graubard 1998;
Franco et al. 2019 find it among the best). Everything else: percentile limits of a two-level
bootstrap, changed in two ways where the plain one is known to be wrong:

- Rows. Four pseudo-rows join the sample, two at the lowest and two at the highest score seen
  (Agresti & Coull 1998, "add two successes and two failures"; at 0 and 1 where all scores are
  equal), so that few rows, or scores that hardly vary, get an honest width. They move the limits,
  never the reported mean, and vanish as rows grow. Clusters are drawn whole.
- Seeds. Rows and seeds are crossed (the same rows under every seed), and drawing both with
  replacement counts the noise of single answers twice (Owen 2007), while two or three seeds drawn
  again and again can show no value but theirs. So rows are drawn of the means over seeds, and the
  effect of the seed is added from its own distribution: a t-distribution, scaled by the variance
  between seeds that the noise of single answers does not explain (two-way analysis of variance).
  It has S - 1 degrees of freedom, but 2 where S = 2, since one degree of freedom would let the
  tail, not the data, set the limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
RESAMPLES = 4000
_BLOCK_NUMBERS = 2_000_000  # counts held at once: 16 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the limits of its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the limits."""
        return (self.high - self.low) / 2


def as_score_matrix(scores: ArrayLike) -> Floats:
    """Scores as a float64 array (S seeds, n rows); equal seeds are joined into one.

    Args:
        scores: (S, n), or (n,) for one seed.

    Raises:
        ValueError: no rows, no seeds, more than two dimensions, or a score that is not finite.
    """
    matrix = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"scores must be (seeds, rows) and not empty, found shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("scores must be finite")
    # A fit that does not depend on its seed gives the same rows each time: that is one seed.
    return matrix[:1] if (matrix == matrix[0]).all() else matrix


def is_binary(scores: Floats) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def mean_interval(
    scores: ArrayLike,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    clusters: ArrayLike | None = None,
) -> Interval:
    """The mean score with a confidence interval for new rows (and new seeds, where S > 1).

    Args:
        scores: (S seeds, n rows) or (n,), each between 0 and 1.
        level: of the interval.
        seed: of the bootstrap.
        resamples: bootstrap drawings.
        clusters: (n,) group of each row; None where rows are independent.

    Raises:
        ValueError: see `as_score_matrix`; or `clusters` of another length.
    """
    matrix = as_score_matrix(scores)
    value = float(matrix.mean())
    if len(matrix) == 1 and is_binary(matrix):
        if clusters is not None:
            low, high = share_limits(value, _worth(matrix[0], clusters, level), level=level)
            return Interval(value, min(low, value), max(high, value))
        right, total = int(matrix.sum()), matrix.shape[1]
        from scipy import stats  # a second of loading, which no flag's check should wait for

        wilson = stats.binomtest(right, total).proportion_ci(level, method="wilson")
        return Interval(value, float(wilson.low), float(wilson.high))
    sums, sizes = _with_pseudo_rows(matrix, *cluster_sums(matrix.mean(axis=0), clusters))
    draws = bootstrap_means(sums, sizes, seed=seed, resamples=resamples)
    draws = widened(draws, len(sizes) - 4, matrix.shape[1], level)
    draws += seed_effects(matrix, np.random.default_rng([seed, 1]), resamples)
    low, high = np.clip(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]), 0.0, 1.0)
    return Interval(value, min(float(low), value), max(float(high), value))


def share_limits(share: float, rows: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's limits of a share, which may also be a mean of shares over seeds.

    Args:
        share: 0 to 1.
        rows: independent ones, above 0; of rows in clusters the number they are worth.
        level: of the interval.
    """
    from scipy import stats

    reach = float(stats.norm.ppf((1 + level) / 2))
    middle = share + reach**2 / (2 * rows)
    width = reach * (share * (1 - share) / rows + reach**2 / (4 * rows**2)) ** 0.5
    whole = 1 + reach**2 / rows
    return max(0.0, (middle - width) / whole), min(1.0, (middle + width) / whole)


def bootstrap_means(sums: Floats, sizes: Floats, *, seed: int, resamples: int) -> Floats:
    """Bootstrap of a mean over rows, drawn one by one or in clusters.

    Args:
        sums: (G units,) sum of the scores in each unit (a row, or a cluster of rows).
        sizes: (G,) rows in each unit.
        seed: of the drawing; the same (seed, G, resamples) draws the same units.
        resamples: how many means.

    Returns:
        (resamples,) means.
    """
    both = np.stack([sums, sizes], axis=1)
    drawn = np.concatenate([counts @ both for counts in _unit_counts(len(sums), resamples, seed)])
    means: Floats = drawn[:, 0] / drawn[:, 1]
    return means


def seed_variance(matrix: Floats) -> float:
    """Variance between seeds beyond the noise of single answers, at least 0.

    Args:
        matrix: (S seeds, n rows).

    Returns:
        The seed's component in a two-way analysis of variance without replication; 0 where there
        is one seed or one row.
    """
    seeds, rows = matrix.shape
    if seeds == 1 or rows == 1:
        return 0.0
    per_seed = matrix.mean(axis=1)
    left = matrix - per_seed[:, None] - matrix.mean(axis=0) + matrix.mean()
    noise = float((left**2).sum()) / ((seeds - 1) * (rows - 1))
    return float(max(0.0, per_seed.var(ddof=1) - noise / rows))


def seed_effects(matrix: Floats, numbers: np.random.Generator, resamples: int) -> Floats:
    """(resamples,) draws of how far the mean over S seeds lies from that over all seeds."""
    seeds = len(matrix)
    variance = seed_variance(matrix)
    if variance == 0.0:
        return np.zeros(resamples)
    drawn: Floats = numbers.standard_t(max(seeds - 1, 2), size=resamples)
    effects: Floats = drawn * (variance / seeds) ** 0.5
    return effects


def _unit_counts(units: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks (b, units): how often each unit was drawn in each of b resamples; b sums to all."""
    block = max(1, _BLOCK_NUMBERS // units)
    for index, start in enumerate(range(0, resamples, block)):
        yield _count_block(units, min(block, resamples - start), seed, index)


@lru_cache(maxsize=4)  # the methods of one table share their rows, hence their drawings
def _count_block(units: int, draws: int, seed: int, index: int) -> Floats:
    """One block of `_unit_counts`, read-only."""
    drawn = np.random.default_rng([seed, 0, index]).integers(0, units, size=(draws, units))
    drawn += np.arange(draws)[:, None] * units
    counts = np.bincount(drawn.ravel(), minlength=draws * units).reshape(draws, units)
    block = counts.astype(np.float64)
    block.setflags(write=False)
    return block


def cluster_sums(scores: Floats, clusters: ArrayLike | None) -> tuple[Floats, Floats]:
    """Sums and sizes of scores by cluster.

    Args:
        scores: (n,).
        clusters: (n,) group of each row; None where each row is its own.

    Returns:
        (G,) and (G,).

    Raises:
        ValueError: `clusters` of another length.
    """
    rows = len(scores)
    if clusters is None:
        return scores, np.ones(rows)
    groups: NDArray[Any] = np.asarray(clusters)
    if groups.shape != (rows,):
        raise ValueError(f"clusters must name the group of {rows} rows, found {groups.shape}")
    members = np.unique(groups, return_inverse=True)[1]
    sums: Floats = np.bincount(members, weights=scores).astype(np.float64)
    return sums, np.bincount(members).astype(np.float64)


def row_variance(sums: Floats, sizes: Floats, mean: float) -> float:
    """Rows times the variance of their mean, from what each unit adds to it.

    Args:
        sums: (G units,) sum of the scores in each unit, see `cluster_sums`.
        sizes: (G,) rows in each unit.
        mean: of the rows.

    Returns:
        The variance of a score, of as many independent rows as would leave the mean as unsure (of
        rows that are independent, their own); 0 where there is one unit.
    """
    count = len(sums)
    if count < 2:
        return 0.0
    left = sums - sizes * mean
    return count / (count - 1) * float((left**2).sum()) / float(sizes.sum())


def rows_worth_one(scores: Floats, clusters: ArrayLike | None) -> float:
    """How many rows of these clusters say as much as one independent row (Kish's design effect).

    Args:
        scores: (n,).
        clusters: (n,) group of each row; None where each row is its own.

    Returns:
        1 for independent rows, the mean size of a cluster where its rows are all alike, and no more
        or less than these. Where no score varies, rows of a cluster may all be alike.
    """
    if clusters is None:
        return 1.0
    sums, sizes = cluster_sums(scores, clusters)
    most, alone = float(sizes.mean()), float(scores.var(ddof=1)) if len(scores) > 1 else 0.0
    if alone == 0.0:
        return most
    found = row_variance(sums, sizes, float(scores.mean())) / alone
    return min(max(found, 1.0), most)


def _worth(scores: Floats, clusters: ArrayLike, level: float) -> float:
    units = len(np.unique(np.asarray(clusters)))
    return independent_rows(len(scores), units, rows_worth_one(scores, clusters), level=level)


def independent_rows(rows: int, units: int, worth_one: float, *, level: float) -> float:
    """How many independent rows these are worth; fewer where few clusters tell how alike they are.

    Where there are few clusters the limits should be Student's; narrowing n by the square of what
    these reach farther gives the same width (Korn & Graubard 1998).

    Args:
        rows: at least one.
        units: clusters that they stand in; as many as rows where these are independent.
        worth_one: see `rows_worth_one`.
        level: of the interval that is to be made of them, see `share_limits`.
    """
    worth = rows / worth_one
    if units < 2 or units == rows:
        return worth
    from scipy import stats

    tail = (1 + level) / 2
    return worth * float(stats.t.ppf(tail, rows - 1) / stats.t.ppf(tail, units - 1)) ** 2


def widened(draws: Floats, units: int, rows: int, level: float) -> Floats:
    """Bootstrap means, farther from their middle where few clusters were drawn.

    Drawing G clusters from G loses one degree of freedom, and percentile limits are those of a
    normal distribution where Student's are called for (Cameron, Gelbach & Miller 2008). Where every
    row is its own cluster nothing is changed.

    Args:
        draws: (resamples,) means.
        units: clusters, pseudo-rows not counted.
        rows: that they hold.
        level: of the interval.
    """
    if units < 2 or units == rows:
        return draws
    from scipy import stats

    tail = (1 + level) / 2
    reach = float(stats.t.ppf(tail, units - 1) / stats.norm.ppf(tail))
    middle = float(draws.mean())
    wider: Floats = middle + (draws - middle) * reach * (units / (units - 1)) ** 0.5
    return wider


def _with_pseudo_rows(matrix: Floats, sums: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Append two units at the lowest and two at the highest score (see the module's text)."""
    low, high, weight = float(matrix.min()), float(matrix.max()), 1.0
    if low == high:
        # Nothing varies, so rows of a cluster may all be the same: count clusters, not rows.
        low, high, weight = 0.0, 1.0, float(sizes.mean())
    pseudo = np.array([low, low, high, high]) * weight
    return np.append(sums, pseudo), np.append(sizes, np.full(4, weight))
