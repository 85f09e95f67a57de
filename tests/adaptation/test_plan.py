"""How many rows a step has: as many as leave enough steps, and no fewer than keep it busy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.laws.fitting import base_of, fit, planted_view

from tunewise.adaptation.plan import BATCH_SIZES, Candidate, Layout, TrainingPlan, lay_out
from tunewise.errors import BudgetTooSmallError

PLAN = TrainingPlan((Candidate(1e-3),), epochs=1000.0, judgements=1)


def costs_of(row: int) -> Callable[[int], Iterator[int]]:
    return lambda size: itertools.repeat(size * row)


def laid_out(budget: int | None, row: int = 200, plan: TrainingPlan = PLAN) -> Layout:
    return lay_out(plan, costs_of(row), rows=300, remaining=budget, judgement=10, trial_judgement=5)


@pytest.mark.parametrize(
    ("steps_of_16", "batch_size", "steps"),
    [(48, 16, 48), (100, 16, 100), (47, 8, 94), (24, 8, 48), (23, 4, 92), (2, 4, 8)],
)
def test_the_fewer_steps_a_budget_pays_for_the_fewer_rows_has_each(
    steps_of_16: int, batch_size: int, steps: int
) -> None:
    found = laid_out(20 + steps_of_16 * 16 * 200)
    assert (found.batch_size, found.steps) == (batch_size, steps)


@pytest.mark.parametrize(("row", "batch_size"), [(99, 8), (100, 4), (49, 16), (50, 8)])
def test_no_step_is_made_so_small_that_the_processor_waits(row: int, batch_size: int) -> None:
    # Two steps of 16 rows: smaller ones are wanted.
    assert laid_out(20 + 2 * 16 * row, row).batch_size == batch_size


@pytest.mark.parametrize(("shared", "batch_size"), [(800, 8), (900, 16)])
def test_a_long_shared_text_is_not_paid_for_by_more_steps(shared: int, batch_size: int) -> None:
    # Every step pays for it: with 800 a step of 8 rows costs two thirds of one of 16.
    def costs(size: int) -> Iterator[int]:
        return itertools.repeat(shared + 100 * size)

    budget = 20 + 24 * (shared + 1600)
    found = lay_out(PLAN, costs, rows=300, remaining=budget, judgement=10, trial_judgement=5)
    assert found.batch_size == batch_size


def test_a_budget_that_pays_for_no_large_step_may_pay_for_a_small_one() -> None:
    found = laid_out(20 + 4 * 200)
    assert (found.batch_size, found.steps) == (4, 1)
    with pytest.raises(BudgetTooSmallError, match="one optimizer step") as caught:
        laid_out(20 + 4 * 200 - 1)
    # What would do is told of the smallest step.
    assert "at least 820," in caught.value.expected


def test_a_size_that_is_asked_for_is_kept() -> None:
    plan = TrainingPlan((Candidate(1e-3),), batch_sizes=(16,), judgements=1)
    assert laid_out(20 + 3 * 16 * 200, plan=plan).batch_size == 16
    with pytest.raises(BudgetTooSmallError):
        laid_out(20 + 16 * 200 - 1, plan=plan)


def test_few_rows_end_the_steps_and_not_their_size_alone() -> None:
    # Ten passes over 30 rows are 20 steps of 16, 40 of 8 and 80 of 4, whatever is paid for.
    plan = TrainingPlan((Candidate(1e-3),), epochs=10.0, judgements=1)
    found = lay_out(plan, costs_of(200), rows=30, remaining=None, judgement=10, trial_judgement=5)
    assert (found.batch_size, found.steps) == (4, 80)


def test_a_fit_tells_its_size_and_that_size_alone_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunewise.adaptation.plan._SMALLEST_STEP", 1)
    base, view = base_of(), planted_view()
    quick: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 100.0}
    found = fit(base, "soft_prompt", view, limit=9_000, **quick)
    size = found.provenance.notes["batch_size"]
    assert size in BATCH_SIZES[1:]
    again = fit(base, "soft_prompt", view, limit=9_000, batch_size=size, **quick)
    assert again.provenance.notes == found.provenance.notes
    large = fit(base, "soft_prompt", view, limit=9_000, batch_size=16, **quick)
    assert large.provenance.notes["steps"] < found.provenance.notes["steps"]
