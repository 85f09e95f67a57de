"""How a score grows with the number of training rows: an inverse power law with a band.

    score(n) = ceiling - drop * n ** -rate          0 <= ceiling <= 1, drop >= 0

the form that learning curves of many learners follow in their middle part (Hestness et al. 2017;
Viering & Loog 2022, section 4). For a given rate it is linear in the other two, so the fit is a
search over a grid of rates with a bounded weighted least squares at each (variable projection,
Golub & Pereyra 1973), which cannot diverge and does all drawings of a bootstrap at once.

The band is a bootstrap. Test rows, or clusters of them, are drawn once for all sizes, since the
same rows are answered at each; the effect of the seed (of the subset and of the fit) is added for
every size and every curve by itself, from a t-distribution. Four pseudo-rows as in `intervals`,
drawn for every size by itself, keep sizes that agree on few rows from passing for proven equal. A
variance found from three seeds is worth little, so those of all sizes are pooled, and each size
takes the mean of its own and the pooled one.

What lies beyond the largest size is an extrapolation, and says so by a band that opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tunewise.numerics.intervals import (
    Floats,
    as_score_matrix,
    bootstrap_means,
    cluster_sums,
    row_variance,
    rows_worth_one,
    seed_variance,
    widened,
)

RATES = np.geomspace(0.1, 2.0, 48)
DRAWS = 1000
FEWEST_SIZES = 3
# A point is never taken to be surer than this, so that one where all seeds agree does not
# dictate the curve.
_LEAST_ERROR = 0.002
_SEARCH_POINTS = 400
_LEVEL = 0.95  # of the bands, for which drawings of few clusters are widened


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with limits; `share` of the drawings had one at all."""

    value: float | None
    low: float | None
    high: float | None
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """A fitted curve and its drawings.

    Attributes:
        sizes: (K,) numbers of training rows, ascending.
        means: (K,) mean score at each.
        errors: (K,) standard error of each mean, over rows and seeds.
        parameters: (3,) ceiling, drop, rate.
        drawn: (R, 3) the same of every drawing.
    """

    sizes: Floats
    means: Floats
    errors: Floats
    parameters: Floats
    drawn: Floats

    def at(self, rows: ArrayLike) -> Floats:
        """(m,) scores that the curve gives for numbers of training rows (m,)."""
        found: Floats = _values(self.parameters[None], np.atleast_1d(np.asarray(rows, float)))[0]
        return found

    def drawn_at(self, rows: ArrayLike) -> Floats:
        """(R, m) the same of every drawing."""
        return _values(self.drawn, np.atleast_1d(np.asarray(rows, float)))

    def band(self, rows: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
        """(m,) lower and (m,) upper limits at numbers of training rows (m,)."""
        low, high = np.quantile(self.drawn_at(rows), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high


def fit_curve(
    sizes: Sequence[int],
    scores: Sequence[ArrayLike],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    number: int = 0,
    clusters: ArrayLike | None = None,
) -> LearningCurve:
    """Fit the curve of one method.

    Args:
        sizes: (K,) numbers of training rows, ascending, 3 or more.
        scores: per size (S seeds, n test rows), each 0 to 1; the same rows at every size. Numbers
            of seeds may differ.
        seed: of the bootstrap. Curves of the same seed and rows draw the same rows, so that their
            drawings are paired.
        draws: drawings.
        number: of the curve among those to be set beside each other; the effects of their seeds are
            drawn apart.
        clusters: (n,) group of each test row; None where rows are independent.

    Raises:
        ValueError: fewer than 3 sizes, sizes that do not ascend, other rows at some size, or
            `clusters` of another length.
    """
    given = np.asarray(sizes, dtype=np.float64)
    if len(given) < FEWEST_SIZES or len(given) != len(scores):
        raise ValueError(
            f"at least {FEWEST_SIZES} sizes with scores each, found {len(given)} and {len(scores)}"
        )
    if (np.diff(given) <= 0).any() or given[0] < 1:
        raise ValueError(f"sizes must ascend from 1 or more, found {list(sizes)}")
    matrices = [as_score_matrix(each) for each in scores]
    if len({matrix.shape[1] for matrix in matrices}) != 1:
        raise ValueError(f"other rows at some size: {[m.shape[1] for m in matrices]}")
    means = np.array([matrix.mean() for matrix in matrices])
    units = [cluster_sums(matrix.mean(axis=0), clusters) for matrix in matrices]
    drawn = np.stack([_row_draws(*each, seed, draws) for each in units], axis=1)
    variance = _seed_variances(matrices)
    seeds = np.array([len(matrix) for matrix in matrices], dtype=np.float64)
    freedom = max(2.0, float((seeds - 1).sum()))
    numbers = np.random.default_rng([seed, 2, number])
    drawn = np.stack(
        [
            _with_pseudo_rows(each, matrix, numbers, clusters)
            for each, matrix in zip(drawn.T, matrices, strict=True)
        ],
        axis=1,
    )
    drawn += numbers.standard_t(freedom, size=drawn.shape) * np.sqrt(variance / seeds)
    within = np.array([_row_error(matrix, clusters) for matrix in matrices])
    errors = np.sqrt(np.maximum(within + variance / seeds, _LEAST_ERROR**2))
    parameters = _fit(given, means[None], errors)[0]
    return LearningCurve(given, means, errors, parameters, _fit(given, drawn, errors))


def smallest_size(curve: LearningCurve, tolerance: float, level: float = 0.95) -> Estimate:
    """The least number of training rows whose score is within a tolerance of the largest size's.

    Args:
        curve: of one method.
        tolerance: in score, 0 to 1.
        level: of the limits.

    Returns:
        Between the smallest and the largest size measured: where even the smallest is within the
        tolerance the answer is that size, and reads "at most".
    """
    grid = _grid(curve)
    values = np.concatenate([_values(curve.parameters[None], grid), curve.drawn_at(grid)])
    # The curve never falls, so the last column is within the tolerance of itself.
    first = (values >= values[:, -1:] - tolerance).argmax(axis=1)
    found = grid[first]
    low, high = np.quantile(found[1:], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(found[0]), float(low), float(high))


def gain(curve: LearningCurve, more: int, level: float = 0.95) -> Estimate:
    """What further training rows would bring, beyond the largest size measured.

    Args:
        curve: of one method.
        more: further rows, at least 1.
        level: of the limits.

    Returns:
        In score; never below 0, since the curve does not fall.
    """
    ends = np.array([curve.sizes[-1], curve.sizes[-1] + more])
    drawn = curve.drawn_at(ends)
    low, high = np.quantile(drawn[:, 1] - drawn[:, 0], [(1 - level) / 2, (1 + level) / 2])
    value = curve.at(ends)
    return Estimate(float(value[1] - value[0]), float(low), float(high))


def crossing(a: LearningCurve, b: LearningCurve, level: float = 0.95) -> Estimate:
    """The number of training rows above which `a` is better than `b`, and below which it is not.

    Args:
        a: one method.
        b: another on the same test rows, fitted with the same seed and drawings.
        level: of the limits.

    Returns:
        Looked for between the smallest and the largest size both were measured at. The value is
        None where the fitted curves do not cross from below to above there; `share` is the part
        of the drawings that do, and the limits are theirs.

    Raises:
        ValueError: different numbers of drawings.
    """
    if len(a.drawn) != len(b.drawn):
        raise ValueError(f"not paired: {len(a.drawn)} and {len(b.drawn)} drawings")
    low_end = max(a.sizes[0], b.sizes[0])
    high_end = min(a.sizes[-1], b.sizes[-1])
    if low_end >= high_end:
        return Estimate(None, None, None, 0.0)
    grid = np.geomspace(low_end, high_end, _SEARCH_POINTS)
    ahead = np.concatenate(
        [(a.at(grid) - b.at(grid))[None], a.drawn_at(grid) - b.drawn_at(grid)], axis=0
    )
    crosses = (ahead[:, 0] < 0) & (ahead[:, -1] > 0)
    # The last place where a is not ahead: above it, a stays ahead.
    last = ahead.shape[1] - 1 - (ahead[:, ::-1] <= 0).argmax(axis=1)
    found = grid[np.minimum(last + 1, len(grid) - 1)]
    value = float(found[0]) if crosses[0] else None
    share = float(crosses[1:].mean())
    if not crosses[1:].any():
        return Estimate(value, None, None, share)
    low, high = np.quantile(found[1:][crosses[1:]], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), share)


def _row_draws(sums: Floats, sizes: Floats, seed: int, draws: int) -> Floats:
    """(draws,) bootstrap means over test rows; the same rows for all matrices of one length."""
    drawn = bootstrap_means(sums, sizes, seed=seed, resamples=draws)
    return widened(drawn, len(sizes), int(sizes.sum()), _LEVEL)


def _row_error(matrix: Floats, clusters: ArrayLike | None) -> float:
    """Variance of the mean over test rows."""
    per_row = matrix.mean(axis=0)
    if clusters is None:
        return float(per_row.var()) / len(per_row)
    return row_variance(*cluster_sums(per_row, clusters), float(per_row.mean())) / len(per_row)


def _with_pseudo_rows(
    drawn: Floats, matrix: Floats, numbers: np.random.Generator, clusters: ArrayLike | None
) -> Floats:
    """(draws,) means as if two rows at the lowest and two at the highest score had been there.

    They widen and do not move: a curve joins many sizes, and would average out all but a shift.
    They stand beside as many rows as those in clusters are worth.
    """
    worth = matrix.shape[1] / rows_worth_one(matrix.mean(axis=0), clusters)
    low, high, rows = float(matrix.min()), float(matrix.max()), round(worth) + 4
    if low == high:
        low, high = 0.0, 1.0
    often = numbers.multinomial(rows, [2 / rows, 2 / rows, 1 - 4 / rows], size=len(drawn))
    moved = 4 * ((low + high) / 2 - float(matrix.mean())) / rows
    found: Floats = (often @ np.array([low, high, 0.0]) + often[:, 2] * drawn) / rows - moved
    return found


def _seed_variances(matrices: Sequence[Floats]) -> Floats:
    """(K,) variance of a fit's score over seeds: half its size's own, half all sizes'."""
    own = np.array([seed_variance(matrix) for matrix in matrices])
    several = np.array([len(matrix) > 1 for matrix in matrices])
    if not several.any():
        return np.zeros(len(matrices))
    pooled = float(own[several].mean())
    return np.where(several, (own + pooled) / 2, pooled)


def _grid(curve: LearningCurve) -> Floats:
    """Numbers of rows from the smallest to the largest size, dense in the logarithm."""
    grid: Floats = np.unique(
        np.concatenate([np.geomspace(curve.sizes[0], curve.sizes[-1], _SEARCH_POINTS), curve.sizes])
    )
    return grid


def _values(parameters: Floats, rows: Floats) -> Floats:
    """(R, m) scores of curves (R, 3) at (m,) numbers of rows, kept within 0 to 1."""
    ceiling, drop, rate = (parameters[:, column, None] for column in range(3))
    clipped: Floats = np.clip(ceiling - drop * rows[None] ** -rate, 0.0, 1.0)
    return clipped


def _fit(sizes: Floats, points: Floats, errors: Floats) -> Floats:
    """(R, 3) parameters by weighted least squares of points (R, K)."""
    weights = errors**-2
    best = np.full(len(points), np.inf)
    found = np.zeros((len(points), 3))
    for rate in RATES:
        # Scaled to 1 at the smallest size, so that the products below stay well conditioned.
        shape = (sizes / sizes[0]) ** -rate
        ceiling, drop = _bounded(points, shape, weights)
        left = points - (ceiling[:, None] - drop[:, None] * shape)
        loss = (left**2 * weights).sum(axis=1)
        better = loss < best - 1e-15
        best = np.where(better, loss, best)
        fitted = np.stack([ceiling, drop * sizes[0] ** rate, np.full(len(points), rate)], axis=1)
        found[better] = fitted[better]
    return found


def _bounded(points: Floats, shape: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(R,) ceiling in [0, 1] and (R,) drop >= 0 that fit points (R, K) best for a given shape (K,).

    The loss is convex, so where the free minimum lies outside, the bounded one lies on an edge.
    """
    total = weights.sum()
    mean_shape, mean_point = (shape @ weights) / total, (points @ weights) / total
    centred = shape - mean_shape
    spread = float((weights * centred**2).sum())
    drop = -((points - mean_point[:, None]) @ (weights * centred)) / spread
    ceiling = mean_point + drop * mean_shape
    flat = drop < 0
    drop, ceiling = np.where(flat, 0.0, drop), np.where(flat, mean_point, ceiling)
    over = ceiling > 1
    capped = np.maximum(0.0, ((1.0 - points) @ (weights * shape)) / (weights @ shape**2))
    return np.clip(np.where(over, 1.0, ceiling), 0.0, 1.0), np.where(over, capped, drop)
