"""What the templates show, in the order of the report: plain values, nothing escaped yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewise.compare.asked import asked_questions, in_order
from tunewise.compare.charts import FIT, REQUEST, SIZE, cost_chart, curve_chart, difference_chart
from tunewise.compare.contract import Comparison, Entry, Pair, ReportDetails, Role, SliceScore
from tunewise.compare.contrasts import contrasts
from tunewise.compare.pictures import picture_chart
from tunewise.compare.priorities import GIVE_UP_POINTS
from tunewise.compare.terminal import mark
from tunewise.compare.wording import (
    count_text,
    flops_text,
    p_text,
    points,
    score_text,
    seconds_text,
    size_text,
    tokens_text,
)
from tunewise.measure.records import RowResult
from tunewise.numerics.pairs import holm
from tunewise.task.types import Row

MOST_ROWS = 60
MOST_CHARACTERS = 1200  # of one text; longer ones are cut and say so


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table; `left`, `width`, `at` place its interval, in percent of the bar."""

    entry: Entry
    mark: str
    left: float
    width: float
    at: float
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a row and the methods that gave it; `score` is the best of them."""

    text: str
    failed: bool
    score: float
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row that methods answer differently; `wrong` names those below full score."""

    row: Row
    text: str
    expected: str
    answers: tuple[Answer, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    """All other methods beside one on the same rows; `judged` where ties were judged by it."""

    method: str
    judged: bool
    lines: tuple[Mapping[str, str], ...]


def page_of(comparison: Comparison, details: ReportDetails) -> dict[str, Any]:
    """Everything both templates need, by name."""
    entries = comparison.entries
    low, high = bar_limits(entries)
    differing = disagreements(comparison, details)
    questions = asked_questions(comparison.evidence)
    extras = sorted({name for entry in entries for name in entry.extra})
    return {
        "comparison": comparison,
        "advice": comparison.recommendation,
        "reasons": _reasons(comparison, differing),
        "give_up": comparison.recommendation.priorities.get("give_up_points", GIVE_UP_POINTS),
        "chosen": comparison.entry(comparison.recommendation.method),
        "lines": [_line(comparison, entry, low, high) for entry in entries],
        "bar_low": points(low),
        "bar_high": points(high),
        "contrasts": contrasts(comparison),
        "differences": _differences(comparison),
        "labels": _slices(entries, [entry.by_label for entry in entries]),
        "domains": _slices(entries, [entry.by_domain for entry in entries]),
        "extras": [name for name in extras if len({each.extra.get(name) for each in entries}) > 1],
        "rows": differing[:MOST_ROWS],
        "rows_in_all": len(differing),
        "questions": questions,
        "answered": {each.anchor for each in questions if not each.absent},
        "data_check": details.data_check,
        "words": {"points": points, "score": score_text, "count": count_text},
    }


def _reasons(comparison: Comparison, differing: Sequence[Disagreement]) -> list[dict[str, str]]:
    """The reasons, and where on the page that which they rest on is, and its rows."""
    advice = comparison.recommendation
    anchors = {"accuracy": "table", "paired_difference": "differences", "cost": "contrasts"}
    told = []
    for text, source in zip(advice.reasons, advice.reason_sources, strict=True):
        anchor = anchors.get(source.measurement, "table")
        if anchor == "differences" and advice.method not in source.methods:
            anchor = "differences-best"
        told.append(
            {
                "text": text,
                "anchor": "table" if len(comparison.entries) == 1 else anchor,
                "measurement": source.measurement.replace("_", " "),
                "rows": f"{source.rows:,} rows",
                "rows_anchor": "rows" if differing else "table",
            }
        )
    return told


def charts_of(comparison: Comparison) -> dict[str, Any]:
    """The charts as SVG text, for the web page only."""
    return {
        "costs": [cost_chart(comparison, cost) for cost in (FIT, REQUEST, SIZE)],
        "differences": difference_chart(comparison),
        "curves": [
            (entry.method, svg) for entry in comparison.entries if (svg := curve_chart(entry))
        ],
        "questions": [
            [
                (picture.title, svg)
                for picture in each.answered.pictures
                if (svg := picture_chart(comparison, picture))
            ]
            for each in in_order(comparison.evidence)
        ],
    }


def bar_limits(entries: Sequence[Entry]) -> tuple[float, float]:
    """Ends of the bars in the table: all intervals, on steps of 5 points."""
    low = min(entry.test.low for entry in entries)
    high = max(entry.test.high for entry in entries)
    return int(20 * low) / 20, min(1.0, (int(20 * high) + 1) / 20)


def disagreements(comparison: Comparison, details: ReportDetails) -> list[Disagreement]:
    """Rows that methods answer differently: first those that split the methods that tie with the
    best, then the most contested.

    A method that gives every row the same answer takes no part: it would differ on nearly all.
    """
    advice = comparison.recommendation
    leading = {advice.method, *advice.tied_with}
    methods = [
        entry.method
        for entry in comparison.entries
        if entry.role is not Role.CONSTANT and entry.method in details.answers
    ]
    found = []
    for row in details.rows:
        results = {
            method: details.answers[method][row.id]
            for method in methods
            if row.id in details.answers[method]
        }
        grouped = _grouped(results)
        if len(grouped) > 1:
            wrong = tuple(method for method, each in results.items() if each.score < 1.0)
            found.append(
                Disagreement(row, _cut(row.input), _cut(" / ".join(row.references)), grouped, wrong)
            )
    # Sorting is stable: rows that are equally contested keep their order.
    found.sort(key=lambda shown: (not _splits(shown, leading), _calm(shown)))
    return found


def _splits(shown: Disagreement, methods: set[str]) -> bool:
    """Whether these methods give more than one answer to the row."""
    return sum(bool(methods & set(answer.methods)) for answer in shown.answers) > 1


def _calm(shown: Disagreement) -> float:
    """0 where half of the methods score and the others do not, up to 1."""
    scores = [answer.score for answer in shown.answers for _ in answer.methods]
    return abs(2 * sum(scores) / len(scores) - 1)


def _grouped(results: Mapping[str, RowResult]) -> tuple[Answer, ...]:
    """The answers that differ, each with its methods; best score, then most methods first."""
    by_text: dict[tuple[str, bool], list[str]] = {}
    for method, result in results.items():
        key = (result.failure, True) if result.answer is None else (result.answer, False)
        by_text.setdefault(key, []).append(method)
    answers = [
        Answer(_cut(text), failed, max(results[each].score for each in methods), tuple(methods))
        for (text, failed), methods in by_text.items()
    ]
    return tuple(sorted(answers, key=lambda each: (-each.score, -len(each.methods))))


def _cut(text: str) -> str:
    """The text, or its beginning with a word on how much was left out."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} … ({len(text) - MOST_CHARACTERS:,} more characters)"


def _line(comparison: Comparison, entry: Entry, low: float, high: float) -> Line:
    """One line of the table."""
    span = 100 / (high - low)
    score, validation, fit = entry.test, entry.validation, entry.fit
    words = {"*": "recommended", "=": "ties with the best", "": ""}
    cells = {
        "score": points(score.value),
        "interval": f"{points(score.low)} to {points(score.high)}",
        "validation": "not measured" if validation is None else points(validation.value),
        "tokens": tokens_text(entry.prompt_tokens_per_request),
        "milliseconds": f"{entry.milliseconds_per_row:.1f}",
        "size": size_text(entry.bytes_on_disk),
        "work": flops_text(fit.flops),
        "time": seconds_text(fit.seconds),
        "memory": size_text(fit.peak_bytes),
        "trainable": count_text(fit.trainable_parameters),
        "failed": str(score.n_failed),
        "seeds": ", ".join(
            f"{seed}: {points(value)}"
            for seed, value in zip(entry.seeds, entry.seed_values, strict=True)
        ),
    }
    return Line(
        entry,
        words[mark(comparison, entry)],
        round((score.low - low) * span, 2),
        round((score.high - score.low) * span, 2),
        round((score.value - low) * span, 2),
        cells,
    )


def _differences(comparison: Comparison) -> list[Differences]:
    """Beside the recommended method, then beside the best: reasons and ties rest on both."""
    advice = comparison.recommendation
    found = []
    for method in dict.fromkeys((advice.method, advice.best)):
        pairs = [_beside(pair, method) for pair in comparison.pairs if method in (pair.a, pair.b)]
        judged = method == advice.best
        corrected = _corrected(comparison, pairs) if judged else {}
        lines = tuple(_difference(pair, corrected.get(pair.a)) for pair in pairs)
        if lines:
            found.append(Differences(method, judged, lines))
    return found


def _corrected(comparison: Comparison, pairs: Sequence[Pair]) -> dict[str, float]:
    """P-values beside the best as the recommendation reads them, by method: corrected for the
    number of those that meet the priorities, or of all where none does."""
    advice = comparison.recommendation
    able = [pair for pair in pairs if pair.a not in advice.unmet]
    if advice.best in advice.unmet:
        able = list(pairs)
    values = holm([pair.p_value for pair in able])
    return {pair.a: value for pair, value in zip(able, values, strict=True)}


def _beside(pair: Pair, method: str) -> Pair:
    """The pair as the other method's score minus this one's."""
    if pair.b == method:
        return pair
    return replace(
        pair,
        a=pair.b,
        b=pair.a,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
    )


def _difference(pair: Pair, corrected: float | None) -> dict[str, str]:
    """One line of a table of differences."""
    return {
        "method": pair.a,
        "difference": points(pair.difference),
        "interval": f"{points(pair.low)} to {points(pair.high)}",
        "p_value": p_text(pair.p_value),
        "holm": "" if corrected is None else p_text(corrected),
    }


def _slices(
    entries: Sequence[Entry], slices: Sequence[Mapping[str, SliceScore] | None]
) -> dict[str, Any]:
    """A table of slices: names with their rows, and one line of scores per method."""
    names: dict[str, int] = {}
    for each in slices:
        for name, score in ({} if each is None else each).items():
            names.setdefault(name, score.n)
    lines = [
        (entry.method, [None if each is None else each.get(name) for name in names])
        for entry, each in zip(entries, slices, strict=True)
    ]
    return {"names": names, "lines": lines if names else []}
