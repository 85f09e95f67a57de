"""Few-shot prompts where the budget is small: every way to pick and every count gets its look."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.laws.fitting import base_of, context_of, fit, planted_view

from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.parts import PromptTextPart
from tunewise.methods import few_shot
from tunewise.methods.few_shot import _FEWEST_FIRST_ROWS
from tunewise.model.ledger import Ledger
from tunewise.task.prompt import Demonstration, PromptText

VIEW = planted_view(40, 60)


def tried(limit: int | None, **settings: Any) -> dict[str, dict[str, Any]]:
    context = context_of(base_of(), VIEW, limit=limit)
    got = fit(context.base, "few_shot", VIEW, context=context, **settings)
    assert limit is None or context.ledger.spent <= limit
    return {each["candidate"]: each for each in got.provenance.notes["tried"]}


def spent(**settings: Any) -> int:
    context = context_of(base_of(), VIEW)
    fit(context.base, "few_shot", VIEW, context=context, **settings)
    return context.ledger.spent


FREE = spent()


def test_a_large_budget_changes_nothing() -> None:
    assert list(tried(4 * FREE).values()) == list(tried(None).values())


def test_a_small_budget_begins_on_fewer_rows_and_tries_every_kind() -> None:
    """What used to be: the cheap ones on 32 rows each, and no sixteen demonstrations at all."""
    found = tried(FREE * 4 // 5)
    kinds = {name.split(",")[0] for name in tried(None)}
    scored = {name.split(",")[0] for name, each in found.items() if each["rows"]}
    assert scored == kinds
    assert {"random 16", "nearest 16"} <= scored
    assert min(each["rows"] for each in found.values() if each["rows"]) < 32
    assert max(each["rows"] for each in found.values()) >= 32


@pytest.mark.parametrize("share", [2, 3, 5, 8, 12, 20, 40, 100, 1000])
def test_of_ever_smaller_budgets_something_is_made_and_all_is_told(share: int) -> None:
    found = tried(FREE // share)
    assert found.keys() == tried(None).keys()
    for each in found.values():
        assert each["rows"] >= _FEWEST_FIRST_ROWS or each["left_out"] == "budget"


def test_further_draws_come_last() -> None:
    found = tried(FREE // 5)
    assert any(each["rows"] for name, each in found.items() if "draw 0" in name)
    first = sum(bool(each["rows"]) for name, each in found.items() if "draw 0" in name)
    second = sum(bool(each["rows"]) for name, each in found.items() if "draw 1" in name)
    assert first > second


def test_fewer_first_rows_than_the_fewest_are_kept_to() -> None:
    found = tried(FREE // 8, first_rows=4)
    assert min(each["rows"] for each in found.values() if each["rows"]) == 4


@pytest.mark.parametrize("share", [2, 4, 8, 16, 32, 64, 128, 1000])
def test_nothing_is_taken_that_was_not_held_against_the_start(
    share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the start is dearer than what it is raced with."""
    base = base_of()
    shown = tuple(Demonstration(row.input, row.output) for row in VIEW.train[:16])
    dear = PromptTextPart(PromptText("Say yes or no.", shown))
    start = replace(fit(base, "zero_shot", VIEW), parts=(dear,))
    compared: list[tuple[int, int]] = []
    plain = few_shot._not_below_start

    def seen(first: Contestant, winner: Contestant, ledger: Ledger) -> Contestant:
        kept = plain(first, winner, ledger)
        compared.append((len(first.scores), len(winner.scores)))
        return kept

    monkeypatch.setattr(few_shot, "_not_below_start", seen)
    context = context_of(base, VIEW, limit=FREE // share, start=start)
    got = fit(base, "few_shot", VIEW, context=context)
    assert context.ledger.spent <= FREE // share
    if not compared:
        assert got.parts == (dear,)
    for of_start, of_winner in compared:
        assert of_start >= min(of_winner, _FEWEST_FIRST_ROWS) > 0


def test_a_start_is_scored_on_as_many_rows_as_what_is_taken_for_it() -> None:
    base = base_of()
    dear = PromptTextPart(PromptText("Say yes or no."))
    start = replace(fit(base, "zero_shot", VIEW), parts=(dear,))
    context = context_of(base, VIEW, limit=FREE, start=start)
    rows = VIEW.validation
    one, other = (Contestant(context, name, PromptText(name), (), rows) for name in ("a", "b"))
    one.extend(8)
    other.extend(40)
    few_shot._not_below_start(one, other, context.ledger)
    assert len(one.scores) == 40


def test_what_no_number_of_rows_makes_payable_changes_nothing() -> None:
    """Without it all first draws are paid for on 32 rows; with it they still are."""
    context = context_of(base_of(), VIEW, limit=FREE)
    rows = VIEW.validation
    texts = ("one", "other", "huge")
    made = [(0, Contestant(context, text, PromptText(text), (), rows)) for text in texts]
    made[2][1]._prefix_cost = lambda: 10 * FREE  # type: ignore[method-assign]  # planted
    entrants, first = few_shot._entrants(made, 32, context.ledger, started=False)
    assert ([one.name for one in entrants], first) == (["one", "other"], 32)
