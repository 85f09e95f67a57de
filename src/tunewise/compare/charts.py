"""Charts of a comparison as SVG text: altair describes them, vl-convert draws them, no network.

Colours are Okabe and Ito's (2008), told apart by colour-blind people; every kind of part has its
own shape too, and points carry their names, so the charts also read in grey. Axis and text take the
page's own colour (`currentColor`) and so follow a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert as vlc

from tunewise.compare.contract import Comparison, Entry
from tunewise.compare.entries import COST_LADDER, rung
from tunewise.compare.front import Dot, pareto_front, place_dots

INK = "currentColor"
COLOURS = ("#8a8a8a", "#E69F00", "#009E73", "#56B4E9", "#0072B2", "#D55E00")  # along the ladder
SHAPES = ("square", "circle", "diamond", "triangle-up", "triangle-right", "cross")
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
CHART_WIDTH, CHART_HEIGHT = 315, 250
MOST_POINTS = 150  # of one training curve


@dataclass(frozen=True, slots=True)
class Cost:
    """One way to count cost: what an entry pays, the axis title, the d3 format of its ticks."""

    name: str
    title: str
    tick_format: str

    def of(self, entry: Entry) -> float:
        """What the entry pays."""
        values = {
            "fit": entry.fit.flops,
            "request": entry.milliseconds_per_row,
            "size": float(entry.bytes_on_disk),
        }
        return values[self.name]


FIT = Cost("fit", "counted work of one fit, FLOP (log scale)", "~s")
REQUEST = Cost("request", "milliseconds per request, measured (log scale)", "~g")
SIZE = Cost("size", "bytes on disk (log scale)", "~s")


def cost_chart(comparison: Comparison, cost: Cost) -> str:
    """Test score against cost, with 95% intervals and the Pareto front.

    Args:
        comparison: whose entries are drawn; one without any cost stands at the left edge.
        cost: what the horizontal axis counts.

    Returns:
        SVG.
    """
    costs = [cost.of(entry) for entry in comparison.entries]
    dots = place_dots(comparison.entries, costs, CHART_WIDTH, CHART_HEIGHT)
    x = _cost_axis(dots, cost)
    y = alt.Y(
        "value:Q",
        title=f"test {comparison.task.metric}, points",
        scale=alt.Scale(zero=False, domain=_score_domain(dots), nice=False),
        axis=alt.Axis(labelExpr="datum.value > 100 ? '' : datum.label"),
    )
    base = alt.Chart(alt.Data(values=[_dot_row(dot) for dot in dots])).encode(x=x)
    colour = alt.Color("family:N", scale=_family_scale(COLOURS), legend=None)
    bars = base.mark_rule(strokeWidth=1.6, opacity=0.75).encode(
        y=alt.Y("low:Q"), y2="high:Q", color=colour
    )
    points = base.mark_point(filled=True, size=95, opacity=1).encode(
        y=y, color=colour, shape=alt.Shape("family:N", scale=_family_scale(SHAPES), legend=None)
    )
    name_at = alt.X("label_x:Q", title=cost.title)
    names = base.mark_text(align="left", dx=2, fontSize=11.5, color=INK).encode(
        x=name_at, y="label_value:Q", text="method:N"
    )
    leaders = base.mark_rule(strokeWidth=1, opacity=0.45, color=INK).encode(
        y="value:Q", x2="label_x:Q", y2="label_value:Q"
    )
    front = [
        {"x": entry_dot.x, "value": 100 * entry_dot.entry.test.value}
        for entry_dot in pareto_front(dots)
    ]
    line = (
        alt.Chart(alt.Data(values=front))
        .mark_line(interpolate="step-after", strokeDash=[4, 3], color=INK, opacity=0.55)
        .encode(x=x, y=y)
    )
    return draw(alt.layer(line, leaders, bars, points, names), CHART_WIDTH, CHART_HEIGHT)


def difference_chart(comparison: Comparison) -> str:
    """Each method minus the recommended one on the same rows, with 95% intervals.

    Returns:
        SVG; empty where there is one method only.
    """
    reference = comparison.recommendation.method
    rows = []
    for pair in comparison.pairs:
        if reference not in (pair.a, pair.b):
            continue
        sign = 1 if pair.b == reference else -1
        low, high = sorted((100 * sign * pair.low, 100 * sign * pair.high))
        rows.append(
            {
                "method": pair.a if sign == 1 else pair.b,
                "difference": 100 * sign * pair.difference,
                "low": low,
                "high": high,
                "clear": "clear" if low > 0 or high < 0 else "holds 0",
            }
        )
    if not rows:
        return ""
    rows.sort(key=lambda row: -float(str(row["difference"])))
    y = alt.Y("method:N", title=None, sort=[str(row["method"]) for row in rows])
    title = f"points above or below {reference}, same rows"
    base = alt.Chart(alt.Data(values=rows)).encode(y=y)
    colour = alt.Color(
        "clear:N",
        scale=alt.Scale(domain=["clear", "holds 0"], range=["#0072B2", "#8a8a8a"]),
        legend=None,
    )
    bars = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("low:Q", title=title), x2="high:Q", color=colour
    )
    points = base.mark_point(size=80, filled=True, opacity=1).encode(
        x="difference:Q",
        color=colour,
        shape=alt.Shape(
            "clear:N",
            scale=alt.Scale(domain=["clear", "holds 0"], range=["circle", "diamond"]),
            legend=None,
        ),
    )
    zero = alt.Chart(alt.Data(values=[{"at": 0}])).mark_rule(color=INK, strokeDash=[3, 3])
    return draw(alt.layer(zero.encode(x="at:Q"), bars, points), 620, 30 * len(rows))


def curve_chart(entry: Entry) -> str:
    """Training and validation loss of one method, a line per seed.

    Returns:
        SVG; empty where the fits left no losses.
    """
    rows = [
        {"step": point["step"], "loss": point[name], "seed": seed, "kind": kind}
        for seed, points in entry.curve.items()
        for name, kind in (("train_loss", "train"), ("validation_loss", "validation"))
        for point in _thinned([p for p in points if math.isfinite(p.get(name, math.nan))])
    ]
    if not rows:
        return ""
    colour = COLOURS[rung(entry.parts)]
    kinds = ["train", "validation"]
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.6)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5)),
            y=alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False),
                    axis=alt.Axis(tickCount=5)),
            detail="seed:N",
            color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=["#8a8a8a", colour]),
                            legend=None),
            strokeDash=alt.StrokeDash(
                "kind:N", scale=alt.Scale(domain=kinds, range=[[2, 2], [1, 0]]), legend=None
            ),
        )
    )  # fmt: skip
    return draw(lines, 230, 140)


def _cost_axis(dots: Sequence[Dot], cost: Cost) -> Any:
    """A log axis with room for names at the right and, where one is free, "none" at the left."""
    low, high = dots[0].axis_low, dots[0].axis_high
    expression = f"format(datum.value, '{cost.tick_format}')"
    values: list[float] = [
        10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        if low * 1.5 <= 10.0**power <= high
    ]
    zero = next((dot.x for dot in dots if dot.cost <= 0), None)
    if zero is not None:
        values = [value for value in values if value > zero * 3]
        expression = f"datum.value < {zero * 1.01} ? 'none' : {expression}"
        values.insert(0, zero)
    axis = alt.Axis(values=values, labelExpr=expression, grid=False)
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.X("x:Q", title=cost.title, scale=scale, axis=axis)


def _dot_row(dot: Dot) -> dict[str, object]:
    """One entry as the chart's data."""
    score = dot.entry.test
    return {
        "method": dot.entry.method,
        "family": COST_LADDER[rung(dot.entry.parts)],
        "x": dot.x,
        "value": 100 * score.value,
        "low": 100 * score.low,
        "high": 100 * score.high,
        "label_x": dot.label_x,
        "label_value": dot.label_value,
    }


def _score_domain(dots: Sequence[Dot]) -> list[float]:
    """All intervals and names, with a little air."""
    low = min(100 * dot.entry.test.low for dot in dots)
    high = max(max(100 * dot.entry.test.high, dot.label_value) for dot in dots)
    air = max(1.0, 0.05 * (high - low))
    return [low - air, high + air]


def _family_scale(marks: Sequence[str]) -> Any:
    """One colour or shape per kind of part."""
    return alt.Scale(domain=list(COST_LADDER), range=list(marks))


def _thinned(points: Sequence[Any]) -> Sequence[Any]:
    """At most `MOST_POINTS` of them, evenly, the last one kept."""
    step = max(1, math.ceil(len(points) / MOST_POINTS))
    kept = list(points[::step])
    return kept if not points or kept[-1] is points[-1] else [*kept, points[-1]]


def draw(chart: Any, width: int, height: int) -> str:
    """Draw it, transparent, in the page's colours."""
    drawn = (
        chart.properties(width=width, height=height, background="transparent", padding=4)
        .configure(font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            tickColor=INK,
            domainColor=INK,
            gridColor=INK,
            gridOpacity=0.12,
            labelFontSize=11,
            titleFontSize=11.5,
            titleFontWeight="normal",
            titlePadding=8,
        )
    )
    return str(vlc.vegalite_to_svg(drawn.to_dict()))
