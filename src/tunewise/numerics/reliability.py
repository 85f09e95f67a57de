"""Do stated probabilities meet how often they are right? Calibration error without its bias.

The usual calibration error (Naeini et al. 2015) is never 0 on few rows, since a mean of distances
counts noise as error. Here the squared distance of every bin loses the part that noise alone
explains (Kumar et al. 2019, section 4), so that a calibrated model is near 0 whatever n is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tunewise.numerics.intervals import Floats, Interval, cluster_sums

BINS = 10
_DRAWS = 1000
# A bin of fewer rows says more of noise than of calibration.
_FEWEST_IN_BIN = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of like probability: mean of what was stated, share that was right, how many."""

    stated: float
    right: float
    n: int


def reliability_bins(stated: ArrayLike, right: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Bins of equally many rows, by probability.

    Args:
        stated: (n,) probabilities.
        right: (n,) 0 or 1, or a score between.
        bins: at most so many; fewer where rows are few.
    """
    probabilities, scores = _checked(stated, right)
    members = _members(probabilities, bins)
    return [
        Bin(float(probabilities[own].mean()), float(scores[own].mean()), len(own))
        for own in members
    ]


def calibration_error(
    stated: ArrayLike,
    right: ArrayLike,
    *,
    bins: int = BINS,
    level: float = 0.95,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Interval:
    """Root of the mean squared distance between bins' probabilities and shares, noise taken out.

    The limits are those of the square, from a bootstrap over rows (or whole clusters of them),
    centred anew since drawing rows from rows adds noise of its own.

    Args:
        stated: (n,) probabilities of the answers given.
        right: (n,) whether they were right, 0 or 1 (or a score between).
        bins: of equally many rows; fewer where rows are few.
        level: of the interval.
        seed: of the bootstrap.
        clusters: (n,) group of each row; None where rows are independent.

    Raises:
        ValueError: fewer than two rows, lengths that differ, or values beyond 0 to 1.
    """
    probabilities, scores = _checked(stated, right)
    if len(scores) < 2:
        raise ValueError("at least two rows are needed")
    members = _members(probabilities, bins)
    numbers = np.random.default_rng([seed, 3])
    if clusters is None:
        parts = [(probabilities - scores)[own] for own in members]
        plain, noise = (float(each[0]) for each in _squares([part[None] for part in parts]))
        drawn = [part[numbers.integers(0, len(part), (_DRAWS, len(part)))] for part in parts]
        squares, noises = _squares(drawn)
    else:
        units = [_in_bin(probabilities - scores, own, clusters) for own in members]
        count = len(units[0][0])
        often = numbers.multinomial(count, np.full(count, 1 / count), size=_DRAWS)
        plain, noise = (float(each[0]) for each in _whole_squares(units, np.ones((1, count))))
        squares, noises = _whole_squares(units, often.astype(np.float64))
    value = plain - noise
    # A drawn world's own truth is the plain square of the rows it is drawn from.
    draws = squares - noises - plain
    low, high = value - np.quantile(draws, [(1 + level) / 2, (1 - level) / 2])
    root = [float(np.sqrt(max(0.0, each))) for each in (value, low, high)]
    return Interval(root[0], min(root[1], root[0]), max(root[2], root[0]))


def _squares(parts: list[Floats]) -> tuple[Floats, Floats]:
    """Mean squared distance over the bins, weighted by rows, and what noise adds to it.

    Args:
        parts: (R, n of the bin) distances of each bin, in R worlds.

    Returns:
        (R,) and (R,).
    """
    total = sum(part.shape[1] for part in parts)
    plain = np.zeros(len(parts[0]))
    noise = np.zeros(len(parts[0]))
    for part in parts:
        rows = part.shape[1]
        plain += rows / total * part.mean(axis=1) ** 2
        if rows > 1:
            noise += part.var(axis=1, ddof=1) / total
    return plain, noise


def _in_bin(
    distances: Floats, own: np.ndarray[tuple[int], np.dtype[np.int64]], clusters: ArrayLike
) -> tuple[Floats, Floats]:
    """(G,) sums of the distances and (G,) numbers of the rows of each cluster that are in a bin."""
    inside = np.zeros(len(distances))
    inside[own] = 1.0
    return cluster_sums(distances * inside, clusters)[0], cluster_sums(inside, clusters)[0]


def _whole_squares(units: list[tuple[Floats, Floats]], often: Floats) -> tuple[Floats, Floats]:
    """As `_squares`, of worlds in which clusters are drawn whole.

    Args:
        units: of each bin (G,) sums and (G,) numbers of rows by cluster, see `_in_bin`.
        often: (R, G) how often each cluster was drawn.

    Returns:
        (R,) and (R,).
    """
    total = often @ sum(sizes for _, sizes in units)
    plain, noise = np.zeros(len(often)), np.zeros(len(often))
    for sums, sizes in units:
        rows, held = often @ sizes, often @ (sizes > 0)
        # A bin of which no cluster was drawn counts no rows.
        mean = (often @ sums) / np.maximum(rows, 1)
        plain += rows / total * mean**2
        left = often @ sums**2 - 2 * mean * (often @ (sums * sizes)) + mean**2 * (often @ sizes**2)
        spread = held / np.maximum(held - 1, 1) * np.maximum(left, 0.0)
        noise += spread / np.maximum(rows, 1) / total
    return plain, noise


def _members(probabilities: Floats, bins: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    count = max(1, min(bins, len(probabilities) // _FEWEST_IN_BIN))
    order = np.argsort(probabilities, kind="stable").astype(np.int64)
    return [own for own in np.array_split(order, count) if len(own)]


def _checked(stated: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    probabilities = np.asarray(stated, dtype=np.float64)
    scores = np.asarray(right, dtype=np.float64)
    if probabilities.ndim != 1 or probabilities.shape != scores.shape or not scores.size:
        raise ValueError(f"(n,) and (n,) are needed, found {probabilities.shape}, {scores.shape}")
    both = np.concatenate([probabilities, scores])
    # A probability is a sum of rounded numbers.
    if not np.isfinite(both).all() or both.min() < -1e-6 or both.max() > 1 + 1e-6:
        raise ValueError("probabilities and scores must lie between 0 and 1")
    return np.clip(probabilities, 0, 1), np.clip(scores, 0, 1)
