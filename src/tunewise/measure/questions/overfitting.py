"""Has it learned the task or the rows? Train minus test, and rows known by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from pydantic import Field

from tunewise.adaptation.parts import ShallowModelPart
from tunewise.adaptation.predict import BasePredictor, needs_base
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, TextTable, absent
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._figures import SCORE, failures, interval_text, sampled, scores_of
from tunewise.measure.questions._recall import begin_rows, recalled
from tunewise.measure.questions._work import answering_passes
from tunewise.measure.records import RowResult
from tunewise.numerics.intervals import Interval, mean_interval
from tunewise.numerics.unpaired import difference_of
from tunewise.task.metrics import folded
from tunewise.task.render import Renderer
from tunewise.task.types import Row, clusters_of

_FEWEST = 10
# A gap of so much is worth a sentence.
_LEAST_TOLD = 0.03
_SHORT = f"fewer than {_FEWEST} training or test rows are long enough to be cut in two"
_NO_BASE = "it answers without the base model"
_MOST_SHOWN = 10


class OverfittingSettings(QuestionSettings):
    """Settings of `overfitting`."""

    train_rows: int = Field(96, ge=2, description="training rows that are answered at most")
    begun_rows: int = Field(
        48, ge=0, description="training rows, and as many test rows, that are begun; 0 for none"
    )
    next_tokens: int = Field(
        8, ge=1, description="tokens in a row that must be the row's own to count as by heart"
    )


class Overfitting:
    """Answers rows that were fitted on, and begins some of them."""

    name = "overfitting"
    title = "Overfitting"
    asks = "is it better on the rows it was fitted on, and does it know them by heart?"
    Settings = OverfittingSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return ""

    def cost(self, context: QuestionContext, settings: OverfittingSettings) -> int:
        """See `Question.cost`."""
        rows = sampled(context.view.train, settings.train_rows)
        begun = _begun(context, settings)
        found = 0
        for subject in context.chosen().values():
            adaptation = subject.load()
            found += answering_passes(context.base, adaptation, [row.input for row in rows])
            if needs_base(adaptation):
                for prompt, part in product(adaptation.prompts, begun):
                    renderer = Renderer(context.base.tokenizer, adaptation.spec, prompt)
                    cut = begin_rows(renderer, part, tokens=settings.next_tokens)
                    # Decoding pads on the left, and padding counts.
                    longest = max((len(each.given) for each in cut), default=0)
                    found += len(cut) * (longest + settings.next_tokens)
        return found

    def measure(self, context: QuestionContext, settings: OverfittingSettings) -> Answered:
        """See `Question.measure`."""
        some = sampled(context.view.train, settings.train_rows)
        found: list[Measurement] = []
        shown: list[tuple[str, str, str]] = []
        for name, subject in context.chosen().items():
            # What calls no model answers all of them at no price: of few rows, those that happen to
            # have the most frequent answer look like something that was learned.
            calls_base = ShallowModelPart.kind not in subject.record.parts
            rows = some if calls_base else context.view.train

            def make(subject: Subject = subject, rows: Sequence[Row] = rows) -> Mapping[str, Any]:
                return _looked(context, settings, subject, rows)

            which = "rows" if calls_base else "all rows"
            seen = context.once(f"{name} on {which} it was fitted on", make)
            train = [RowResult(**each) for each in seen["train"]]
            found += _gap(name, subject, train, rows, context.test)
            found += _heart(name, subject, seen, (context.view.train, context.test))
            if not context.spec.labels:
                found.append(_answers_by_heart(name, subject, train, rows, context.test))
            found.append(_rise(name, subject))
            shown += [(name, *texts) for texts in seen["texts"]]
        columns = ("entry", "it was given", "it went on, word for word")
        table = TextTable("Training rows known by heart", columns, tuple(shown[:_MOST_SHOWN]))
        return Answered(
            tuple(found),
            _findings(found),
            (_picture(found),),
            (table,) if shown else (),
        )


def _begun(
    context: QuestionContext, settings: OverfittingSettings
) -> tuple[Sequence[Row], Sequence[Row]]:
    """Training and test rows to be begun: the longest, which most can be asked of."""
    if not settings.begun_rows:
        return (), ()
    parts = []
    for rows in (context.view.train, context.test):
        # Training rows are far more, so that their longest would be longer than the tests'.
        some = sampled(rows, 4 * settings.begun_rows)
        long = sorted(some, key=lambda row: -len(row.input))[: settings.begun_rows]
        parts.append(long)
    return parts[0], parts[1]


def _looked(
    context: QuestionContext, settings: OverfittingSettings, subject: Subject, rows: Sequence[Row]
) -> dict[str, Any]:
    adaptation = subject.load()
    train_rows, test_rows = _begun(context, settings)
    with context.predictor(adaptation) as predictor:
        train = context.answered(predictor, adaptation, rows, subject.name).results
        content: dict[str, Any] = {"train": [asdict(each) for each in train], "texts": []}
        if isinstance(predictor, BasePredictor):
            decode = predictor.readout.renderer.decode
            for which, part in (("train", train_rows), ("test", test_rows)):
                known = recalled(predictor, part, tokens=settings.next_tokens)
                content[f"{which}_by_heart"] = {each.row.id: float(yes) for each, yes in known}
                if which == "train":
                    content["texts"] = [
                        [decode(each.given[-40:]), decode(each.next)] for each, yes in known if yes
                    ][:_MOST_SHOWN]
    return content


def _gap(
    name: str,
    subject: Subject,
    train: Sequence[RowResult],
    rows: Sequence[Row],
    test: Sequence[Row],
) -> list[Measurement]:
    """The score on rows that were fitted on, and how much higher it is than on test rows."""
    record = subject.record
    seeds = (record.seed,)
    fitted = mean_interval(scores_of([train]), clusters=clusters_of(rows))
    held = mean_interval(scores_of([record.test]), clusters=clusters_of(test))
    gap = difference_of(fitted, held)
    failed = failures([train])
    return [
        Measurement(
            "train_score",
            name,
            SCORE,
            fitted.value,
            len(train),
            "on training rows: a seeded sample, all where no model is called",
            fitted.low,
            fitted.high,
            True,
            failed,
            seeds,
        ),
        Measurement(
            "train_test_gap",
            name,
            SCORE,
            gap.value,
            len(train) + len(record.test),
            "score on training rows minus score on test rows, both of the kept seed; the two "
            "intervals joined (Zou & Donner 2008)",
            gap.low,
            gap.high,
            False,
            failed + failures([record.test]),
            seeds,
        ),
    ]


def _heart(
    name: str,
    subject: Subject,
    seen: Mapping[str, Any],
    splits: tuple[Sequence[Row], Sequence[Row]],
) -> list[Measurement]:
    train, test = seen.get("train_by_heart"), seen.get("test_by_heart")
    seeds = (subject.record.seed,)
    what = "inputs_by_heart"
    if train is None or test is None:
        return [absent(what, name, SCORE, _NO_BASE, seeds=seeds)]
    if min(len(train), len(test)) < _FEWEST:
        return [absent(what, name, SCORE, _SHORT, seeds=seeds, n=min(len(train), len(test)))]
    begun = [
        [row for row in rows if row.id in own]
        for rows, own in zip(splits, (train, test), strict=True)
    ]
    fitted, held = (
        ([own[row.id] for row in rows], rows)
        for rows, own in zip(begun, (train, test), strict=True)
    )
    return [_more_in_train(what, name, fitted, held, seeds, "inputs that go on word for word")]


def _answers_by_heart(
    name: str,
    subject: Subject,
    train: Sequence[RowResult],
    rows: Sequence[Row],
    test: Sequence[Row],
) -> Measurement:
    """For answers that are texts: how many more of the fitted ones are given word for word."""
    fitted = [float(_exact(one, row)) for one, row in zip(train, rows, strict=True)]
    held = [float(_exact(one, row)) for one, row in zip(subject.record.test, test, strict=True)]
    seeds = (subject.record.seed,)
    what = "answers given word for word"
    return _more_in_train("answers_by_heart", name, (fitted, rows), (held, test), seeds, what)


def _exact(result: RowResult, row: Row) -> bool:
    return result.answer is not None and folded(result.answer) == folded(row.output)


def _more_in_train(
    what: str,
    name: str,
    train: tuple[Sequence[float], Sequence[Row]],
    test: tuple[Sequence[float], Sequence[Row]],
    seeds: tuple[int, ...],
    words: str,
) -> Measurement:
    """Of numbers and the rows they are of: the mean in training minus that in test."""
    shares = (mean_interval([own], clusters=clusters_of(rows)) for own, rows in (train, test))
    more: Interval = difference_of(*shares)
    return Measurement(
        what,
        name,
        SCORE,
        more.value,
        len(train[0]) + len(test[0]),
        f"share of training rows' {words}, minus that of test rows",
        more.low,
        more.high,
        False,
        seeds=seeds,
    )


def _rise(name: str, subject: Subject) -> Measurement:
    """How far the validation loss rose again before the fit ended."""
    seeds = (subject.record.seed,)
    points = [p["validation_loss"] for p in subject.record.curve if "validation_loss" in p]
    what, unit = "validation_rise", "nats"
    if len(points) < 2:
        reason = "the fit left no curve of validation losses"
        return absent(what, name, unit, reason, seeds=seeds, n=len(points))
    return Measurement(
        what,
        name,
        unit,
        points[-1] - min(points),
        len(points),
        "validation loss at the last judged step minus the lowest; the lowest is what is kept",
        higher_is_better=False,
        seeds=seeds,
    )


def _findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    told = []
    for each in found:
        if each.value is None or each.low is None:
            continue
        if each.name == "train_test_gap" and each.low > 0 and each.value >= _LEAST_TOLD:
            told.append(
                f"{each.about} scores {interval_text(each)} points more on rows it was fitted on "
                "than on test rows."
            )
        if each.name in ("inputs_by_heart", "answers_by_heart") and each.low > 0:
            part = "inputs" if each.name == "inputs_by_heart" else "answers"
            told.append(
                f"{each.about} knows training rows by heart: {interval_text(each)} points more "
                f"{part} word for word than of test rows."
            )
    gaps = [each for each in found if each.name == "train_test_gap"]
    if gaps and not told:
        told.append(
            f"No entry is clearly better on the rows it was fitted on ({gaps[0].n} rows in all)."
        )
    return tuple(told)


def _picture(found: Sequence[Measurement]) -> Picture:
    points = [
        Point(each.about, 100 * each.number, 100 * each.low, 100 * each.high)
        for each in found
        if each.name == "train_test_gap" and each.low is not None and each.high is not None
    ]
    return Picture(
        "Score on training rows minus score on test rows", "dots", "points", "", tuple(points)
    )


QUESTION = Overfitting()
