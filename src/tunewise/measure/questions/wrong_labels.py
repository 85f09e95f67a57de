"""What do wrong answers in the training rows cost? Fits on rows of which some were spoiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from tunewise.adaptation.judge import sample_rows
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._again import (
    Outcome,
    answering_cost,
    fit_again,
    is_constant,
    named_entries,
    scores_on_test,
)
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._figures import SCORE, by_seed, paired_change
from tunewise.measure.questions._shares import (
    AT_LEAST,
    REASON,
    Chosen,
    by_weight,
    left_out_text,
    share_field,
    within,
)
from tunewise.measure.questions._telling import Figure, figures
from tunewise.numerics.intervals import mean_interval
from tunewise.task.types import FitView, Kind, Row, clusters_of

_FEWEST_ROWS = 20


class WrongLabelsSettings(QuestionSettings):
    """Settings of `wrong_labels`."""

    fits_again: ClassVar[bool] = True

    shares: tuple[float, ...] = Field(
        (0.1, 0.2), min_length=1, description="shares of rows whose answer is spoiled, 0 to 1"
    )
    fits: int = Field(1, ge=1, description="fits for each share, each with a seed of the run")
    rows: int = Field(300, ge=20, description="test rows answered after each fit, at most")
    share: float = share_field(0.15)
    entries: tuple[str, ...] = Field(
        (), description="names of entries; empty: two, and what the share pays for; no constants"
    )


class WrongLabels:
    """Fits again on spoiled rows, at the run's own budget, and answers the same test rows."""

    name = "wrong_labels"
    title = "Wrong labels"
    asks = "how much does each method lose if a tenth or a fifth of its rows is labelled wrongly?"
    Settings = WrongLabelsSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        if len(context.view.train) < _FEWEST_ROWS:
            return f"fewer than {_FEWEST_ROWS} training rows: a tenth of them is too few to spoil"
        if len({row.output for row in context.view.train}) < 2:
            return "all training rows have the same answer"
        return ""

    def cost(self, context: QuestionContext, settings: WrongLabelsSettings) -> int:
        """See `Question.cost`: every fit may spend what a fit of the run may."""
        return _chosen(context, settings).cost

    def measure(self, context: QuestionContext, settings: WrongLabelsSettings) -> Answered:
        """See `Question.measure`."""
        rows = sample_rows(context.test, settings.rows, seed=0)
        chosen = _chosen(context, settings)
        found: list[Measurement] = []
        points: list[Point] = []
        for name in dict.fromkeys(name for name, _ in chosen.kept):
            used = by_seed(context.subjects[name])[: settings.fits]
            clean = scores_on_test(used, rows)
            points.append(_point(name, 0.0, clean, clusters_of(rows)))
            for share in sorted(share for other, share in chosen.kept if other == name):
                outcomes = [_spoiled_fit(context, fit, share, rows) for fit in used]
                found += _figures(name, share, used, clean, outcomes, clusters_of(rows))
                if all(not each.absent for each in outcomes):
                    spoiled = [each.scores for each in outcomes]
                    points.append(_point(name, share, spoiled, clusters_of(rows)))
        for name, share in chosen.left_out:
            found.append(absent("change", name, SCORE, REASON, part={"wrong": share}))
        picture = Picture(
            "Score after fitting on rows of which some are labelled wrongly",
            "lines",
            "rows labelled wrongly, of 100",
            f"test {context.spec.metric}, points",
            tuple(points),
        )
        left_out = [f"{name} at {100 * share:g}%" for name, share in chosen.left_out]
        told = (*_findings(found), *left_out_text(self.name, left_out, settings.share))
        return Answered(tuple(found), told, (picture,))


def spoil(rows: Sequence[Row], share: float, kind: Kind, *, seed: int) -> tuple[Row, ...]:
    """Rows of which a share has another row's answer, one that differs from its own.

    Args:
        rows: to be spoiled.
        share: of the rows, 0 to 1.
        kind: of the task; of single labels every other one is as likely.
        seed: of the choice.
    """
    random = np.random.default_rng([seed, 9])
    chosen = set(random.permutation(len(rows))[: round(share * len(rows))].tolist())
    answers = [row.output for row in rows]
    if kind is Kind.CLASSIFICATION:
        answers = sorted(set(answers))
    found = []
    for index, row in enumerate(rows):
        others = [each for each in answers if each != row.output] if index in chosen else []
        if others:
            other = others[int(random.integers(len(others)))]
            row = replace(row, output=other, references=(other,))
        found.append(row)
    return tuple(found)


def _chosen(context: QuestionContext, settings: WrongLabelsSettings) -> Chosen[tuple[str, float]]:
    """Entries and shares of wrong answers: all of those named, or what the share pays for."""
    entries = named_entries(context, settings.entries, lambda fits: not is_constant(fits[0].record))
    rows = sample_rows(context.test, settings.rows, seed=0)
    each = {}
    for name in by_weight(entries):
        used = by_seed(entries[name])[: settings.fits]
        budget = context.fit_budget if used[0].record.flops else 0
        each[name] = len(used) * (budget + answering_cost(context, used[0], rows))
    # The largest share shows most: it is asked of the first two before any other is.
    shares = sorted(settings.shares, reverse=True)
    first, others = list(each)[:AT_LEAST], list(each)[AT_LEAST:]
    costs = {
        (name, share): each[name] for names in (first, others) for share in shares for name in names
    }
    return within(context, costs, settings.share, everything=bool(settings.entries))


def _spoiled_fit(
    context: QuestionContext, fit: Subject, share: float, rows: Sequence[Row]
) -> Outcome:
    view, seed, kind = context.view, fit.record.seed, context.spec.kind
    # Rows to choose on come from the same hand as those to fit on.
    spoiled = FitView(
        view.spec,
        spoil(view.train, share, kind, seed=seed),
        spoil(view.validation, share, kind, seed=seed + 1),
    )
    key = f"{fit.record.method}, {share:g} wrong, seed {seed}"
    return fit_again(context, fit.record.method, seed, spoiled, rows, key=key)


def _figures(
    name: str,
    share: float,
    used: Sequence[Subject],
    clean: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    outcomes: Sequence[Outcome],
    clusters: Sequence[str] | None,
) -> list[Measurement]:
    seeds = tuple(fit.record.seed for fit in used)
    part = {"wrong": share}
    reason = next((each.absent for each in outcomes if each.absent), "")
    if reason:
        return [
            absent(what, name, SCORE, reason, seeds=seeds, part=part) for what in (SCORE, "change")
        ]
    scores = np.array([each.scores for each in outcomes])
    mean = mean_interval(scores, clusters=clusters)
    change = paired_change(scores, clean, clusters)
    failed = sum(each.failed for each in outcomes)
    how = f"after fitting with {100 * share:g}% of training and validation answers spoiled"
    return [
        Measurement(
            what,
            name,
            SCORE,
            found.value,
            scores.shape[1],
            f"{words} {how}, on clean test rows",
            found.low,
            found.high,
            True,
            failed,
            seeds,
            part=part,
        )
        for what, found, words in (
            (SCORE, mean, "score"),
            ("change", change, "score minus that of the run's own fits of the same seeds,"),
        )
    ]


def _point(name: str, share: float, scores: object, clusters: Sequence[str] | None) -> Point:
    found = mean_interval(np.array(scores, dtype=np.float64), clusters=clusters)
    return Point(name, 100 * found.value, 100 * found.low, 100 * found.high, 100 * share)


def _findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    told = []
    changes = figures(found, "change")
    for share in sorted({float(each.of.part["wrong"]) for each in changes}):
        own = [each for each in changes if each.of.part["wrong"] == share]
        hurt = sorted((each for each in own if each.high < 0), key=lambda each: each.value)
        words = f"With {100 * share:g}% of the answers wrong"
        told += [f"{words}, {each.of.about} loses {_loss(each)} points." for each in hurt]
        safe = [each for each in own if each.high >= 0]
        if safe:
            may = ", ".join(
                f"{each.of.about} may lose up to {100 * max(0.0, -each.low):.1f} points"
                for each in safe
            )
            told.append(f"{words}, no clear loss on {safe[0].of.n:,} test rows: {may}.")
    return tuple(told)


def _loss(change: Figure) -> str:
    """A change for the worse as what is lost, with its limits."""
    lost = Figure(change.of, -change.value, -change.high, -change.low)
    return lost.points()


QUESTION = WrongLabels()
