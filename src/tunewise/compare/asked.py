"""The questions and their answers as the templates show them: plain values, not escaped yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunewise.compare.wording import (
    count_text,
    flops_text,
    plural,
    points,
    seconds_text,
    size_text,
)
from tunewise.measure.evidence import Evidence, Measurement, TextTable

# Figures of one question that a page shows; all of them are in comparison.json.
MOST_FIGURES = 300
_FORMATS: Mapping[str, Callable[[float], str]] = {
    "score": points,
    "share": points,
    "bytes": size_text,
    "seconds": seconds_text,
    "flops": flops_text,
    "token_passes": count_text,
    "rows": count_text,
    "requests": count_text,
}


@dataclass(frozen=True, slots=True)
class FigureLine:
    """One figure as it is read: what, about which entry, value, interval, what it rests on."""

    what: str
    about: str
    value: str
    interval: str
    rests_on: str
    how: str


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """One question with its answer.

    Attributes:
        anchor: id of its section.
        title, asks, findings: see `Evidence`.
        absent: why there is no answer; "" where there is.
        figures: the first of them.
        figures_in_all: how many there are.
        tables: texts.
        cost: what asking took, in words.
    """

    anchor: str
    title: str
    asks: str
    findings: tuple[str, ...]
    absent: str
    figures: tuple[FigureLine, ...]
    figures_in_all: int
    tables: tuple[TextTable, ...]
    cost: str


def asked_questions(evidence: Sequence[Evidence]) -> list[AskedQuestion]:
    """The questions in their order, those that were answered first."""
    return [_asked(each) for each in in_order(evidence)]


def in_order(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Answered questions first, by title; then the others."""
    return sorted(evidence, key=lambda each: (bool(each.absent), each.title))


def figure_text(value: float, unit: str) -> str:
    """A figure in its unit: scores and shares in points of 100, bytes, seconds, else as it is."""
    known = _FORMATS.get(unit)
    if known is not None:
        sign = "-" if value < 0 and known is not points else ""
        return f"{sign}{known(abs(value) if sign else value)}"
    return f"{value:.4g}" if not unit else f"{value:.4g} {unit.replace('_', ' ')}"


def _asked(evidence: Evidence) -> AskedQuestion:
    found = evidence.answered.measurements
    work = evidence.work.get("forward_tokens", 0) + evidence.work.get("backward_tokens", 0)
    return AskedQuestion(
        anchor=f"question-{evidence.question.replace('_', '-')}",
        title=evidence.title,
        asks=evidence.asks[:1].upper() + evidence.asks[1:],
        findings=evidence.answered.findings,
        absent=evidence.absent,
        figures=tuple(_line(each) for each in found[:MOST_FIGURES]),
        figures_in_all=len(found),
        tables=evidence.answered.tables,
        cost=f"{count_text(work)} token passes, {seconds_text(evidence.seconds)}",
    )


def _line(found: Measurement) -> FigureLine:
    part = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.part.items())
    what = found.name.replace("_", " ") + (f" ({part})" if part else "")
    about = " and ".join(name for name in (found.about, found.beside) if name)
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f"{figure_text(found.low, found.unit)} to {figure_text(found.high, found.unit)}"
    rests_on = [f"n = {found.n:,}"]
    if found.n_failed:
        rests_on.append(f"{found.n_failed:,} failed")
    if found.seeds:
        rests_on.append(plural(len(found.seeds), "seed"))
    value = found.absent if found.value is None else figure_text(found.value, found.unit)
    return FigureLine(what, about, value, interval, ", ".join(rests_on), found.how)
