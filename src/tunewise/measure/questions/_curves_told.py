"""What learning curves say: pictures of them, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from tunewise.measure.evidence import Measurement, Picture, Point, absent
from tunewise.measure.questions._again import Floats
from tunewise.measure.questions._telling import figures
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.learning_curve import LearningCurve, crossing

_DRAWN_POINTS = 16
# Of the drawings, below which a crossing is not told in words.
_SURE_SHARE = 0.95


def pictures_of(
    measured: Mapping[str, Mapping[int, Floats]],
    curves: Mapping[str, LearningCurve],
    more_rows: int,
    clusters: Sequence[str] | None = None,
) -> tuple[Picture, ...]:
    """The points as measured, and the curves with their bands, a little beyond the last size.

    Args:
        measured: scores (S, n), 0 to 1, by entry and number of training rows.
        curves: of the entries that have sizes enough.
        more_rows: how far beyond the last size the curves are drawn.
        clusters: (n,) of the test rows; None where they are independent.
    """
    points = []
    for name, each in measured.items():
        for size, scores in sorted(each.items()):
            interval = mean_interval(scores, clusters=clusters)
            point = Point(name, interval.value, interval.low, interval.high, float(size))
            points.append(point.in_points())
    drawn = []
    for name, curve in curves.items():
        at = np.geomspace(curve.sizes[0], curve.sizes[-1] + more_rows, _DRAWN_POINTS)
        low, high = curve.band(at)
        values = zip(at, curve.at(at), low, high, strict=True)
        drawn += [
            Point(name, float(v), float(lo), float(hi), float(x)).in_points()
            for x, v, lo, hi in values
        ]
    x, y = "training rows", "score on test rows, points"
    found = [Picture("Score by number of training rows", "lines", x, y, tuple(points), log_x=True)]
    if drawn:
        title = f"Fitted curves, drawn on to {more_rows:,} further rows"
        found.append(Picture(title, "lines", x, y, tuple(drawn), log_x=True))
    return tuple(found)


def findings_of(
    found: Sequence[Measurement],
    curves: Mapping[str, LearningCurve],
    tolerance: float,
    more_rows: int,
) -> tuple[str, ...]:
    """What the figures say.

    Args:
        found: figures of the question.
        curves: by entry.
        tolerance: score (0 to 1) that fewer rows may cost.
        more_rows: further rows whose gain is told.
    """
    told = []
    for each in figures(found, "rows_needed"):
        sizes = curves[each.of.about].sizes
        # Where even the smallest size is within the tolerance, the answer is "at most".
        about = "at most" if each.value <= sizes[0] else "about"
        told.append(
            f"{each.of.about} is within {100 * tolerance:g} points of its score on all "
            f"{sizes[-1]:,.0f} rows from {about} {each.count()} rows on."
        )
    told += [
        f"Another {more_rows:,} rows would likely bring {each.of.about} {each.points()} points."
        for each in figures(found, "gain_of_more_rows")
    ]
    told += [
        f"{each.of.about} overtakes {each.of.beside} at about {each.count()} rows."
        for each in figures(found, "crossing_rows")
    ]
    return tuple(told)


def crossings_of(
    curves: Mapping[str, LearningCurve], rows: int, seeds: tuple[int, ...]
) -> list[Measurement]:
    """Where one method begins to be better than another; of the best also where none does.

    Args:
        curves: by entry.
        rows: test rows that they rest on.
        seeds: of their fits.
    """
    best = max(curves, key=lambda name: float(curves[name].means[-1]), default="")
    found = []
    for late, early in permutations(curves, 2):
        told = crossing(curves[late], curves[early])
        share = f"{100 * told.share:.0f}% of the drawings do"
        # Limits of those drawings alone would say where, as if it were sure that it does at all.
        sure = told.share >= _SURE_SHARE
        if told.value is not None:
            found.append(
                Measurement(
                    "crossing_rows", late, "rows", told.value, rows,
                    f"where its curve rises above the other's for good; {share}",
                    told.low if sure else None, told.high if sure else None, seeds=seeds,
                    beside=early,
                )
            )  # fmt: skip
        elif late == best:
            reason = f"it does not overtake between the sizes measured ({share})"
            found.append(absent("crossing_rows", late, "rows", reason, beside=early))
    return found
