"""A label that comes later: held back whole when fitting, then shown in some rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewise.adaptation.judge import sample_rows
from tunewise.measure.evidence import Measurement, absent
from tunewise.measure.questions._again import Outcome, fit_in_turns, results_on, share_of
from tunewise.measure.questions._contract import QuestionContext, Subject
from tunewise.measure.questions._subsets import nested_order
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.pairs import paired_difference
from tunewise.task.types import FitView, Kind, Row, clusters_of

FEWEST_OF_LABEL = 8


def new_label(context: QuestionContext, named: str | None) -> str:
    """The label that plays the new one, of middling frequency unless named; "" where none can."""
    if named is not None:
        return named
    counts = Counter(row.output for row in context.view.train)
    usable = [label for label in context.spec.labels if not why_no_label(context, label)]
    ordered = sorted(usable, key=lambda label: (counts[label], label))
    return ordered[len(ordered) // 2] if ordered else ""


def why_no_label(context: QuestionContext, label: str) -> str:
    """Why this label cannot play the new one; "" where it can."""
    labels = context.spec.labels
    if context.spec.kind is not Kind.CLASSIFICATION:
        return f"the task has no single labels (kind {context.spec.kind})"
    if len(labels) < 3:
        return f"of {len(labels)} labels none can be held back"
    if label == "":
        return f"no label has {FEWEST_OF_LABEL} rows for fitting and for testing"
    if label not in labels:
        return f"the task has no label {label!r}"
    splits = (context.view.train, context.test)
    counts = [sum(row.output == label for row in rows) for rows in splits]
    if min(counts) < FEWEST_OF_LABEL:
        return f"{label!r} has {counts[0]} rows for fitting and {counts[1]} for testing"
    if all(row.output == label for row in context.view.validation):
        return f"without {label!r} no row is left to choose on"
    return ""


def rows_with(context: QuestionContext, label: str, most: int) -> tuple[Row, ...]:
    """Test rows to answer: a third of them of the label, where it has so many.

    Args:
        context: of the question.
        label: that is new.
        most: rows at most.
    """
    own = [row for row in context.test if row.output == label]
    others = [row for row in context.test if row.output != label]
    kept = sample_rows(own, max(1, most // 3), seed=0)
    return (*kept, *sample_rows(others, most - len(kept), seed=0))


def with_label(
    context: QuestionContext, subject: Subject, label: str, most: int, rows: Sequence[Row]
) -> list[Measurement]:
    """What going on with some rows of a label that was never seen gives.

    Args:
        context: of the question.
        subject: whose method and seed.
        label: that is held back.
        most: rows of it that come, at most.
        rows: test rows, some of the label and some of others; see `rows_with`.
    """
    view, seed, name = context.view, subject.record.seed, subject.record.method
    train = tuple(row for row in view.train if row.output != label)
    known = replace(view.spec, labels=tuple(each for each in view.spec.labels if each != label))
    old = FitView(known, train, tuple(row for row in view.validation if row.output != label))
    arrived = [row for row in view.train if row.output == label]
    arrived = list(nested_order(arrived, seed, by_label=False))[:most]
    new = replace(view, train=(*train, *arrived))
    share = share_of(context, len(arrived))
    before, after = fit_in_turns(
        context, subject, [(f"without {label}", old, 1.0), (f"{label} shown", new, share)], rows
    )
    part: dict[str, str | int] = {"label": label, "added": len(arrived)}
    for outcome in (before, after):
        if outcome.absent:
            return [absent("new_label_score", name, "score", outcome.absent, part=part)]
    of_label = np.array([row.output == label for row in rows])
    then, now = np.array(before.scores), np.array(after.scores)
    own, others = (
        clusters_of([row for row, mark in zip(rows, marked, strict=True) if mark])
        for marked in (of_label, ~of_label)
    )
    told = mean_interval([now[of_label]], clusters=own)
    change = paired_difference(now[~of_label], then[~of_label], clusters=others)
    anew = mean_interval([_own(subject, rows, of_label)], clusters=own)
    common: dict[str, Any] = {"seeds": (seed,), "part": part}
    return [
        Measurement(
            "new_label_score", name, "score", told.value, int(of_label.sum()),
            f"on test rows of the label, gone on with {len(arrived)} rows of it and "
            f"{100 * share:.0f}% of a fit's budget; the instruction is the same before and after",
            told.low, told.high, higher_is_better=True, **common,
        ),
        Measurement(
            "new_label_score_anew", name, "score", anew.value, int(of_label.sum()),
            "on test rows of the label, the run's own fit, which had all rows of it",
            anew.low, anew.high, higher_is_better=True, **common,
        ),
        Measurement(
            "change_of_others", name, "score", change.difference, int((~of_label).sum()),
            "on test rows of other labels, after minus before the label came",
            change.low, change.high, higher_is_better=True, **common,
        ),
        *_took(name, after, common),
    ]  # fmt: skip


def _took(name: str, after: Outcome, common: Mapping[str, Any]) -> list[Measurement]:
    how = "of going on with the rows of the label; n: fits"
    costs = {"token_passes": float(after.token_passes), "seconds": after.seconds}
    return [
        Measurement(
            f"new_label_{what}", name, what, value, 1, how, higher_is_better=False, **common
        )
        for what, value in costs.items()
    ]


def _own(subject: Subject, rows: Sequence[Row], marked: NDArray[np.bool_]) -> list[float]:
    pairs = zip(results_on(subject.record, rows), marked, strict=True)
    return [one.score for one, mark in pairs if mark]
