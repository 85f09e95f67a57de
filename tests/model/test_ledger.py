"""The ledger: what it adds up, and what it refuses."""

from __future__ import annotations

import pytest

from tunewise.errors import BudgetExceededError
from tunewise.model.ledger import Ledger


def test_adds_up() -> None:
    ledger = Ledger(body_parameters=10, head_parameters=100)
    ledger.charge(forward=5, backward=10, head=3)
    ledger.charge(forward=1)
    assert (ledger.forward_tokens, ledger.backward_tokens, ledger.head_passes) == (6, 10, 3)
    assert ledger.spent == 16
    assert ledger.remaining is None
    assert ledger.covers(10**15)
    work = ledger.work()
    # A multiplication and an addition per parameter and pass.
    assert work.as_dict() == {
        "forward_tokens": 6,
        "backward_tokens": 10,
        "flops": 2 * (10 * 16 + 100 * 3),
    }
    assert work.token_passes == 16


def test_covers_to_the_last_pass_and_not_one_more() -> None:
    ledger = Ledger(1, 1, limit=20)
    ledger.charge(forward=8, backward=8)
    assert ledger.remaining == 4
    assert ledger.covers(4)
    assert not ledger.covers(5)
    ledger.charge(forward=4)
    assert ledger.remaining == 0
    assert ledger.covers(0)


def test_refused_work_is_not_booked() -> None:
    ledger = Ledger(1, 1, limit=20)
    ledger.charge(forward=15, head=2)
    with pytest.raises(BudgetExceededError) as caught:
        ledger.charge(forward=3, backward=3, head=1)
    assert (ledger.spent, ledger.head_passes) == (15, 2)
    assert "15 of 20 token passes spent, 6 more asked for" in str(caught.value)


def test_a_limit_of_zero_is_a_limit() -> None:
    ledger = Ledger(1, 1, limit=0)
    assert ledger.remaining == 0
    with pytest.raises(BudgetExceededError):
        ledger.charge(forward=1)


def test_work_is_a_copy() -> None:
    ledger = Ledger(1, 1)
    work = ledger.work()
    ledger.charge(forward=1)
    assert work.forward_tokens == 0
