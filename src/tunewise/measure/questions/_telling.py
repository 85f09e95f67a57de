"""Figures in words: those that are there, with their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.measure.evidence import Measurement


@dataclass(frozen=True, slots=True)
class Figure:
    """A measurement that has a value and limits."""

    of: Measurement
    value: float
    low: float
    high: float

    def points(self) -> str:
        """A score or a share times 100, with its limits: "12.3 (10.1 to 14.0)"."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def count(self) -> str:
        """A number of things, with its limits."""
        return f"{self.value:,.0f} ({self.low:,.0f} to {self.high:,.0f})"


def figures(found: Sequence[Measurement], name: str) -> list[Figure]:
    """The measurements of this name that have a value and limits, in order."""
    return [
        Figure(each, each.value, each.low, each.high)
        for each in found
        if each.name == name
        and each.value is not None
        and each.low is not None
        and each.high is not None
    ]
