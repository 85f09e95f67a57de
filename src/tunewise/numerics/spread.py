"""How far a few values lie apart: Student's interval of their mean, range and quartiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from tunewise.numerics.intervals import cluster_sums, row_variance


def student_interval(
    values: ArrayLike, *, level: float = 0.95, clusters: ArrayLike | None = None
) -> tuple[float, float | None, float | None]:
    """The mean of values of any unit, and the limits of its confidence interval.

    Args:
        values: (n,) for example one per seed.
        level: of the interval.
        clusters: (n,) group of each value; None where values are independent. Degrees of freedom
            are then one less than there are clusters.

    Returns:
        Mean, low, high; the limits are None where there is one value or one cluster, which shows no
        spread.

    Raises:
        ValueError: there is none, one is not finite, or `clusters` is of another length.
    """
    numbers = _finite(values)
    mean = float(numbers.mean())
    sums, sizes = cluster_sums(numbers, clusters)
    if len(sums) == 1:
        return mean, None, None
    if clusters is None:
        error = float(stats.sem(numbers))
    else:
        error = (row_variance(sums, sizes, mean) / len(numbers)) ** 0.5
    if error == 0.0:
        return mean, mean, mean
    low, high = stats.t.interval(level, len(sums) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def deviation_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float, float]:
    """The standard deviation of values that scatter normally, and the limits of its interval.

    Args:
        values: (n,) at least two.
        level: of the interval.

    Returns:
        Deviation (n - 1 in the denominator), low, high, by the chi-square distribution.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    numbers = _finite(values)
    if len(numbers) < 2:
        raise ValueError("at least two values are needed")
    free = len(numbers) - 1
    squares = free * float(numbers.var(ddof=1))
    shares = ((1 + level) / 2, (1 - level) / 2)
    low, high = ((squares / float(stats.chi2.ppf(share, free))) ** 0.5 for share in shares)
    return (squares / free) ** 0.5, low, high


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some values: lowest, highest, their difference, median and interquartile range."""

    lowest: float
    highest: float
    range: float
    median: float
    interquartile: float


def spread_of(values: ArrayLike) -> Spread:
    """How far values lie apart.

    Args:
        values: (n,).

    Raises:
        ValueError: there is none, or one is not finite.
    """
    numbers = _finite(values)
    low, high = float(numbers.min()), float(numbers.max())
    return Spread(low, high, high - low, float(np.median(numbers)), float(stats.iqr(numbers)))


def _finite(values: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"values must be (n,) and not empty, found shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError("values must be finite")
    return numbers
