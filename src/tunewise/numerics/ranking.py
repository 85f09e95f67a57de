"""How well a number tells two groups apart: area under the ROC curve, with an interval.

The area is the chance that a number of the one group is larger than one of the other, ties counted
half (Mann & Whitney 1947). The interval inverts a score-like test, so it stays honest at areas near
0 and 1 and in small groups (Newcombe 2006, method 5; variance after Hanley & McNeil 1982). Numbers
that stand in clusters multiply that variance by the design effect of what each adds to the area
(its placement; Obuchowski 1997), which is taken to be 1 at least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm, rankdata, t

from tunewise.numerics.intervals import Floats, Interval, rows_worth_one

_EDGE = 1e-9


def area_under_curve(
    ones: ArrayLike,
    others: ArrayLike,
    *,
    level: float = 0.95,
    clusters: tuple[ArrayLike, ArrayLike] | None = None,
) -> Interval:
    """Chance that a number of `ones` is larger than one of `others`.

    Args:
        ones: (m,) finite numbers.
        others: (n,) finite numbers.
        level: of the interval.
        clusters: (m,) cluster of each of the ones and (n,) of each of the others; None where all
            are independent.

    Raises:
        ValueError: a group is empty, a number is not finite, or clusters are of another length.
    """
    a, b = np.asarray(ones, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if a.size == 0 or b.size == 0:
        raise ValueError(f"both groups must hold numbers, found {a.size} and {b.size}")
    joined = np.concatenate([a.ravel(), b.ravel()])
    if not np.isfinite(joined).all():
        raise ValueError("numbers must be finite")
    m, n = a.size, b.size
    ranks = rankdata(joined)[:m].sum()
    area = float((ranks - m * (m + 1) / 2) / (m * n))
    reach = float(norm.ppf((1 + level) / 2))
    if clusters is not None:
        named = np.concatenate([np.asarray(each) for each in clusters])
        # Few clusters know little of their own variance: Student's limits.
        reach = float(t.ppf((1 + level) / 2, max(len(np.unique(named)) - 1, 1)))
        reach *= rows_worth_one(_placements(a.ravel(), b.ravel(), area), named) ** 0.5

    def beyond(truth: float) -> float:
        """How far the area lies from a truth, beyond the noise there."""
        return (area - truth) ** 2 - reach**2 * _variance(truth, m, n)

    # At 0 and 1 themselves the test is met exactly; the limit is the other place where it is.
    inside = float(np.clip(area, _EDGE, 1 - _EDGE))
    low = 0.0 if area == 0.0 else float(brentq(beyond, 0.0, inside))
    high = 1.0 if area == 1.0 else float(brentq(beyond, inside, 1.0))
    return Interval(area, low, high)


def _variance(area: float, m: int, n: int) -> float:
    """Of an estimated area, where the true one is `area`."""
    size = (m + n) / 2 - 1
    spread = 1 + size * (1 - area) / (2 - area) + size * area / (1 + area)
    return area * (1 - area) * spread / (m * n)


def _placements(ones: Floats, others: Floats, area: float) -> Floats:
    """(m + n,) what each number adds to the area: how far the share of the other group that it
    rightly passes, or that rightly passes it, lies from the area, over the size of its group."""
    passed = [
        (
            np.searchsorted(np.sort(other), own, "left")
            + np.searchsorted(np.sort(other), own, "right")
        )
        / (2 * len(other))
        for own, other in ((ones, others), (others, ones))
    ]
    found: Floats = np.concatenate(
        [(passed[0] - area) / len(ones), (1 - passed[1] - area) / len(others)]
    )
    return found
