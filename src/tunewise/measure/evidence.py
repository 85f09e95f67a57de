"""What a question leaves behind: plain records, free of torch, that `compare` reads.

A figure that could not be had is never 0: it is absent, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

Scalar: TypeAlias = str | int | float
# How the reason of a question begins that was left out for what it would cost.
NOT_ASKED = "not asked: "


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure.

    Attributes:
        name: what was measured, in lower case with underscores: "calibration_error".
        about: the entry (a method's name); "" where it is about the task or the base.
        unit: of value, low and high: "score" (0 to 1), "seconds", "bytes", "token_passes", ...
        value: the figure; None where it is absent.
        low, high: limits of its 95% interval; None where there is none to be had.
        higher_is_better: its direction; None where neither is better.
        n: what it rests on: rows, steps, requests (`how` says which).
        n_failed: how many of these failed.
        seeds: of the fits it rests on.
        how: how it was measured, in one sentence.
        beside: the second entry, where it is about two.
        part: the slice it is about, for example {"label": "refund"} or {"rows": 200}.
        absent: why there is no value; "" where there is one.
    """

    name: str
    about: str
    unit: str
    value: float | None
    n: int
    how: str
    low: float | None = None
    high: float | None = None
    higher_is_better: bool | None = None
    n_failed: int = 0
    seeds: tuple[int, ...] = ()
    beside: str = ""
    part: Mapping[str, Scalar] = field(default_factory=dict)
    absent: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) is not bool(self.absent):
            raise ValueError(f"{self.name}: either a value or the reason why there is none")
        for each in (self.value, self.low, self.high):
            if each is not None and not math.isfinite(each):
                raise ValueError(f"{self.name} must be finite, found {each}")

    @property
    def number(self) -> float:
        """The value of a figure that has one.

        Raises:
            ValueError: it is absent.
        """
        if self.value is None:
            raise ValueError(f"{self.name} is absent: {self.absent}")
        return self.value


def absent(name: str, about: str, unit: str, reason: str, **more: Any) -> Measurement:
    """A figure that could not be had.

    Args:
        name, about, unit: see `Measurement`.
        reason: why not.
        more: further fields.
    """
    return Measurement(name, about, unit, None, more.pop("n", 0), reason, absent=reason, **more)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a picture.

    Attributes:
        series: what it belongs to: an entry, as a rule.
        value: its height (its place on the horizontal axis in a picture of dots).
        low, high: ends of its interval, or None.
        at: its place on the horizontal axis; None in a picture of dots.
        group: what tells points of one series apart, for example "train" and "test"; or "".
    """

    series: str
    value: float
    low: float | None = None
    high: float | None = None
    at: float | None = None
    group: str = ""

    def in_points(self) -> Point:
        """A score or a share of 0 to 1 as reports show it: times 100."""
        low, high = (None if end is None else 100 * end for end in (self.low, self.high))
        return replace(self, value=100 * self.value, low=low, high=high)


@dataclass(frozen=True, slots=True)
class Picture:
    """What the report draws.

    Attributes:
        title: what it shows.
        kind: "dots": a line for every series, values along it. "lines": value against `at`.
        x, y: titles of the axes with their units; a picture of dots uses `x` only.
        points: in the order of the series.
        log_x: whether the horizontal axis is logarithmic (all places above 0).
    """

    title: str
    kind: Literal["dots", "lines"]
    x: str
    y: str
    points: tuple[Point, ...]
    log_x: bool = False


@dataclass(frozen=True, slots=True)
class TextTable:
    """Texts to be read by a person: a title, columns, and lines of as many cells."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """What asking a question gives.

    Attributes:
        measurements: the figures.
        findings: what they say, as sentences whose numbers all come from them.
        pictures, tables: for the report.
    """

    measurements: tuple[Measurement, ...]
    findings: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[TextTable, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One question of a run, and its answer.

    Attributes:
        question, title, asks: see the question's contract.
        answered: empty where the question was not answered.
        absent: why it was not; "" where it was.
        settings: of the question, as used (JSON values).
        planned_passes: token passes it was planned to take; it may take a quarter more.
        work: forward_tokens, backward_tokens, flops, as counted.
        seconds: wall-clock.
    """

    question: str
    title: str
    asks: str
    answered: Answered
    absent: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    planned_passes: int = 0
    work: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def left_out(self) -> bool:
        """Whether it was left out for what it would cost, which `absent` then tells."""
        return self.absent.startswith(NOT_ASKED)

    def find(self, name: str, about: str = "", **part: Scalar) -> Measurement | None:
        """The figure of this name about this entry and this slice, or None."""
        for each in self.answered.measurements:
            if (each.name, each.about, dict(each.part)) == (name, about, part):
                return each
        return None


def evidence_from(content: Mapping[str, Any]) -> Evidence:
    """Evidence from its JSON form (`dataclasses.asdict`).

    Raises:
        KeyError, TypeError, ValueError: it is none of this version.
    """
    given = content["answered"]
    answered = Answered(
        tuple(
            Measurement(**(each | {"seeds": tuple(each["seeds"])}))
            for each in given["measurements"]
        ),
        tuple(given["findings"]),
        tuple(
            Picture(**(each | {"points": tuple(Point(**point) for point in each["points"])}))
            for each in given["pictures"]
        ),
        tuple(
            TextTable(
                each["title"], tuple(each["columns"]), tuple(tuple(line) for line in each["lines"])
            )
            for each in given["tables"]
        ),
    )
    return Evidence(**{**content, "answered": answered})
