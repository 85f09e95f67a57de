"""Where is it right and where is it wrong? By label, by length, by domain; and does it know?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._figures import (
    SCORE,
    by_seed,
    failures,
    interval_text,
    mean_score,
    paired_change,
    scores_of,
    seeds_of,
)
from tunewise.measure.records import RowResult
from tunewise.numerics.intervals import Interval, mean_interval
from tunewise.numerics.reliability import calibration_error, reliability_bins
from tunewise.task.metrics import folded, label_set
from tunewise.task.types import Kind, Row, clusters_of

# A slice of fewer rows tells too little for a sentence of its own.
_FEWEST_TOLD = 10
# So much between stated and met is worth a sentence.
_LEAST_TOLD = 0.05
# A text is not simply right or wrong, so that its probability can meet no share.
_RIGHT_OR_WRONG = (Kind.CLASSIFICATION, Kind.MULTI_LABEL, Kind.SHORT_ANSWER)
_NO_PROBABILITY = "its answers carry no probability"
_NOT_RIGHT_OR_WRONG = "an answer of this kind of task is not simply right or wrong"


class AccuracySettings(QuestionSettings):
    """Settings of `accuracy`."""

    runs_model: ClassVar[bool] = False

    length_parts: int = Field(
        3, ge=2, description="parts of equally many rows by length of input, in rows' order of it"
    )


class Accuracy:
    """Read from the answers that the comparison has; nothing is answered again."""

    name = "accuracy"
    title = "Where it is right"
    asks = "on which labels, lengths and domains is it right, and does it know when it is?"
    Settings = AccuracySettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return ""

    def cost(self, context: QuestionContext, settings: AccuracySettings) -> int:
        """Nothing: the rows are answered."""
        return 0

    def measure(self, context: QuestionContext, settings: AccuracySettings) -> Answered:
        """See `Question.measure`."""
        slices = {
            "label": _labels(context),
            "length": _lengths(context, settings.length_parts),
            "domain": _domains(context.test),
        }
        found: list[Measurement] = []
        for name, fits in context.subjects.items():
            seeds = seeds_of(fits)
            results = [fit.record.test for fit in by_seed(fits)]
            metric = f"{context.spec.metric}, mean over rows and seeds"
            whole = clusters_of(context.test)
            found.append(mean_score(SCORE, name, results, metric, seeds=seeds, clusters=whole))
            for kind, parts in slices.items():
                for value, members in parts.items():
                    lines = [[line[index] for index in members] for line in results]
                    how = f"{metric}, of the rows of this {kind}"
                    found.append(
                        mean_score(
                            SCORE, name, lines, how, seeds=seeds, part={kind: value},
                            clusters=clusters_of([context.test[index] for index in members]),
                        )
                    )  # fmt: skip
            found += _knowing(name, fits, context)
        lengths = _picture_of_lengths(context, slices["length"], found)
        return Answered(
            tuple(found),
            _findings(context, slices, found),
            tuple(p for p in (_reliability(context), lengths) if p is not None),
        )


def _labels(context: QuestionContext) -> dict[str, list[int]]:
    """Rows by each label they have; none for tasks without labels."""
    several = context.spec.kind is Kind.MULTI_LABEL
    found = {
        label: [
            index
            for index, row in enumerate(context.test)
            if (folded(label) in label_set(row.output) if several else label == row.output)
        ]
        for label in context.spec.labels
    }
    return {label: members for label, members in found.items() if members}


def _lengths(context: QuestionContext, parts: int) -> dict[str, list[int]]:
    """Rows in parts of equally many, by tokens of the input: "12 to 20 tokens"."""
    counts = _token_counts(context)
    order = np.argsort(counts, kind="stable")
    found: dict[str, list[int]] = {}
    for members in np.array_split(order, min(parts, len(order))):
        own = counts[members]
        found.setdefault(f"{own.min()} to {own.max()} tokens", []).extend(members.tolist())
    return found if len(found) > 1 else {}


def _token_counts(context: QuestionContext) -> Any:
    encode = context.base.tokenizer.encode
    return np.array([len(encode(row.input, add_special_tokens=False)) for row in context.test])


def _domains(rows: Sequence[Row]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.domain is not None:
            found.setdefault(row.domain, []).append(index)
    return found


def _knowing(name: str, fits: Sequence[Subject], context: QuestionContext) -> list[Measurement]:
    """How well the probabilities of the kept fit's answers meet how often they are right."""
    record, kind = fits[0].record, context.spec.kind
    told = _stating(fits[0], kind)
    seeds = (record.seed,)
    if len(told) < 2:
        reason = _NO_PROBABILITY if kind in _RIGHT_OR_WRONG else _NOT_RIGHT_OR_WRONG
        return [
            absent(each, name, SCORE, reason, seeds=seeds)
            for each in ("calibration_error", "overconfidence", "brier_score")
        ]
    stated = np.array([one.probability for one in told], dtype=np.float64).clip(0, 1)
    scores = np.array([one.score for one in told])
    failed = failures([record.test])
    rows = {row.id: row for row in context.test}
    clusters = clusters_of([rows[one.id] for one in told])
    error = calibration_error(stated, scores, clusters=clusters)
    over = paired_change(stated, scores, clusters)
    # (p - s)^2 is 1 - similarity, so that it lies between 0 and 1 like any score.
    brier = mean_interval((stated - scores) ** 2, clusters=clusters)
    figures = (
        (
            "calibration_error",
            error,
            "root mean square distance of stated and met over bins of equally many rows, noise "
            "taken out",
            False,
        ),
        ("overconfidence", over, "mean probability of the answers minus mean score", None),
        ("brier_score", brier, "mean square of probability minus score", False),
    )
    return [
        Measurement(
            each,
            name,
            SCORE,
            found.value,
            len(told),
            f"{how}; of the seed that is kept",
            max(found.low, 0.0) if better is not None else found.low,
            found.high,
            higher_is_better=better,
            n_failed=failed,
            seeds=seeds,
        )
        for each, found, how, better in figures
    ]


def _stating(subject: Subject, kind: Kind) -> list[RowResult]:
    """The answers whose probability can be held against how often they are right."""
    if kind not in _RIGHT_OR_WRONG:
        return []
    return [one for one in subject.record.test if one.probability is not None]


def _findings(
    context: QuestionContext,
    slices: Mapping[str, Mapping[str, Sequence[int]]],
    found: Sequence[Measurement],
) -> tuple[str, ...]:
    overall = {each.about: each for each in found if each.name == SCORE and not each.part}
    best = max(overall.values(), key=lambda each: each.number)
    told = []
    for kind, words in (
        ("label", "rows labelled"),
        ("length", "rows of"),
        ("domain", "the domain"),
    ):
        parts = [
            each
            for each in found
            if each.about == best.about and kind in each.part and each.n >= _FEWEST_TOLD
        ]
        if len(parts) < 2:
            continue
        low = min(parts, key=lambda each: each.number)
        high = max(parts, key=lambda each: each.number)
        # The worst and the best of many differ by chance alone: limits of all of them together.
        level = 1 - 0.05 / len(parts)
        members = slices[kind]
        below = _limits(context, best.about, members[str(low.part[kind])], level)
        above = _limits(context, best.about, members[str(high.part[kind])], level)
        if below.high < above.low:
            told.append(
                f"{best.about} scores {interval_text(low)} on {words} {low.part[kind]} and "
                f"{interval_text(high)} on {words} {high.part[kind]}."
            )
    for each in found:
        if each.name != "overconfidence" or each.value is None or abs(each.value) < _LEAST_TOLD:
            continue
        if each.low is not None and each.high is not None and not each.low <= 0 <= each.high:
            what = "is surer than right" if each.value > 0 else "is right more often than it says"
            told.append(
                f"{each.about} {what}: its mean probability minus its share of right answers is "
                f"{interval_text(each)} points."
            )
    return tuple(told)


def _limits(context: QuestionContext, name: str, members: Sequence[int], level: float) -> Interval:
    """Mean score of an entry on some of the test rows, with limits of this level."""
    lines = [fit.record.test for fit in by_seed(context.subjects[name])]
    scores = scores_of([[line[index] for index in members] for line in lines])
    clusters = clusters_of([context.test[index] for index in members])
    return mean_interval(scores, level=level, clusters=clusters)


def _reliability(context: QuestionContext) -> Picture | None:
    """What is stated against what is met, a line per entry."""
    points = []
    for name, subject in context.chosen().items():
        told = _stating(subject, context.spec.kind)
        if len(told) < 2:
            continue
        stated = np.array([one.probability for one in told], dtype=np.float64).clip(0, 1)
        bins = reliability_bins(stated, [one.score for one in told])
        points += [Point(name, 100 * each.right, at=100 * each.stated) for each in bins]
    if not points:
        return None
    lowest = min(point.at for point in points if point.at is not None)
    ideal = [Point("as stated", at, at=at) for at in (lowest, 100.0)]
    return Picture(
        "Probability stated and score met, bins of equally many rows",
        "lines",
        "mean probability of the answers, points",
        "mean score, points",
        (*ideal, *points),
    )


def _picture_of_lengths(
    context: QuestionContext, lengths: Mapping[str, Sequence[int]], found: Sequence[Measurement]
) -> Picture | None:
    if not lengths:
        return None
    counts = _token_counts(context)
    middle = {value: float(np.median(counts[list(own)])) for value, own in lengths.items()}
    points = [
        Point(
            each.about,
            100 * each.value,
            None if each.low is None else 100 * each.low,
            None if each.high is None else 100 * each.high,
            middle[str(each.part["length"])],
        )
        for each in found
        if "length" in each.part and each.value is not None
    ]
    return Picture(
        "Score by length of input",
        "lines",
        "tokens of the input, median of the part",
        f"test {context.spec.metric}, points",
        tuple(points),
    )


QUESTION = Accuracy()
