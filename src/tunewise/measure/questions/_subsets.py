"""Parts of the rows: nested and seeded, with the labels in proportion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tunewise.task.types import FitView, Kind, Row

_FEWEST_VALIDATION = 8


def nested_order(rows: Sequence[Row], seed: int, *, by_label: bool) -> tuple[Row, ...]:
    """Rows in an order of which every beginning is a fair sample.

    Args:
        rows: to be ordered.
        seed: of the order.
        by_label: whether the labels stand in every beginning as often as in all; the first rows
            are then one of each label.
    """
    numbers = np.random.default_rng([seed, 4711])
    shuffled = [rows[int(index)] for index in numbers.permutation(len(rows))]
    if not by_label:
        return tuple(shuffled)
    by: dict[str, list[Row]] = {}
    for row in shuffled:
        by.setdefault(row.output, []).append(row)
    placed: list[tuple[float, int, Row]] = []
    for label in sorted(by):
        offset = float(numbers.uniform())
        for rank, row in enumerate(by[label]):
            place = -1.0 if rank == 0 else (rank + offset) / len(by[label])
            placed.append((place, len(placed), row))
    return tuple(row for _, _, row in sorted(placed, key=lambda each: each[:2]))


def growing_sizes(total: int, count: int, least: int, most_times: float) -> tuple[int, ...]:
    """Numbers of rows in geometric steps, the last one all of them.

    Args:
        total: all rows.
        count: sizes, at least 2; fewer come back where they would be equal.
        least: the first is not smaller than this.
        most_times: nor is the last more than so many times the first.
    """
    first = min(total, max(least, math.ceil(total / most_times)))
    sizes = np.geomspace(first, total, count)
    return tuple(sorted({round(float(size)) for size in sizes}))


def part_of(view: FitView, train: int, seed: int) -> FitView:
    """The view with fewer training rows, and validation rows in the same share.

    Whoever has few rows has few to choose on as well: all validation rows beside a handful of
    training rows would flatter whatever chooses much.

    Args:
        view: the whole.
        train: training rows.
        seed: of the order; a smaller part of the same seed lies within a larger one.
    """
    by_label = view.spec.kind is Kind.CLASSIFICATION
    share = train / len(view.train)
    wanted = max(_FEWEST_VALIDATION, len(view.spec.labels), math.ceil(share * len(view.validation)))
    return FitView(
        view.spec,
        nested_order(view.train, seed, by_label=by_label)[:train],
        nested_order(view.validation, seed, by_label=by_label)[:wanted],
    )


def dealt(rows: Sequence[Row], folds: int, seed: int) -> dict[str, int]:
    """The fold of every row by its id, the labels in proportion, groups kept whole.

    Args:
        rows: with answers that are labels.
        folds: how many.
        seed: of the dealing.
    """
    found: dict[str, int] = {}
    together: dict[str, int] = {}
    for place, row in enumerate(nested_order(rows, seed, by_label=True)):
        fold = place % folds
        if row.group is not None:
            fold = together.setdefault(row.group, fold)
        found[row.id] = fold
    return found
