"""Which labels look wrong, and what is gained without them? Confident learning.

Every row for fitting and choosing is judged by a fit that has not seen it (cross-validation); rows
whose label such fits contradict with confidence are candidates (Northcutt et al. 2021, by the
package cleanlab), the surest first. Test rows are judged by the run's own fit, which has not seen
them either; they are shown, and never taken away. Then the entry is fitted again without the
candidates.

A candidate is a row where label and model disagree: some are the model's mistakes. So they are
listed for a person to read, and what their removal brings on the test rows is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._again import (
    answering_cost,
    fit_again,
    is_constant,
    named_entries,
    passes_of,
    scores_on_test,
    validation_mean,
)
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._label_noise import Candidate, candidate_table, label_issues
from tunewise.measure.questions._probabilities import label_probabilities
from tunewise.measure.questions._shares import Chosen, share_field, within
from tunewise.measure.questions._subsets import dealt
from tunewise.measure.questions._telling import figures
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.pairs import paired_difference
from tunewise.task.types import FitView, Kind, Row, clusters_of

SHARE, GAIN, AGREES = "label_candidates", "gain_without_candidates", "judge_agrees"
FEWEST_ROWS = 40
# What the data check counted, and what it is.
_COUNTED = {
    "near_duplicates_across": "rows removed before anything was fitted, since they are near a row "
    "of another split",
    "duplicates": "rows dropped because they repeat one of their split",
    "contradictory": "inputs that stand with different answers; kept",
}


class DataQualitySettings(QuestionSettings):
    """Settings of `data_quality`."""

    fits_again: ClassVar[bool] = True

    folds: int = Field(3, ge=2, description="fits of the cross-validation")
    fits: int = Field(
        2, ge=1, description="fits without the candidates, at most one per seed, one in any case"
    )
    share: float = share_field(0.2)
    shown: int = Field(50, ge=1, description="candidates that are listed, at most")
    entry: str | None = Field(
        None, description="entry that judges; unset: the best on validation rows"
    )  # fmt: skip


class DataQuality:
    """Candidates for wrong labels, and what the data check found."""

    name = "data_quality"
    title = "Data quality"
    asks = "which labels look wrong, and what does fitting without them bring?"
    Settings = DataQualitySettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`. What the data check counted can always be told."""
        return ""

    def cost(self, context: QuestionContext, settings: DataQualitySettings) -> int:
        """The cross-validation, its answers, and the fits without the candidates."""
        judge = _judge(context, settings)
        if _reason(context, judge) or judge is None:
            return 0
        return _chosen(context, settings, judge).cost

    def measure(self, context: QuestionContext, settings: DataQualitySettings) -> Answered:
        """See `Question.measure`."""
        found = _counted(context)
        judge = _judge(context, settings)
        reason = _reason(context, judge)
        if reason or judge is None:
            found += [absent(SHARE, "", "share", reason), absent(GAIN, "", "score", reason)]
            return Answered(tuple(found), _check_findings(context))
        candidates, agreed = _candidates(context, settings, judge)
        found += _shares(context, judge, candidates)
        found.append(_agreement(judge, agreed, _rows(context.view)))
        found.append(_gain(context, settings, judge, candidates))
        table = candidate_table(candidates, settings.shown)
        findings = (*_check_findings(context), *_findings(found, candidates))
        return Answered(tuple(found), findings, _pictures(found), (table,))


def _judge(context: QuestionContext, settings: DataQualitySettings) -> tuple[Subject, ...] | None:
    """The fits of the entry that judges, or None where none can.

    Raises:
        UnknownNameError: the entry named is not there.
    """
    names = () if settings.entry is None else (settings.entry,)
    entries = named_entries(context, names, lambda fits: not is_constant(fits[0].record))
    best = max(entries, key=lambda name: validation_mean(entries[name][0].record), default=None)
    return None if best is None else entries[best]


def _reason(context: QuestionContext, judge: Sequence[Subject] | None) -> str:
    """Why labels cannot be judged; "" where they can."""
    if context.spec.kind is not Kind.CLASSIFICATION:
        return f"only single labels are judged, and the task is of kind {context.spec.kind}"
    count = len(_rows(context.view))
    if count < FEWEST_ROWS:
        return f"at least {FEWEST_ROWS} rows are needed to judge each by the others, found {count}"
    if judge is None:
        return "every entry of the run gives one answer to all rows"
    return ""


def _rows(view: FitView) -> tuple[Row, ...]:
    return (*view.train, *view.validation)


def _chosen(
    context: QuestionContext, settings: DataQualitySettings, judge: Sequence[Subject]
) -> Chosen[str]:
    """The cross-validation, and as many fits without the candidates as the share pays for."""
    once, folds = passes_of(judge[0].record), settings.folds
    test = answering_cost(context, judge[0], context.test)
    # A fold is fitted on the others, with their part of a fit's budget. The shared part of a prompt
    # is computed once for each, which answering counts once for all.
    crossed = (folds - 1) * once + answering_cost(context, judge[0], _rows(context.view)) + test
    costs = {"cross-validation": 1.05 * crossed}
    costs |= {f"{subject.name}": float(once + test) for subject in judge[: settings.fits]}
    return within(context, costs, settings.share, everything=False)


def _candidates(
    context: QuestionContext, settings: DataQualitySettings, judge: Sequence[Subject]
) -> tuple[list[Candidate], list[float]]:
    """Candidates of all splits, the surest first; and 1 or 0 for each row for fitting or choosing,
    whether the fit that had not seen it agrees with its label."""
    record, view = judge[0].record, context.view
    fold_of = dealt(_rows(view), settings.folds, record.seed)
    seen: dict[str, list[float]] = {}
    for fold in range(settings.folds):
        out = [row for row in _rows(view) if fold_of[row.id] == fold]
        rest = FitView(
            view.spec,
            tuple(row for row in view.train if fold_of[row.id] != fold),
            tuple(row for row in view.validation if fold_of[row.id] != fold),
        )
        seen |= _judged(context, settings, record.method, record.seed, rest, out, fold)
    chosen = judge[0]

    def own() -> dict[str, Any]:
        adaptation = chosen.load()
        with context.predictor(adaptation) as predictor:
            inputs = [row.input for row in context.test]
            return {"test": label_probabilities(predictor, adaptation, inputs).tolist()}

    test = np.array(context.once("test rows judged", own)["test"])
    fitted = np.array([seen[row.id] for row in _rows(view)])
    splits = {row.id: "train" for row in view.train}
    splits |= {row.id: "validation" for row in view.validation}
    found = [
        *label_issues(_rows(view), fitted, context.spec.labels, splits),
        *label_issues(
            context.test, test, context.spec.labels, {r.id: "test" for r in context.test}
        ),
    ]
    found.sort(key=lambda each: (each.confidence - each.better_confidence, each.row.id))
    answers = [context.spec.labels[int(place)] for place in fitted.argmax(axis=1)]
    pairs = zip(answers, _rows(view), strict=True)
    return found, [float(answer == row.output) for answer, row in pairs]


def _judged(
    context: QuestionContext,
    settings: DataQualitySettings,
    method: str,
    seed: int,
    rest: FitView,
    out: Sequence[Row],
    fold: int,
) -> dict[str, list[float]]:
    """Probabilities of the labels of the rows left out, by row."""
    budget = round(context.fit_budget * (settings.folds - 1) / settings.folds)

    def make() -> dict[str, Any]:
        adaptation = context.refit(method, seed, rest, budget=budget).adaptation
        with context.predictor(adaptation) as predictor:
            inputs = [row.input for row in out]
            found = label_probabilities(predictor, adaptation, inputs)
        return {row.id: each for row, each in zip(out, found.tolist(), strict=True)}

    return context.once(f"fold {fold + 1} of {settings.folds}", make)


def _counted(context: QuestionContext) -> list[Measurement]:
    """What the data check found."""
    rows = sum(context.data_check["rows_before"].values())
    return [
        Measurement(
            what, "", "rows", float(context.data_check[what]["count"]), rows,
            f"data check: {meaning}; n: rows of the source", higher_is_better=False,
        )
        for what, meaning in _COUNTED.items()
    ]  # fmt: skip


def _shares(
    context: QuestionContext, judge: Sequence[Subject], candidates: Sequence[Candidate]
) -> list[Measurement]:
    """Share of candidates by split."""
    record = judge[0].record
    splits = {
        "train": context.view.train,
        "validation": context.view.validation,
        "test": context.test,
    }
    found = []
    for split, rows in splits.items():
        wrong = {each.row.id for each in candidates if each.split == split}
        share = mean_interval([float(r.id in wrong) for r in rows], clusters=clusters_of(rows))
        by = "the run's own fit" if split == "test" else "fits that had not seen the row"
        found.append(
            Measurement(
                SHARE, record.method, "share", share.value, len(rows),
                f"rows whose label {by} contradicted with confidence (cleanlab); some are the "
                "model's own mistakes", share.low, share.high, higher_is_better=False,
                seeds=(record.seed,), part={"split": split},
            )
        )  # fmt: skip
    return found


def _agreement(
    judge: Sequence[Subject], agreed: Sequence[float], rows: Sequence[Row]
) -> Measurement:
    """How often the judge agrees with labels it has not seen: its own limit."""
    share = mean_interval([list(agreed)], clusters=clusters_of(rows))
    record = judge[0].record
    return Measurement(
        AGREES, record.method, "share", share.value, len(agreed),
        "rows for fitting and choosing whose label a fit that had not seen them gives too",
        share.low, share.high, higher_is_better=True, seeds=(record.seed,),
    )  # fmt: skip


def _gain(
    context: QuestionContext,
    settings: DataQualitySettings,
    judge: Sequence[Subject],
    candidates: Sequence[Candidate],
) -> Measurement:
    """What fitting without the candidates brings on the test rows."""
    name = judge[0].record.method
    gone = {each.row.id for each in candidates if each.split != "test"}
    if not gone:
        return absent(GAIN, name, "score", "no row for fitting or choosing is a candidate")
    view = FitView(
        context.spec,
        tuple(row for row in context.view.train if row.id not in gone),
        tuple(row for row in context.view.validation if row.id not in gone),
    )
    fits = judge[: len(_chosen(context, settings, judge).kept) - 1]
    outcomes = [
        fit_again(
            context, name, fit.record.seed, view, context.test,
            key=f"{name} without candidates, seed {fit.record.seed}",
        )
        for fit in fits
    ]  # fmt: skip
    for outcome in outcomes:
        if outcome.absent:
            return absent(GAIN, name, "score", outcome.absent)
    ordered = sorted(zip(fits, outcomes, strict=True), key=lambda pair: pair[0].record.seed)
    without = np.array([outcome.scores for _, outcome in ordered])
    present = scores_on_test(fits, context.test)
    change = paired_difference(without, present, clusters=clusters_of(context.test))
    return Measurement(
        GAIN, name, "score", change.difference, len(context.test),
        f"score of fits without the {len(gone)} candidates minus that of the run's fits of the "
        "same seeds, on the same test rows, their own candidates included; same budget",
        change.low, change.high, higher_is_better=True,
        seeds=tuple(fit.record.seed for fit, _ in ordered),
        n_failed=sum(outcome.failed for outcome in outcomes), part={"rows_removed": len(gone)},
    )  # fmt: skip


def _check_findings(context: QuestionContext) -> tuple[str, ...]:
    told, check = [], context.data_check
    count = check["near_duplicates_across"]["count"]
    if count:
        examples = check["near_duplicates_across"]["examples"]
        told.append(
            "Near-duplicates of rows of another split, removed before anything was fitted: "
            f"{count}, for example {examples[0]}."
        )
    count = check["contradictory"]["count"]
    if count:
        told.append(f"Inputs that stand with different answers: {count}.")
    return tuple(told)


def _findings(found: Sequence[Measurement], candidates: Sequence[Candidate]) -> tuple[str, ...]:
    told = []
    for each in figures(found, SHARE):
        if each.of.part["split"] == "train":
            count = sum(one.split == "train" for one in candidates)
            told.append(
                f"{count} of {each.of.n} training labels look wrong to {each.of.about}: of 100 "
                f"rows {each.points()}. Some are its own mistakes; the surest are listed."
            )
    told += [
        f"{each.of.about} agrees with {each.points()} of 100 labels it has not seen: the lower "
        "that is, the more of the candidates are its own mistakes."
        for each in figures(found, AGREES)
    ]
    for each in figures(found, GAIN):
        outcome = "cannot be told from noise"
        if each.low > 0:
            outcome = "is a gain: correct these labels, or leave the rows out"
        elif each.high < 0:
            outcome = "is a loss: keep the rows"
        told.append(
            f"Fitting {each.of.about} without them changes its score by {each.points()} points, "
            f"which {outcome}."
        )
    return tuple(told)


def _pictures(found: Sequence[Measurement]) -> tuple[Picture, ...]:
    points = tuple(
        Point(str(each.of.part["split"]), each.value, each.low, each.high).in_points()
        for each in figures(found, SHARE)
    )
    return (Picture("Labels that look wrong", "dots", "of 100 rows", "", points),)


QUESTION = DataQuality()
