"""The seven contrasts between the families, each cell a measured figure or why there is none.

They are the ones by which fine-tuning and prompt tuning are usually set against each other: data
requirement, training cost, model size, flexibility, performance, scalability, maintenance. What a
comparison measures anyway fills some; the others wait for a question to be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tunewise.compare.contract import Comparison, Entry
from tunewise.compare.phrases import interval_text
from tunewise.compare.table import base_bytes
from tunewise.compare.wording import (
    count_text,
    flops_text,
    points,
    score_text,
    seconds_text,
    size_text,
    tokens_text,
)
from tunewise.measure.evidence import Evidence, Measurement

DOMAINS = 1000  # for scalability


@dataclass(frozen=True, slots=True)
class Cell:
    """What one entry shows in one contrast.

    Attributes:
        text: the figures in words; the reason where there is none.
        measurement: what they rest on: "accuracy", "cost", or the name of a question.
        absent: whether there is no figure.
    """

    text: str
    measurement: str
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Contrast:
    """One line of the table.

    Attributes:
        name: of the contrast.
        asks: what the figures are.
        cells: one for each entry, in the table's order.
    """

    name: str
    asks: str
    cells: tuple[Cell, ...]

    @property
    def reason(self) -> str | None:
        """Why there is no figure at all, where every cell gives the same reason."""
        reasons = {cell.text if cell.absent else None for cell in self.cells}
        return reasons.pop() if len(reasons) == 1 else None


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure of a question: its name, and what its part must hold."""

    question: str
    name: str
    part: Mapping[str, str] = field(default_factory=dict)


_ROWS_NEEDED = _Figure("data_need", "rows_needed")
_ELSEWHERE = _Figure("out_of_domain", "loss_elsewhere")
_UPDATE = _Figure("update", "seconds", {"way": "continued"})
# Found where the table's own figures have no interval.
_FIT_SECONDS = _Figure("cost_to_fit", "seconds")
_REQUEST = _Figure("cost_to_serve", "milliseconds_batched")


def contrasts(comparison: Comparison) -> tuple[Contrast, ...]:
    """The table, a line for each contrast and a cell for each entry.

    Args:
        comparison: with the evidence that was asked for.
    """
    base = base_bytes(comparison.context.base)

    def line(name: str, asks: str, cell: Callable[[Entry], Cell]) -> Contrast:
        return Contrast(name, asks, tuple(cell(entry) for entry in comparison.entries))

    def asked(figure: _Figure) -> Callable[[Entry], Cell]:
        return lambda entry: _answer(comparison.evidence, figure, entry)

    return (
        line("data requirement", "training rows within tolerance of all", asked(_ROWS_NEEDED)),
        line(
            "training cost",
            "work and time of a fit",
            lambda entry: _training(comparison.evidence, entry),
        ),
        line("model size", "kept beside the base; numbers trained", _size),
        line("flexibility", "points lost where it was not trained", asked(_ELSEWHERE)),
        line("performance", "score with its 95% interval", _performance),
        line(
            "scalability",
            f"{DOMAINS:,} domains with the base; a request",
            lambda entry: _scale(comparison.evidence, entry, base),
        ),
        line(
            "maintenance",
            "to take in new rows",
            lambda entry: _change(comparison.evidence, entry),
        ),
    )


def _performance(entry: Entry) -> Cell:
    return Cell(f"{score_text(entry.test)}, n = {entry.test.n:,}", "accuracy")


def _training(evidence: Sequence[Evidence], entry: Entry) -> Cell:
    work = flops_text(entry.fit.flops) if entry.fit.flops > 0 else "no work in the base"
    found = _found(evidence, _FIT_SECONDS, entry)
    if found is None or found.low is None:
        return Cell(f"{work}, {seconds_text(entry.fit.seconds)}", "cost")
    return Cell(f"{work}, {_figure_text(found)}", _FIT_SECONDS.question)


def _size(entry: Entry) -> Cell:
    trained = entry.fit.trainable_parameters
    numbers = f", {count_text(trained)} trained" if trained else ", none trained"
    return Cell(f"{size_text(entry.bytes_on_disk)}{numbers}", "cost")


def _scale(evidence: Sequence[Evidence], entry: Entry, base: int) -> Cell:
    held = base + DOMAINS * entry.bytes_on_disk
    request, source = f"{_milliseconds(entry.milliseconds_per_row)} ms", "cost"
    found = _found(evidence, _REQUEST, entry)
    if found is not None:
        limits = interval_text(found.low, found.high, _milliseconds)
        request, source = f"{_milliseconds(found.number)} ms{limits}", _REQUEST.question
    return Cell(
        f"{size_text(held)}, {request}, "
        f"{tokens_text(entry.prompt_tokens_per_request)} tokens before it",
        source,
    )


def _milliseconds(value: float) -> str:
    return f"{value:.1f}"


def _change(evidence: Sequence[Evidence], entry: Entry) -> Cell:
    """Measured where it was asked; else what a fit from nothing takes, and says so."""
    found = _answer(evidence, _UPDATE, entry)
    if not found.absent:
        return found
    spread = max(entry.seed_values) - min(entry.seed_values)
    seeds = len(entry.seeds)
    apart = f"; {seeds} seeds {points(spread)} points apart" if seeds > 1 else ""
    return Cell(f"fit again: {seconds_text(entry.fit.seconds)}{apart}", "cost")


def _found(evidence: Sequence[Evidence], figure: _Figure, entry: Entry) -> Measurement | None:
    """The first figure about an entry that the question has; None where there is none."""
    asked = next((each for each in evidence if each.question == figure.question), None)
    for each in () if asked is None else asked.answered.measurements:
        named = (each.about, each.name) == (entry.method, figure.name)
        if named and figure.part.items() <= each.part.items() and each.value is not None:
            return each
    return None


def _answer(evidence: Sequence[Evidence], figure: _Figure, entry: Entry) -> Cell:
    """The first figure about an entry that the question has; else why there is none."""
    asked = next((each for each in evidence if each.question == figure.question), None)
    if asked is None:
        return Cell(f"not asked (--questions {figure.question})", figure.question, absent=True)
    if asked.absent:
        return Cell(f"not measured: {asked.absent}", figure.question, absent=True)
    found = _found(evidence, figure, entry)
    if found is not None:
        return Cell(_figure_text(found), figure.question)
    about = [
        each
        for each in asked.answered.measurements
        if (each.about, each.name) == (entry.method, figure.name)
        and figure.part.items() <= each.part.items()
    ]
    reason = about[0].absent if about else "the question did not take it in"
    return Cell(f"not measured: {reason}", figure.question, absent=True)


def _figure_text(found: Measurement) -> str:
    """Value, interval and n in the figure's own unit."""
    write = _WRITERS.get(found.unit, _plainly(found.unit))
    value = 0.0 if found.value is None else found.value
    return f"{write(value)}{interval_text(found.low, found.high, write)}, n = {found.n:,}"


def _plainly(unit: str) -> Callable[[float], str]:
    """Three digits and the unit's own name."""
    return lambda value: f"{value:.3g} {unit.replace('_', ' ')}"


_WRITERS: dict[str, Callable[[float], str]] = {
    "score": points,
    "share": points,
    "rows": lambda value: f"{value:,.0f}",
    "seconds": seconds_text,
    "bytes": size_text,
    "flops": flops_text,
    "token_passes": lambda value: f"{value:,.0f} token passes",
}
