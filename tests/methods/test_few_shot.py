"""Few-shot prompts where the budget is small: every way to pick and every count gets its look."""

from __future__ import annotations

from typing import Any

import pytest
from tests.laws.fitting import base_of, context_of, fit, planted_view

from tunewise.methods.few_shot import _FEWEST_FIRST_ROWS

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
    found = tried(FREE // 2)
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
