"""The pictures of the questions as SVG text, drawn from points; see `charts` for the colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from tunewise.compare.charts import COLOURS, INK, draw
from tunewise.compare.contract import Comparison
from tunewise.compare.entries import rung
from tunewise.measure.evidence import Picture, Point

_WIDTH, _LINE_HEIGHT, _PLOT_HEIGHT = 560, 26, 260
_PLAIN = COLOURS[0]
# Entries on one rung share its colour, and are told apart by the line.
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
_GROUP_COLOURS = (COLOURS[4], COLOURS[1], COLOURS[2], COLOURS[5], COLOURS[3], COLOURS[0])
_GROUP_LEGEND = alt.Legend(title=None, orient="bottom", columns=6, labelColor=INK, symbolOpacity=1)
_GROUP_SHAPES = ("circle", "diamond", "square", "triangle-up", "cross", "triangle-down")


def picture_chart(comparison: Comparison, picture: Picture) -> str:
    """One picture.

    Args:
        comparison: its entries give the series their colours.
        picture: what is drawn.

    Returns:
        SVG; empty where there are no points.
    """
    if not picture.points:
        return ""
    rungs = {entry.method: rung(entry.parts) for entry in comparison.entries}
    draws = {"dots": _dots, "lines": _lines}
    return draws[picture.kind](picture, rungs)


def _dots(picture: Picture, rungs: Mapping[str, int]) -> str:
    """A line for each series, values with their intervals along it; groups side by side."""
    series = _series(picture.points)
    groups = list(dict.fromkeys(point.group for point in picture.points))
    grouped = len(groups) > 1
    y = alt.Y("series:N", title=None, sort=series, axis=alt.Axis(labelLimit=260))
    scale = alt.Scale(type="log" if picture.log_x else "linear", zero=False)
    places: dict[str, Any] = {"y": y}
    if grouped:
        places["yOffset"] = alt.YOffset("group:N", sort=groups)
        colour = alt.Color(
            "group:N",
            sort=groups,
            scale=alt.Scale(domain=groups, range=_cycled(_GROUP_COLOURS, groups)),
            legend=_GROUP_LEGEND,
        )
        shape = alt.Shape(
            "group:N",
            sort=groups,
            scale=alt.Scale(domain=groups, range=_cycled(_GROUP_SHAPES, groups)),
            legend=_GROUP_LEGEND,
        )
    else:
        colours = [_colour(name, rungs) for name in series]
        colour = alt.Color("series:N", scale=alt.Scale(domain=series, range=colours), legend=None)
        shape = alt.value("circle")
    base = alt.Chart(alt.Data(values=_rows(picture.points))).encode(**places)
    marks = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=alt.X("value:Q", title=picture.x, scale=scale, axis=alt.Axis(tickCount=6)),
        color=colour,
        shape=shape,
    )
    rules = (
        base.transform_filter("datum.low !== null && datum.high !== null")
        .mark_rule(strokeWidth=1.6, opacity=0.75)
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", color=colour)
    )
    height = _LINE_HEIGHT * len(series) * (max(1, 0.55 * len(groups)) if grouped else 1)
    return draw(alt.layer(rules, marks), _WIDTH, round(height))


def _lines(picture: Picture, rungs: Mapping[str, int]) -> str:
    """A line for each series against a number, with a band where there are intervals."""
    series = _series(picture.points)
    colours = [_colour(name, rungs) for name in series]
    dashes = []
    for index, colour in enumerate(colours):
        dashes.append(_DASHES[colours[:index].count(colour) % len(_DASHES)])
    # Left alone, a legend takes the paleness of the bands.
    legend = alt.Legend(
        title=None,
        orient="bottom",
        columns=5,
        labelColor=INK,
        symbolType="stroke",
        symbolSize=500,
        symbolStrokeWidth=2.2,
        symbolOpacity=1,
    )
    # Many bands over each other are mud: then they are ever paler.
    paleness = min(0.16, 0.3 / len(series))
    x = alt.X(
        "at:Q",
        title=picture.x,
        scale=alt.Scale(type="log" if picture.log_x else "linear", zero=False, nice=False),
        axis=alt.Axis(tickCount=6, grid=False),
    )
    colour = alt.Color("series:N", scale=alt.Scale(domain=series, range=colours), legend=legend)
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=series, range=dashes), legend=legend)
    y = alt.Y("value:Q", title=picture.y, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=_rows(picture.points))).encode(x=x, detail=["group:N"])
    bands = (
        base.transform_filter("datum.low !== null && datum.high !== null")
        .mark_area(opacity=paleness)
        .encode(y=alt.Y("low:Q"), y2="high:Q", color=colour)
    )
    lines = base.mark_line(strokeWidth=1.8).encode(y=y, color=colour, strokeDash=dash)
    marks = base.mark_point(filled=True, size=26, opacity=1).encode(y=y, color=colour)
    return draw(alt.layer(bands, lines, marks), _WIDTH, _PLOT_HEIGHT)


def _rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {
            "series": point.series,
            "value": point.value,
            "low": point.low,
            "high": point.high,
            "at": point.at,
            "group": point.group,
        }
        for point in points
    ]


def _series(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.series for point in points))


def _colour(name: str, rungs: Mapping[str, int]) -> str:
    return COLOURS[rungs[name]] if name in rungs else _PLAIN


def _cycled(marks: Sequence[str], names: Sequence[str]) -> list[str]:
    return [marks[index % len(marks)] for index in range(len(names))]
