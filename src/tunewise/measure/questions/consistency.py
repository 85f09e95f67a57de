"""Is the answer the same each time? Over repeats at a temperature, rewordings, seeds of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.predict import BasePredictor
from tunewise.adaptation.readout import adjusted_scores
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._figures import SCORE, by_seed, interval_text, sampled, seeds_of
from tunewise.measure.questions._noise import contracted, expanded, framed, more_spaces
from tunewise.measure.questions._variants import changed_texts
from tunewise.measure.questions._work import answering_passes
from tunewise.model.decode import drawn_at
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.repeats import agreement, all_right, at_temperature
from tunewise.numerics.spread import deviation_interval
from tunewise.task.score import score_row
from tunewise.task.types import Kind, Row, clusters_of

_REPEATS, _POWER = "repeat_agreement", "all_repeats_right"
_REWORDED, _SEEDS, _DEVIATION = "rewording_agreement", "seed_agreement", "seed_deviation"
# A greeting, short and long forms, spaces: what no reader would take for another question.
_REWORDINGS = (framed, contracted, expanded, more_spaces)
_LEAST_TOLD = 0.02


class ConsistencySettings(QuestionSettings):
    """Settings of `consistency`."""

    rows: int = Field(64, ge=2, description="test rows answered again at most")
    temperature: float = Field(0.7, gt=0, description="temperature of the repeats")
    repeats: int = Field(5, ge=2, description="repeats of a generated answer")
    power: int = Field(3, ge=1, description="answers in a row that must all be right")


class Consistency:
    """Answers again what was answered, and sets the fits' seeds beside each other."""

    name = "consistency"
    title = "Consistency"
    asks = "is the answer the same again: repeated, reworded, or from a fit with another seed?"
    Settings = ConsistencySettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return ""

    def cost(self, context: QuestionContext, settings: ConsistencySettings) -> int:
        """See `Question.cost`."""
        rows = sampled(context.test, settings.rows)
        plain = [row.input for row in rows]
        found = 0
        for subject in context.chosen().values():
            adaptation = subject.load()
            times = 1 if adaptation.decoding.mode == "score" else settings.repeats
            found += times * answering_passes(context.base, adaptation, plain)
            for inputs in _reworded(rows).values():
                found += answering_passes(context.base, adaptation, inputs)
        return found

    def measure(self, context: QuestionContext, settings: ConsistencySettings) -> Answered:
        """See `Question.measure`."""
        rows = sampled(context.test, settings.rows)
        places = {row.id: at for at, row in enumerate(context.test)}
        found: list[Measurement] = []
        for name, fits in context.subjects.items():
            subject = fits[0]

            def make(subject: Subject = subject) -> Mapping[str, Any]:
                return _asked_again(context, settings, subject.load(), rows)

            seen = context.once(name, make)
            plain = [subject.record.test[places[row.id]].answer for row in rows]
            found += _over_repeats(name, subject, seen, settings, context.spec.kind, rows)
            found.append(_over_rewordings(name, subject, rows, plain, seen["reworded"]))
            found += _over_seeds(name, fits, context.test)
        return Answered(tuple(found), _findings(found, settings), (_picture(found),))


def _reworded(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """The inputs under each rewording that changes any of them."""
    inputs = tuple(row.input for row in rows)
    made = {change.__name__: changed_texts(change, inputs, 0) for change in _REWORDINGS}
    return {name: texts for name, texts in made.items() if texts != inputs}


def _asked_again(
    context: QuestionContext,
    settings: ConsistencySettings,
    adaptation: Adaptation,
    rows: Sequence[Row],
) -> dict[str, Any]:
    """Answers to every rewording; of every row how often repeats agree and are right."""
    with context.predictor(adaptation) as predictor:
        reworded = {
            name: [
                one.answer
                for one in context.answered(predictor, adaptation, _with(rows, texts), name).results
            ]
            for name, texts in _reworded(rows).items()
        }
        content: dict[str, Any] = {"reworded": reworded}
        if isinstance(predictor, BasePredictor):
            scored = adaptation.decoding.mode == "score"
            repeat = _drawn_labels if scored else _drawn_texts
            agree, right = repeat(predictor, adaptation, rows, settings)
            content |= {"agree": agree, "right": right}
    return content


def _with(rows: Sequence[Row], texts: Sequence[str]) -> list[Row]:
    return [replace(row, input=text) for row, text in zip(rows, texts, strict=True)]


def _drawn_labels(
    predictor: BasePredictor,
    adaptation: Adaptation,
    rows: Sequence[Row],
    settings: ConsistencySettings,
) -> tuple[list[float], list[float]]:
    """Exact: the labels' probabilities are known, so nothing need be drawn."""
    readout = predictor.readout
    scores = readout.label_scores([row.input for row in rows])
    adjusted = adjusted_scores(scores, readout.renderer, adaptation.decoding)
    probability = at_temperature(adjusted, settings.temperature)
    labels = adaptation.spec.labels
    gold = np.array([[label == row.output for label in labels] for row in rows])
    right = (probability * gold).sum(axis=1)
    agree: list[float] = (probability**2).sum(axis=1).tolist()
    every: list[float] = (right**settings.power).tolist()
    return agree, every


def _drawn_texts(
    predictor: BasePredictor,
    adaptation: Adaptation,
    rows: Sequence[Row],
    settings: ConsistencySettings,
) -> tuple[list[float], list[float]]:
    """Drawn token by token, as many times as was asked for."""
    spec = adaptation.spec
    given: list[list[str | None]] = [[] for _ in rows]
    for repeat in range(settings.repeats):
        draw = drawn_at(settings.temperature, seed=repeat)
        readout = replace(predictor.readout, choose=draw)
        answers = readout.answers([row.input for row in rows], adaptation.decoding)
        for each, answer in zip(given, answers, strict=True):
            each.append(answer.text)
    power = min(settings.power, settings.repeats)
    right = [
        sum(text is not None and score_row(spec.metric, text, row, spec) >= 1.0 for text in texts)
        for texts, row in zip(given, rows, strict=True)
    ]
    return (
        [agreement(texts) for texts in given],
        [all_right(count, settings.repeats, power) for count in right],
    )


def _over_repeats(
    name: str,
    subject: Subject,
    seen: Mapping[str, Any],
    settings: ConsistencySettings,
    kind: Kind,
    rows: Sequence[Row],
) -> list[Measurement]:
    seeds, whole = (subject.record.seed,), clusters_of(rows)
    if "agree" not in seen:
        reason = "it answers without the base model, the same every time"
        return [absent(what, name, SCORE, reason, seeds=seeds) for what in (_REPEATS, _POWER)]
    at = f"at temperature {settings.temperature:g}"
    how = f"chance that two answers to a row agree {at}"
    found = [_mean(_REPEATS, name, seen["agree"], how, seeds, whole)]
    if kind is Kind.GENERATION:
        reason = "an answer of this kind of task is not simply right or wrong"
        return [*found, absent(_POWER, name, SCORE, reason, seeds=seeds)]
    power = min(settings.power, settings.repeats)
    how = f"chance that {power} answers to a row are all right {at} (pass^{power})"
    return [*found, _mean(_POWER, name, seen["right"], how, seeds, whole)]


def _mean(
    what: str,
    name: str,
    values: Sequence[float],
    how: str,
    seeds: tuple[int, ...],
    clusters: Sequence[str] | None,
) -> Measurement:
    found = mean_interval([np.clip(values, 0.0, 1.0)], clusters=clusters)
    return Measurement(
        what, name, SCORE, found.value, len(values), f"{how}; mean over rows", found.low,
        found.high, True, seeds=seeds,
    )  # fmt: skip


def _over_rewordings(
    name: str,
    subject: Subject,
    rows: Sequence[Row],
    plain: Sequence[str | None],
    reworded: Mapping[str, Sequence[str | None]],
) -> Measurement:
    """Only what a rewording changes counts: the same input has the same answer, which says nothing.

    Args:
        name, subject: of the entry.
        rows: that were answered.
        plain: answers to them as they are.
        reworded: answers to them by rewording.
    """
    seeds = (subject.record.seed,)
    if not reworded:
        reason = "no rewording changes any of the rows"
        return absent(_REWORDED, name, SCORE, reason, seeds=seeds)
    kept: dict[str, list[float]] = {}
    failed = 0
    texts = _reworded(rows)
    for which, answers in reworded.items():
        for row, text, one, other in zip(rows, texts[which], plain, answers, strict=True):
            if text != row.input:
                kept.setdefault(row.id, []).append(float(one == other))
                failed += other is None
    by_id = {row.id: row for row in rows}
    whole = clusters_of([by_id[each] for each in kept])
    found = mean_interval([float(np.mean(own)) for own in kept.values()], clusters=whole)
    return Measurement(
        _REWORDED,
        name,
        SCORE,
        found.value,
        len(kept),
        f"share of answers that stay the same under those of {len(reworded)} rewordings that "
        "change the input, mean over rows",
        found.low,
        found.high,
        True,
        failed,
        seeds,
    )


def _over_seeds(name: str, fits: Sequence[Subject], rows: Sequence[Row]) -> list[Measurement]:
    """Agreement of the fits' answers, row by row, and the deviation of their scores."""
    seeds = seeds_of(fits)
    if len(fits) < 2:
        reason = "there is one fit, and it takes two seeds to compare"
        return [absent(what, name, SCORE, reason, seeds=seeds) for what in (_SEEDS, _DEVIATION)]
    lines = [fit.record.test for fit in by_seed(fits)]
    per_row = [agreement([one.answer for one in row]) for row in zip(*lines, strict=True)]
    scores = [float(np.mean([one.score for one in line])) for line in lines]
    deviation, low, high = deviation_interval(scores)
    how = "share of pairs of fits whose answers to a row agree"
    return [
        _mean(_SEEDS, name, per_row, how, seeds, clusters_of(rows)),
        Measurement(
            _DEVIATION,
            name,
            SCORE,
            deviation,
            len(scores),
            "standard deviation of the test score over n fits, interval by chi-square",
            low,
            high,
            False,
            seeds=seeds,
        ),
    ]


def _findings(found: Sequence[Measurement], settings: ConsistencySettings) -> tuple[str, ...]:
    words = {
        _REPEATS: f"repeats at temperature {settings.temperature:g}",
        _REWORDED: "rewordings of the input",
        _SEEDS: "seeds of the fit",
    }
    told = []
    for what, over in words.items():
        own = sorted(
            (each for each in found if each.name == what and each.value is not None),
            key=lambda each: each.number,
        )
        if len(own) < 2:
            continue
        low, high = own[0], own[-1]
        if high.number - low.number < _LEAST_TOLD:
            told.append(
                f"Over {over} all entries agree with themselves alike: {interval_text(low)} to "
                f"{interval_text(high)} points."
            )
        else:
            told.append(
                f"Over {over} {high.about} agrees with itself most, {interval_text(high)}, and "
                f"{low.about} least, {interval_text(low)} points."
            )
    return tuple(told)


def _picture(found: Sequence[Measurement]) -> Picture:
    groups = {_REPEATS: "repeats", _REWORDED: "rewordings", _SEEDS: "seeds"}
    points = [
        Point(each.about, 100 * each.number, 100 * each.low, 100 * each.high, None,
              groups[each.name])
        for each in found
        if each.name in groups and each.low is not None and each.high is not None
    ]  # fmt: skip
    return Picture("Answers that stay the same", "dots", "agreement, points", "", tuple(points))


QUESTION = Consistency()
