"""From answers to figures: means of scores, and differences of scores, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from tunewise.measure.evidence import Measurement, Scalar
from tunewise.measure.questions._contract import Subject
from tunewise.measure.records import RowResult
from tunewise.numerics.intervals import Floats, Interval, mean_interval
from tunewise.numerics.pairs import paired_difference
from tunewise.task.types import Row

SCORE = "score"


def by_seed(fits: Sequence[Subject]) -> list[Subject]:
    """The fits of one entry in the order of their seeds."""
    return sorted(fits, key=lambda fit: fit.record.seed)


def seeds_of(fits: Sequence[Subject]) -> tuple[int, ...]:
    """Their seeds, in order."""
    return tuple(fit.record.seed for fit in by_seed(fits))


def scores_of(results: Sequence[Sequence[RowResult]]) -> Floats:
    """(S, n) scores of the same rows under every seed."""
    return np.array([[one.score for one in line] for line in results], dtype=np.float64)


def failures(results: Sequence[Sequence[RowResult]]) -> int:
    """Answers that failed, over all seeds."""
    return sum(one.answer is None for line in results for one in line)


def mean_score(
    name: str,
    about: str,
    results: Sequence[Sequence[RowResult]],
    how: str,
    *,
    seeds: tuple[int, ...] = (),
    part: Mapping[str, Scalar] | None = None,
    clusters: Sequence[str] | None = None,
) -> Measurement:
    """The mean score of rows over seeds; see `numerics.intervals` for its interval.

    Args:
        name, about, how, seeds, part: see `Measurement`.
        results: (S, n) of the same rows under every seed, at least one row.
        clusters: (n,) of the rows; None where they are independent.
    """
    found = mean_interval(scores_of(results), clusters=clusters)
    return Measurement(
        name,
        about,
        SCORE,
        found.value,
        len(results[0]),
        how,
        found.low,
        found.high,
        higher_is_better=True,
        n_failed=failures(results),
        seeds=seeds,
        part={} if part is None else part,
    )


def paired_change(a: ArrayLike, b: ArrayLike, clusters: Sequence[str] | None = None) -> Interval:
    """Mean of `a` minus mean of `b` on the same rows, each between 0 and 1.

    Args:
        a, b: (S, n) or (n,).
        clusters: (n,) of the rows (`clusters_of`); None where they are independent.
    """
    found = paired_difference(a, b, clusters=clusters)
    return Interval(found.difference, found.low, found.high)


def interval_text(found: Measurement | Interval) -> str:
    """A score in points with its limits: "62.0 (50.1 to 72.9)"."""
    value = 0.0 if found.value is None else found.value
    if found.low is None or found.high is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def sampled(rows: Sequence[Row], most: int, *, seed: int = 0) -> list[Row]:
    """At most so many rows, drawn without replacement, in the order in which they stood."""
    if len(rows) <= most:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size=most, replace=False)
    return [rows[index] for index in sorted(chosen.tolist())]
