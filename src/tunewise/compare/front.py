"""Where an entry stands in a chart of score against cost, and which entries are on the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.compare.contract import Entry

_APART = 13.0  # pixels between points that cost the same
_LINE = 15.0  # pixels between names
_NAME_WIDTH = 85.0  # pixels a name takes
_GAP = 10.0  # pixels from a point to its name


@dataclass(frozen=True, slots=True)
class Dot:
    """One entry in a chart.

    Attributes:
        entry: which.
        cost: what it pays.
        x: where it stands on the log axis: its cost, or moved so that equals stand side by side.
        label_x, label_value: where its name begins, on the axis and in points of 100.
        axis_low, axis_high: limits of the axis.
    """

    entry: Entry
    cost: float
    x: float
    label_x: float
    label_value: float
    axis_low: float
    axis_high: float


def place_dots(
    entries: Sequence[Entry], costs: Sequence[float], width: float, height: float
) -> list[Dot]:
    """Positions at which points and names do not cover each other.

    Args:
        entries: what to draw.
        costs: of each; 0 stands a decade left of the cheapest.
        width, height: of the plot in pixels.
    """
    paid = [cost for cost in costs if cost > 0]
    least, most = (min(paid), max(paid)) if paid else (1.0, 1.0)
    free = least / 10
    low = (free if len(paid) < len(costs) else least) / 1.6
    decades = max(1.0, math.log10(most / low))
    high = low * 10 ** (decades * width / (width - _NAME_WIDTH - 20))  # names need room
    per_pixel = math.log10(high / low) / width
    logs = [math.log10(cost if cost > 0 else free) for cost in costs]
    span = max(entry.test.high for entry in entries) - min(entry.test.low for entry in entries)
    step = _LINE * max(100 * span, 2.0) / height
    moved, groups = _side_by_side([value / per_pixel for value in logs])
    low = min(low, 10 ** ((min(moved) - _GAP) * per_pixel))  # a group may reach further left
    tops = [100 * entry.test.value for entry in entries]
    name_at = list(moved)
    for group in (part for each in groups for part in _level(each, tops, step)):
        # Names of neighbours stand above each other right of them, the leftmost point's on top,
        # so that the lines to the points pass over the points between.
        top = max(tops[index] for index in group)
        for place, index in enumerate(reversed(group)):
            tops[index] = top + place * step
            name_at[index] = moved[group[-1]]
    heights = _apart(tops, name_at, step)
    return [
        Dot(
            entry,
            cost,
            10 ** (moved[index] * per_pixel),
            10 ** ((name_at[index] + _GAP) * per_pixel),
            heights[index],
            low,
            high,
        )
        for index, (entry, cost) in enumerate(zip(entries, costs, strict=True))
    ]


def pareto_front(dots: Sequence[Dot]) -> list[Dot]:
    """Entries that nothing beats at the same or a lower cost, from cheapest to dearest."""
    front: list[Dot] = []
    for dot in sorted(dots, key=lambda each: (each.cost, -each.entry.test.value)):
        if not front or dot.entry.test.value > front[-1].entry.test.value:
            front.append(dot)
    return front


def _side_by_side(pixels: Sequence[float]) -> tuple[list[float], list[list[int]]]:
    """Move points that stand closer than a symbol apart, around where they stood.

    Returns:
        where each point stands now; the groups of two or more, each from left to right.
    """
    order = sorted(range(len(pixels)), key=lambda index: (pixels[index], index))
    groups: list[list[int]] = []
    for index in order:
        if groups and pixels[index] - pixels[groups[-1][-1]] < _APART:
            groups[-1].append(index)
        else:
            groups.append([index])
    moved = list(pixels)
    for group in groups:
        middle = sum(pixels[each] for each in group) / len(group)
        for place, each in enumerate(group):
            moved[each] = middle + (place - (len(group) - 1) / 2) * _APART
    return moved, [group for group in groups if len(group) > 1]


def _level(group: Sequence[int], tops: Sequence[float], gap: float) -> list[list[int]]:
    """Parts of a group that lie at about the same height, two or more each, left to right."""
    parts: list[list[int]] = []
    for index in sorted(group, key=lambda each: tops[each]):
        if parts and tops[index] - tops[parts[-1][-1]] < gap:
            parts[-1].append(index)
        else:
            parts.append([index])
    return [sorted(part, key=list(group).index) for part in parts if len(part) > 1]


def _apart(tops: Sequence[float], pixels: Sequence[float], gap: float) -> list[float]:
    """Raise or lower names that would cover each other (`gap` in points)."""
    heights = list(tops)
    for _ in range(60):
        still = True
        for first in range(len(heights)):
            for second in range(first + 1, len(heights)):
                near = abs(pixels[first] - pixels[second]) < _NAME_WIDTH
                lack = gap - abs(heights[first] - heights[second])
                if near and lack > 1e-9:
                    up = heights[first] >= heights[second]
                    heights[first] += lack / 2 if up else -lack / 2
                    heights[second] -= lack / 2 if up else -lack / 2
                    still = False
        if still:
            break
    return heights
