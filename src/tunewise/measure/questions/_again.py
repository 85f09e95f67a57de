"""Fitting again on other rows, and answering with what was found: one piece of work, stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewise.adaptation.bundle import Adaptation
from tunewise.errors import BudgetTooSmallError, InputError, UnknownNameError
from tunewise.measure.evidence import Measurement
from tunewise.measure.questions._contract import QuestionContext, Subject
from tunewise.measure.questions._work import answering_passes
from tunewise.measure.records import FitRecord, RowResult
from tunewise.task.types import FitView, Row

Floats = NDArray[np.float64]
_LEAST_SHARE = 0.125


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fit on other rows answered.

    Attributes:
        scores: of the rows asked, in their order; empty where it could not be fitted.
        failed: rows that could not be answered.
        token_passes: of the fit.
        seconds: wall-clock of the fit.
        absent: why there are no scores; "" where there are.
    """

    scores: tuple[float, ...]
    failed: int = 0
    token_passes: int = 0
    seconds: float = 0.0
    absent: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "scores": list(self.scores),
            "failed": self.failed,
            "token_passes": self.token_passes,
            "seconds": self.seconds,
            "absent": self.absent,
        }


def outcome_from(content: dict[str, Any]) -> Outcome:
    """An outcome from its JSON values."""
    return Outcome(**content | {"scores": tuple(content["scores"])})


def answered_again(
    context: QuestionContext, adaptation: Adaptation, rows: Sequence[Row], text: str
) -> tuple[tuple[float, ...], int]:
    """Scores of rows and how many failed, on the question's ledger."""
    with context.predictor(adaptation) as predictor:
        results = context.answered(predictor, adaptation, rows, text).results
    return tuple(one.score for one in results), sum(one.answer is None for one in results)


def fit_again(
    context: QuestionContext,
    method: str,
    seed: int,
    view: FitView,
    rows: Sequence[Row],
    *,
    budget: int | None = None,
    key: str,
) -> Outcome:
    """Fit on other rows and answer; done once, even if the run is killed and goes on.

    A budget or rows that do not suffice for the method are an outcome, not an error.

    Args:
        context: of the question.
        method, seed, view, budget: see `Refit`.
        rows: to answer.
        key: names the piece.
    """

    def make() -> dict[str, Any]:
        try:
            found = context.refit(method, seed, view, budget=budget)
        except (BudgetTooSmallError, InputError) as error:
            return Outcome((), absent=reason_of(error)).as_dict()
        scores, failed = answered_again(context, found.adaptation, rows, key)
        return Outcome(scores, failed, found.token_passes, found.seconds).as_dict()

    return outcome_from(context.once(key, make))


def reason_of(error: InputError | BudgetTooSmallError) -> str:
    """An error in one line."""
    return "; ".join(text for text in (error.what, error.found) if text)


def validation_mean(record: FitRecord) -> float:
    """Mean score on the validation rows."""
    return float(np.mean([each.score for each in record.validation]))


def scores_on_test(fits: Sequence[Subject], rows: Sequence[Row]) -> Floats:
    """(S, n) scores of an entry's fits on some of the test rows, by seed.

    Args:
        fits: of one entry.
        rows: n of the run's test rows.
    """
    ordered = sorted(fits, key=lambda fit: fit.record.seed)
    return np.array([[one.score for one in results_on(fit.record, rows)] for fit in ordered])


def began_elsewhere(context: QuestionContext, found: Sequence[Measurement]) -> tuple[str, ...]:
    """The sentence that tells which fits of the run began where a fit again does not; or none.

    A climb begins at the prompt that it found. Finding one again for every fit would cost as much
    again, and handing out the run's own would let it know rows that were held back.

    Args:
        context: of the question.
        found: what was measured.
    """
    told = {each.about for each in found if each.value is not None}
    began: dict[str, list[str]] = {}
    for name, fits in context.subjects.items():
        starts = {_began_at(fit.record) for fit in fits} - {""}
        if name in told and starts:
            began.setdefault(" and ".join(sorted(starts)), []).append(name)
    return tuple(
        f"In the run {', '.join(names)} began at what {start} had found; fitted again here they "
        "begin at the plain instruction, so part of a difference from the run's fit may be that."
        for start, names in began.items()
    )


def _began_at(record: FitRecord) -> str:
    """The method whose prompt a fit was trained from; "" for the plain instruction."""
    taken = str(record.notes.get("starts", {}).get("taken", ""))
    began = record.notes.get("began_at")
    return "" if began is None or taken.startswith("instruction") else str(began)


def results_on(record: FitRecord, rows: Sequence[Row]) -> list[RowResult]:
    """What a fit of the run answered to some of the test rows, in their order."""
    results = {one.id: one for one in record.test}
    return [results[row.id] for row in rows]


def passes_of(record: FitRecord) -> int:
    """Token passes of a fit of the run."""
    return record.forward_tokens + record.backward_tokens


def answering_cost(context: QuestionContext, subject: Subject, rows: Sequence[Row]) -> int:
    """Token passes of answering rows with what a fit like this finds."""
    return answering_passes(context.base, subject.load(), [row.input for row in rows])


def is_constant(record: FitRecord) -> bool:
    """Whether every row was given the same answer."""
    return len({each.answer for each in record.test}) <= 1


def named_entries(
    context: QuestionContext, names: Sequence[str], keep: Callable[[Sequence[Subject]], bool]
) -> dict[str, tuple[Subject, ...]]:
    """The entries of these names; where none is named, those that `keep` wants.

    Raises:
        UnknownNameError: there is no such entry.
    """
    for name in names:
        if name not in context.subjects:
            raise UnknownNameError("entry", name, context.subjects)
    return {
        name: tuple(fits)
        for name, fits in context.subjects.items()
        if name in names or (not names and keep(fits))
    }


def share_of(context: QuestionContext, added: int) -> float:
    """Of a fit's budget, for going on with so many new rows: theirs, but at least an eighth."""
    return max(_LEAST_SHARE, added / len(context.view.train))


def fit_in_turns(
    context: QuestionContext,
    subject: Subject,
    views: Sequence[tuple[str, FitView, float]],
    rows: Sequence[Row],
) -> list[Outcome]:
    """Fit on the first view, then go on from what that found on each of the others.

    Args:
        context: of the question.
        subject: whose method and seed.
        views: name, rows, share of a fit's budget.
        rows: to answer after every fit.
    """
    record = subject.record
    names = ", ".join(name for name, _, _ in views)

    def make() -> dict[str, Any]:
        outcomes: list[Outcome] = []
        begun: Adaptation | None = None
        for name, view, share in views:
            try:
                budget = round(share * context.fit_budget)
                found = context.refit(record.method, record.seed, view, budget=budget, start=begun)
            except (BudgetTooSmallError, InputError) as error:
                outcomes.append(Outcome((), absent=f"{name}: {reason_of(error)}"))
                if begun is None:
                    outcomes += [outcomes[0]] * (len(views) - 1)
                    break
                continue
            if begun is None:
                begun = found.adaptation
            # Answers are among all labels of the task, the one to come included.
            scores, failed = answered_again(context, found.adaptation, rows, name)
            outcomes.append(Outcome(scores, failed, found.token_passes, found.seconds))
        return {"outcomes": [outcome.as_dict() for outcome in outcomes]}

    stored = context.once(f"{record.method}: {names}", make)
    return [outcome_from(each) for each in stored["outcomes"]]
