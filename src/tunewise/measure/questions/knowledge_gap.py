"""Does the base know the task's words and facts, and does that tell where prompts stop helping?

With nothing attached to it the base is asked how surprised it is, in bits: by the task's texts, by
the task's own words (alone and in their texts, beside ordinary words), and by the answers, with the
row before them and without. The bits that the row takes off the answer's surprise are what the base
can read out of the row as it is (pointwise V-information, Ethayarajh et al. 2022, with the plain
instruction in the place of fine-tuning). A label's surprise is that among the labels, calibrated to
their frequencies, which are what it is without the row: how the base would rather word its answer
is another matter. Whether rows with few such bits are those that the best
prompt gets wrong, and that training gets right, is an area under a ROC curve: 0.5 says it tells
nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunewise.adaptation.judge import sample_rows
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._again import validation_mean
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._surprise import Surprise
from tunewise.measure.questions._task_words import (
    Term,
    alone_examples,
    terms_of,
    text_examples,
    word_figures,
)
from tunewise.measure.questions._telling import figures
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.ranking import area_under_curve
from tunewise.numerics.spread import student_interval
from tunewise.task.types import Kind, Row, clusters_of

INFORMATION = "answer_information"
_PARTS = 3  # equal parts of the rows by what the base can read out of them
_RIGHT = 0.5


class KnowledgeGapSettings(QuestionSettings):
    """Settings of `knowledge_gap`."""

    rows: int = Field(300, ge=10, description="test rows, at most")
    terms: int = Field(30, ge=1, description="words of either sort, at most")
    occurrences: int = Field(3, ge=1, description="places in the texts at which a word is asked")


class KnowledgeGap:
    """Surprise of the untouched base."""

    name = "knowledge_gap"
    title = "Knowledge gap"
    asks = "does the base know the task's words and facts, and does that tell where prompts fail?"
    Settings = KnowledgeGapSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return ""

    def cost(self, context: QuestionContext, settings: KnowledgeGapSettings) -> int:
        """Every text, answer and word once, as it will be asked."""
        surprise = Surprise.of(context.base, context.spec)
        rows = _rows(context, settings)
        pieces = [([surprise.text(row.input) for row in rows], False)]
        labels = 0
        if _labelled(context):
            labels = surprise.label_positions(_fitting(surprise, rows))
        else:
            pieces += [
                ([surprise.answer(row, with_row=way) for row in rows], True)
                for way in (True, False)
            ]
        texts = [row.input for row in context.view.train]
        for terms in _terms(context, settings):
            pieces += [
                (alone_examples(surprise, terms), False),
                (text_examples(surprise, terms, texts), False),
            ]
        return labels + sum(
            surprise.positions([each for each in examples if each is not None], prompted=prompted)
            for examples, prompted in pieces
        )

    def measure(self, context: QuestionContext, settings: KnowledgeGapSettings) -> Answered:
        """See `Question.measure`."""
        surprise = Surprise.of(context.base, context.spec)
        rows = _rows(context, settings)
        found, tables = word_figures(context, surprise, _terms(context, settings))
        read = context.once("texts and answers", lambda: _read(context, surprise, rows))
        found += _texts(read, rows, labelled=_labelled(context))
        found += _predictions(context, rows, read)
        pictures = _pictures(context, rows, read)
        return Answered(tuple(found), _findings(found), pictures, tables)


def _rows(context: QuestionContext, settings: KnowledgeGapSettings) -> tuple[Row, ...]:
    return sample_rows(context.test, settings.rows, seed=0)


def _terms(
    context: QuestionContext, settings: KnowledgeGapSettings
) -> tuple[list[Term], list[Term]]:
    texts = [row.input for row in context.view.train]
    return terms_of(context.base, texts, most=settings.terms, occurrences=settings.occurrences)


def _labelled(context: QuestionContext) -> bool:
    return context.spec.kind is Kind.CLASSIFICATION


def _fitting(surprise: Surprise, rows: Sequence[Row]) -> list[Row]:
    """Rows whose answer fits the context behind them."""
    return [row for row in rows if surprise.answer(row, with_row=True) is not None]


def _read(context: QuestionContext, surprise: Surprise, rows: Sequence[Row]) -> dict[str, Any]:
    """Bits of every row's text and answer, and what they count; None where it does not fit."""
    texts = [surprise.text(row.input) for row in rows]
    read: dict[str, Any] = {
        "text": surprise.bits_where(texts, context.ledger, prompted=False),
        "text_tokens": [0 if each is None else len(each.answer) for each in texts],
    }
    if _labelled(context):
        return read | _read_labels(context, surprise, rows)
    for name, way in (("with", True), ("without", False)):
        asked = [surprise.answer(row, with_row=way) for row in rows]
        read[name] = surprise.bits_where(asked, context.ledger, prompted=True)
        read[f"{name}_tokens"] = [0 if each is None else len(each.answer) for each in asked]
    return read


def _read_labels(
    context: QuestionContext, surprise: Surprise, rows: Sequence[Row]
) -> dict[str, Any]:
    labels = context.spec.labels
    counts = Counter(row.output for row in context.view.train)
    # One more of each, so that a label without a training row is rare, not impossible.
    total = len(context.view.train) + len(labels)
    shares = {label: (counts[label] + 1) / total for label in labels}
    kept = _fitting(surprise, rows)
    told = surprise.label_bits(kept, [shares[label] for label in labels], context.ledger)
    shown = {row.id: bits for row, bits in zip(kept, told, strict=True)}
    return {
        "with": [shown.get(row.id) for row in rows],
        "without": [-math.log2(shares[row.output]) for row in rows],
        "with_tokens": [1] * len(rows),
        "without_tokens": [1] * len(rows),
    }


def _texts(read: Mapping[str, Any], rows: Sequence[Row], *, labelled: bool) -> list[Measurement]:
    """Surprise of texts and answers, and what the row tells of its answer."""
    found = []
    for name, what, part in (
        ("text", "text_surprise", {}),
        ("with", "answer_surprise", {"row": "shown"}),
        ("without", "answer_surprise", {"row": "hidden"}),
    ):
        rates = [
            None if bits is None else bits / tokens
            for bits, tokens in zip(read[name], read[f"{name}_tokens"], strict=True)
        ]
        how = "of the untouched base, mean over rows"
        unit = "bits" if labelled and name != "text" else "bits_per_token"
        found.append(_mean((what, unit, how), rates, rows, part, better=False))
    told = information(read)
    how = "bits that the row takes off the answer's surprise, plain instruction, mean over rows"
    found.append(_mean((INFORMATION, "bits", how), told, rows, {}, better=True))
    return found


def _mean(
    figure: tuple[str, str, str],
    every: Sequence[float | None],
    rows: Sequence[Row],
    part: Mapping[str, str],
    *,
    better: bool,
) -> Measurement:
    """The mean over the rows that have a value.

    Args:
        figure: name, unit and how.
        every: (n,) of the rows.
        rows: n of them.
        part, better: of the measurement.
    """
    name, unit, how = figure
    values = [value for value in every if value is not None]
    if not values:
        return absent(name, "", unit, "no row fits the base's context", part=part)
    kept = [row for row, value in zip(rows, every, strict=True) if value is not None]
    mean, low, high = student_interval(values, clusters=clusters_of(kept))
    return Measurement(
        name, "", unit, mean, len(values), how, low, high, higher_is_better=better, part=part
    )


def information(read: Mapping[str, Any]) -> list[float | None]:
    """Bits that each row takes off its answer's surprise; None where one is missing."""
    return [
        None if shown is None or hidden is None else hidden - shown
        for shown, hidden in zip(read["with"], read["without"], strict=True)
    ]


def _best(context: QuestionContext, *, prompt: bool) -> Subject | None:
    """Of the entries that are a prompt only, or of those that are trained, the best one."""
    fits = [
        subject
        for subject in context.chosen().values()
        if (subject.record.parts == ("prompt_text",)) is prompt
        and "shallow_model" not in subject.record.parts
    ]
    return max(fits, key=lambda each: validation_mean(each.record), default=None)


def _right(subject: Subject, rows: Sequence[Row]) -> list[bool]:
    scores = {one.id: one.score for one in subject.record.test}
    return [scores[row.id] >= _RIGHT for row in rows]


def _predictions(
    context: QuestionContext, rows: Sequence[Row], read: Mapping[str, Any]
) -> list[Measurement]:
    """Whether little information goes with the prompt's mistakes, and with training's gains."""
    prompt, trained = _best(context, prompt=True), _best(context, prompt=False)
    told = information(read)
    kept = [index for index, bits in enumerate(told) if bits is not None]
    lacking = np.array([-bits for bits in told if bits is not None])
    whole = clusters_of([rows[index] for index in kept])
    found = []
    for name, other in (("mistakes_foretold", None), ("gains_foretold", trained)):
        if prompt is None or (name == "gains_foretold" and other is None):
            which = "a prompt alone" if prompt is None else "trained"
            reason = f"no entry of the run is {which}"
            found.append(absent(name, "", "area_under_curve", reason))
            continue
        marked = ~np.array(_right(prompt, rows))[kept]
        about, beside = prompt.record.method, ""
        how = "chance that a row the prompt gets wrong tells the base less than one it gets right"
        if other is not None:
            marked &= np.array(_right(other, rows))[kept]
            beside = other.record.method
            how = "chance that a row only training gets right tells the base less than any other"
        if marked.all() or not marked.any():
            reason = f"{int(marked.sum())} of {len(marked)} rows are of that sort"
            found.append(absent(name, about, "area_under_curve", reason, beside=beside))
            continue
        area = area_under_curve(lacking[marked], lacking[~marked], clusters=_apart(whole, marked))
        found.append(
            Measurement(
                name, about, "area_under_curve", area.value, len(marked),
                f"{how}; 0.5 foretells nothing", area.low, area.high, beside=beside,
                seeds=(prompt.record.seed,),
            )
        )  # fmt: skip
    return found


def _apart(
    clusters: Sequence[str] | None, marked: NDArray[np.bool_]
) -> tuple[NDArray[np.str_], NDArray[np.str_]] | None:
    """The clusters of the marked rows, and those of the others."""
    if clusters is None:
        return None
    named = np.array(clusters)
    return named[marked], named[~marked]


def _pictures(
    context: QuestionContext, rows: Sequence[Row], read: Mapping[str, Any]
) -> tuple[Picture, ...]:
    """Scores of the best prompt and of the best trained entry by what the base can read."""
    told = information(read)
    order = [
        index
        for _, index in sorted((bits, index) for index, bits in enumerate(told) if bits is not None)
    ]
    points = []
    for subject in (_best(context, prompt=True), _best(context, prompt=False)):
        if subject is None or len(order) < _PARTS:
            continue
        scores = {one.id: one.score for one in subject.record.test}
        for part in np.array_split(np.array(order), _PARTS):
            own = [rows[int(index)] for index in part]
            interval = mean_interval([[scores[row.id] for row in own]], clusters=clusters_of(own))
            middle = float(np.mean([told[int(index)] for index in part]))
            points.append(
                Point(
                    subject.record.method, interval.value, interval.low, interval.high, middle
                ).in_points()
            )
    if not points:
        return ()
    title = "Score by how much the base can read out of the row"
    x = "bits that the row takes off the answer's surprise"
    return (Picture(title, "lines", x, "score on test rows, points", tuple(points)),)


def _findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    told = []
    for each in figures(found, INFORMATION):
        limits = f"{each.value:.2f} bits ({each.low:.2f} to {each.high:.2f})"
        if each.high <= 0:
            told.append(f"As it is, the base reads nothing of the answer out of a row: {limits}.")
        elif each.value < 0:
            told.append(f"Whether the base reads anything out of a row is not told: {limits}.")
        else:
            told.append(f"Reading a row makes its answer {limits} less surprising to the base.")
    words = {
        (each.of.part["words"], each.of.part["where"]): each
        for each in figures(found, "word_surprise")
    }
    own, ordinary = words.get(("own", "in text")), words.get(("ordinary", "in text"))
    if own is not None and ordinary is not None:
        told.append(
            f"The task's own words surprise it by {own.value:.2f} bits a character in their texts, "
            f"ordinary ones by {ordinary.value:.2f}."
        )
    for name, what in (
        ("mistakes_foretold", "which rows {about} gets wrong"),
        ("gains_foretold", "which rows only {beside} gets right beside {about}"),
    ):
        for each in figures(found, name):
            which = what.format(about=each.of.about, beside=each.of.beside)
            area = f"area {each.value:.2f} ({each.low:.2f} to {each.high:.2f})"
            verdict = "does not foretell" if each.low <= 0.5 <= each.high else "foretells"
            if each.high < 0.5:
                verdict = "foretells, the other way round,"
            told.append(f"What the base can read out of a row {verdict} {which}: {area}.")
    return tuple(told)


QUESTION = KnowledgeGap()
