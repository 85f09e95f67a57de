"""How well a number tells two groups apart: area under the ROC curve, with an interval.

The area is the chance that a number of the one group is larger than one of the other, ties counted
half (Mann & Whitney 1947). The interval inverts a score-like test, so it stays honest at areas near
0 and 1 and in small groups (Newcombe 2006, method 5; variance after Hanley & McNeil 1982).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from tunewise.numerics.intervals import Interval

_EDGE = 1e-9


def area_under_curve(ones: ArrayLike, others: ArrayLike, *, level: float = 0.95) -> Interval:
    """Chance that a number of `ones` is larger than one of `others`.

    Args:
        ones: (m,) finite numbers.
        others: (n,) finite numbers.
        level: of the interval.

    Raises:
        ValueError: a group is empty, or a number is not finite.
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
