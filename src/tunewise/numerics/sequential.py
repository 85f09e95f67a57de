"""Is the new one worse? Answered after every outcome, at any time, with one error rate for all.

The test is a bet (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by
betting", sections 3 and 4; Robbins 1970 for mixtures). Each difference d in [-1, 1] between the new
one and the old one is x = (d + 1) / 2 in [0, 1]. Whoever believes that the mean of x is at least m
offers the bet 1 + b (m - x), fair or worse for us, with any b from 0 to 1 / (1 - m). Wealth that
begins with 1 and is spread evenly over several fixed b is then a supermartingale, and by Ville's
inequality exceeds 1 / alpha at ANY time with probability alpha at most (Ville 1939). So looking
after every outcome and stopping when it is enough costs nothing, unlike a t-test looked at often
(Johari, Pekelis & Walsh 2022, "Always valid inference"). No variance or normal approximation takes
part: outcomes need only lie in [0, 1].

Outcomes of two independent groups are made into differences by `Pairing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Shares of the largest bet. Small ones win slowly and surely on small differences.
BET_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9)


@dataclass(frozen=True, slots=True)
class RunningTest:
    """How two bets stand: one that the new one is worse, one that it is better.

    Attributes:
        margin: "worse" means worse by more than this, 0 to below 1; "better" means by any amount.
        count: differences seen.
        total: their sum.
        worse: log wealth of each bet against "not worse by more than the margin".
        better: log wealth of each bet against "not better".
    """

    margin: float
    count: int = 0
    total: float = 0.0
    worse: tuple[float, ...] = (0.0,) * len(BET_SHARES)
    better: tuple[float, ...] = (0.0,) * len(BET_SHARES)

    @property
    def mean(self) -> float:
        """Mean difference so far, 0 before the first."""
        return self.total / self.count if self.count else 0.0

    @property
    def worse_evidence(self) -> float:
        """Wealth of the bet that it is worse; above 1 / alpha it is shown at level alpha."""
        return _wealth(self.worse)

    @property
    def better_evidence(self) -> float:
        """Wealth of the bet that it is better."""
        return _wealth(self.better)

    def seen(self, difference: float) -> RunningTest:
        """The test after one more difference, new minus old.

        Raises:
            ValueError: it does not lie in [-1, 1].
        """
        if not -1.0 <= difference <= 1.0:
            raise ValueError(f"a difference of outcomes lies between -1 and 1, found {difference}")
        high, low = (difference + 1) / 2, (1 - difference) / 2
        return replace(
            self,
            count=self.count + 1,
            total=self.total + difference,
            worse=_grown(self.worse, high, (1 - self.margin) / 2),
            better=_grown(self.better, low, 0.5),
        )


@dataclass(frozen=True, slots=True)
class Pairing:
    """Outcomes of two groups that come as they like, made into independent differences.

    Outcomes wait until both groups have some; then the difference of the two means of what waits
    is one difference, and nothing waits any more. Every outcome is used once, and when a pair is
    made does not depend on any value, so each difference has the mean of the two groups' distance.

    Attributes:
        new_total, new_count: of the waiting outcomes of the new one.
        old_total, old_count: of those of the old one.
    """

    new_total: float = 0.0
    new_count: int = 0
    old_total: float = 0.0
    old_count: int = 0

    def with_outcome(self, value: float, *, is_new: bool) -> tuple[Pairing, float | None]:
        """What waits after one more outcome, and the difference it completed, if any."""
        waiting = (
            replace(self, new_total=self.new_total + value, new_count=self.new_count + 1)
            if is_new
            else replace(self, old_total=self.old_total + value, old_count=self.old_count + 1)
        )
        if not waiting.new_count or not waiting.old_count:
            return waiting, None
        new, old = waiting.new_total / waiting.new_count, waiting.old_total / waiting.old_count
        return Pairing(), min(1.0, max(-1.0, new - old))


def confidence_sequence(
    differences: Iterable[float], *, alpha: float = 0.05, steps: int = 400
) -> tuple[float, float]:
    """Limits of the mean difference that hold at all times together, with probability 1 - alpha.

    The means that neither of two bets has refuted at alpha / 2 (the same source, section 4.4).

    Args:
        differences: in [-1, 1], in any order.
        alpha: error rate of both limits together.
        steps: of the grid of means that are tried; limits are rounded outwards to it.

    Returns:
        Lower and upper limit, -1 and 1 before the first difference.
    """
    seen = np.asarray(list(differences), dtype=np.float64)
    means = np.linspace(0.0, 1.0, steps + 1)
    limit = math.log(2 / alpha)
    high = _log_wealth((seen + 1) / 2, means)  # evidence that the mean lies below m
    low = _log_wealth((1 - seen) / 2, 1 - means)  # ... above m
    kept = means[(high < limit) & (low < limit)]
    if kept.size == 0:  # only with probability alpha; the sample's own mean is then the best guess
        middle = float(seen.mean())
        return middle, middle
    step = 2 / steps
    return max(-1.0, 2 * float(kept[0]) - 1 - step), min(1.0, 2 * float(kept[-1]) - 1 + step)


def _log_wealth(seen: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M,) log wealth of the mixture against "the mean is at least m", for each m."""
    shares = np.asarray(BET_SHARES)
    total = np.zeros((len(means), len(shares)))
    room = np.maximum(1 - means, 1e-9)  # a mean of 1 is refuted by any value below 1
    values, counts = np.unique(seen, return_counts=True)
    for value, count in zip(values, counts, strict=True):
        total += count * np.log1p(shares * ((means - value) / room)[:, None])
    top = total.max(axis=1)
    wealth: NDArray[np.float64] = top + np.log(np.exp(total - top[:, None]).mean(axis=1))
    return wealth


def _grown(log_wealth: tuple[float, ...], value: float, mean: float) -> tuple[float, ...]:
    """Log wealth of each bet against "the mean is at least `mean`" after one value in [0, 1]."""
    gain = (mean - value) / (1 - mean)
    return tuple(
        held + math.log1p(share * gain) for held, share in zip(log_wealth, BET_SHARES, strict=True)
    )


def _wealth(log_wealth: tuple[float, ...]) -> float:
    # A number that JSON and people can hold; beyond it nothing changes any decision.
    return sum(math.exp(min(held, 600.0)) for held in log_wealth) / len(log_wealth)
