"""Where a trained method begins that is given a searched prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.adaptation.samples import assert_same
from tests.laws.fitting import base_of, context_of, counted_positions, fit, planted_view

from tunewise.adaptation import training
from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.checkpoint import save_state
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Verdict
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.store import fingerprint_of
from tunewise.methods import _starts
from tunewise.methods._registry import find_method
from tunewise.methods._starts import EitherStart
from tunewise.model.base import Base
from tunewise.model.forward import has_plain_head, packable
from tunewise.task.prompt import PromptText

VIEW = planted_view(48, 24)
QUICK: dict[str, Any] = {"batch_size": 8, "epochs": 3.0, "learning_rate": 1e-2}
ERRORS = np.linspace(-0.1, 0.1, 24)


def either(context: FitContext, name: str = "soft_prompt", **settings: Any) -> Adaptation:
    method = find_method(name)
    return EitherStart(method).fit(context, method.Settings(**{**QUICK, **settings}))


def another(base: Base) -> Adaptation:
    return fit(base, "zero_shot", VIEW, instruction="Answer.")


def plant(
    monkeypatch: pytest.MonkeyPatch,
    given: float,
    instruction: float,
    verdict: float = 9.0,
    groups: int = 24,
    examples: int = 0,
) -> None:
    """Step 0 of either start has these losses, row by row with the same noise apart from them.

    The rows stand in so many groups, those of like noise in one. Of the given start examples of so
    many positions stand before every row, which has 10.
    """
    rows = tuple(
        replace(row, group=f"text {at * groups // 24}") for at, row in enumerate(VIEW.validation)
    )

    def judged(*_: Any) -> Any:
        def of(loss: float, sign: int) -> Any:
            return SimpleNamespace(
                rows=rows,
                row_cost=10.0,
                standing=examples if sign > 0 else 0,
                losses=lambda: loss + sign * ERRORS,
                verdict=lambda: Verdict(0.0, verdict, Decoding("score")),
            )

        return of(given, 1), of(instruction, -1)

    monkeypatch.setattr(_starts, "_judged", judged)


def test_a_clearly_better_prompt_is_where_it_begins(prompted_base: Base) -> None:
    start = fit(prompted_base, "few_shot", VIEW, demonstrations=2, pick="balanced")
    has_plain_head(prompted_base)
    packable(prompted_base)
    context = context_of(prompted_base, VIEW, start=start)
    with counted_positions(prompted_base) as counts:
        got = either(context, steps=3)
    told = got.provenance.notes["starts"]
    assert told["taken"] == "given"
    assert told["given"] < told["instruction"] - 0.2
    assert "trials" not in told
    by_hand = fit(prompted_base, "soft_prompt", VIEW, start=start, **QUICK, steps=3)
    assert_same(got.parts, by_hand.parts)
    assert got.provenance.start == fingerprint_of(start)
    assert context.ledger.forward_tokens == counts["plain"] + counts["graded"]
    # Both were judged, and that is paid.
    assert context.ledger.spent > by_hand.provenance.work["forward_tokens"]


def test_a_clearly_better_instruction_is_where_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, given=2.0, instruction=1.0)
    base = base_of()
    got = either(context_of(base, VIEW, start=another(base)), steps=3)
    assert got.provenance.notes["starts"] == {
        "given": pytest.approx(2.0),
        "instruction": pytest.approx(1.0),
        "taken": "instruction",
    }
    assert_same(got.parts, fit(base, "soft_prompt", VIEW, **QUICK, steps=3).parts)
    assert got.provenance.start is None


def test_it_never_ends_below_the_start_that_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, given=2.0, instruction=1.0, verdict=0.0)
    base = base_of()
    start = another(base)
    got = either(context_of(base, VIEW, start=start), steps=3)
    assert "did not come up to" in got.provenance.notes["starts"]["taken"]
    assert_same(got.parts, start.parts)
    assert got.provenance.start == fingerprint_of(start)
    assert got.provenance.method == "soft_prompt"


@pytest.mark.parametrize("limit", [None, 60_000])
def test_within_the_noise_a_few_steps_decide(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, given=1.0, instruction=1.01)
    base = base_of()
    start = another(base)
    context = context_of(base, VIEW, start=start, limit=limit)
    got = either(context)
    told = got.provenance.notes["starts"]
    trial = {"batch_size": 8, "learning_rate": 1e-2, "steps": 8, "judgements": 1}
    by_hand = [
        fit(base, "soft_prompt", VIEW, validation_rows=64, start=each, **trial).provenance
        for each in (start, None)
    ]
    losses = [each.notes["validation"][-1]["loss"] for each in by_hand]
    assert [told["trials"]["given"], told["trials"]["instruction"]] == losses
    assert losses[0] != losses[1]
    assert told["taken"] == ("given" if losses[0] <= losses[1] else "instruction")
    assert context.ledger.spent > sum(each.work["forward_tokens"] for each in by_hand)
    assert limit is None or context.ledger.spent <= limit
    # Trials leave no steps in the diary.
    assert len(context.log.losses) == got.provenance.notes["steps"]


@pytest.mark.parametrize(("groups", "tried"), [(24, False), (4, True)])
def test_rows_of_a_group_part_two_starts_no_more_than_one_row(
    groups: int, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahead by 0.08: two errors of 24 rows are 0.05, of four groups 0.13."""
    plant(monkeypatch, given=1.08, instruction=1.0, groups=groups)
    base = base_of()
    got = either(context_of(base, VIEW, start=another(base)), steps=3)
    assert ("trials" in got.provenance.notes["starts"]) == tried


@pytest.mark.parametrize(("given", "taken"), [(1.0, "given"), (1.02, "instruction")])
def test_where_trials_are_too_dear_the_lower_loss_is_taken(
    given: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, given=given, instruction=1.01)
    base = base_of()
    context = context_of(base, VIEW, start=another(base), limit=12_000)
    told = either(context).provenance.notes["starts"]
    assert "trials" not in told
    assert told["taken"] == taken
    assert context.ledger.spent <= 12_000


@pytest.mark.parametrize(
    ("given", "sizes"), [({}, [16, 8]), ({"batch_size": 16}, [16]), ({"steps": 9}, [None])]
)
def test_trials_take_smaller_steps_where_the_fit_may(
    given: dict[str, Any], sizes: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, given=1.0, instruction=1.01)
    base, tried = base_of(), EitherStart._tried
    found: list[int | None] = []

    def counted(*args: Any) -> Any:
        found.append(args[3].batch_size)
        return tried(*args)

    monkeypatch.setattr(EitherStart, "_tried", counted)
    context = context_of(base, VIEW, start=another(base), limit=40_000)
    told = either(context, **{"batch_size": None, **given}).provenance.notes["starts"]
    assert found == sizes
    assert ("trials" in told) == (found[-1] == 8)
    assert context.ledger.spent <= 40_000


def test_a_small_budget_is_for_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 15,000 passes two judgements of 128 rows took what half of the steps would have."""
    view, base = planted_view(48, 128), base_of()
    start = fit(base, "zero_shot", view, instruction="Answer.")
    method = find_method("soft_prompt")

    def judged(limit: int | None) -> tuple[int, int]:
        context = context_of(base, view, start=start, limit=limit)
        plain = replace(context, start=None)
        found = _starts._judged(context, plain, method.Settings())
        assert found is not None
        assert found[0].rows == found[1].rows
        assert all(len(one.scores) == len(one.rows) for one in found)
        return len(found[0].rows), context.ledger.spent

    rows, spent = judged(None)
    assert rows == 128
    # About a tenth is for judging both, but 32 rows at least.
    some, took = judged(5 * spent)
    assert 32 < some < 128
    assert took <= 0.11 * 5 * spent
    assert judged(2 * spent)[0] == 32
    # What is trained is judged on the same rows.
    seen: list[int] = []
    monkeypatch.setattr(EitherStart, "_trials", lambda *a: None)

    def trained(self: Any, context: FitContext, settings: Any) -> Adaptation:
        seen.append(settings.validation_rows)
        return start

    monkeypatch.setattr(type(method), "fit", trained)
    monkeypatch.setattr(_starts, "_below", lambda *a: False)
    EitherStart(method).fit(context_of(base, view, start=start, limit=5 * spent), method.Settings())
    assert seen == [some]


@pytest.mark.parametrize(
    ("examples", "limit", "given", "steps", "taken"),
    [
        (400, 12_000, 0.5, None, "instruction, as few steps"),  # 12 steps of 8 rows, there and back
        (400, 12_000, 1.01, None, "instruction, as few steps"),
        (400, 12_000, 0.5, 2, "given"),  # so many were asked for
        (400, None, 0.5, None, "given"),
        (200, 12_000, 0.5, None, "given"),  # 21
        (19, 2_000, 0.5, None, "given"),  # few as well behind the instruction
    ],
)
def test_behind_examples_that_leave_few_steps_it_does_not_begin(
    examples: int,
    limit: int | None,
    given: float,
    steps: int | None,
    taken: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """24,000 passes paid for 7 steps behind 8 examples: lora had 60.5, and 79.5 without them."""
    plant(monkeypatch, given=given, instruction=1.0, examples=examples)
    base = base_of()
    start, method = another(base), find_method("soft_prompt")
    monkeypatch.setattr(type(method), "fit", lambda self, context, settings: start)
    monkeypatch.setattr(_starts, "_below", lambda *a: False)
    monkeypatch.setattr(EitherStart, "_trials", lambda *a: None)
    context = context_of(base, VIEW, start=start, limit=limit)
    told = either(context, batch_size=None, steps=steps).provenance.notes["starts"]
    assert told["taken"].startswith(taken)


def test_a_search_that_came_home_with_the_instruction_is_not_judged_twice() -> None:
    base = base_of()
    start = fit(base, "zero_shot", VIEW)
    got = either(context_of(base, VIEW, start=start), steps=2)
    assert "starts" not in got.provenance.notes
    assert_same(got, fit(base, "soft_prompt", VIEW, start=start, **QUICK, steps=2))


@pytest.mark.parametrize("start", ["none", "trained"])
def test_without_a_searched_prompt_it_is_the_method(start: str) -> None:
    base = base_of()
    begun = None if start == "none" else fit(base, "lora", VIEW, steps=1, rank=2)
    got = either(context_of(base, VIEW, start=begun), steps=2)
    assert "starts" not in got.provenance.notes
    assert_same(got, fit(base, "soft_prompt", VIEW, start=begun, **QUICK, steps=2))


def test_interrupted_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, given=1.0, instruction=1.01)
    base = base_of()
    start = another(base)
    whole = either(context_of(base, VIEW, start=start, limit=60_000))
    stored: list[Callable[..., None]] = []

    class StopError(Exception):
        """In place of a Ctrl-C."""

    def store_and_die(*args: Any) -> None:
        save_state(*args)
        stored.append(save_state)
        raise StopError

    folder = tmp_path / "state"
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", store_and_die)
        with pytest.raises(StopError):
            either(context_of(base, VIEW, start=start, limit=60_000, checkpoint_folder=folder))
    assert stored
    context = context_of(base, VIEW, start=start, limit=60_000, checkpoint_folder=folder)
    assert fingerprint_of(either(context)) == fingerprint_of(whole)


def test_only_chains_that_train_behind_a_prompt_can_ask_for_it() -> None:
    def asks(name: str) -> bool:
        return "either_start" in find_method(name).Settings.model_fields

    assert asks("prompt_search>lora")
    assert asks("zero_shot>prompt_search>soft_prompt+lora")
    assert not asks("lora>soft_prompt")
    assert not asks("zero_shot>few_shot")


def test_a_chain_begins_at_the_instruction_where_it_is_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, given=2.0, instruction=1.0)
    base = base_of()
    given = {"soft_prompt_steps": 2, "zero_shot_instruction": "Answer."}
    got = fit(base, "zero_shot>soft_prompt", VIEW, **given, either_start=True)
    part = got.part(PromptTextPart)
    assert part is not None
    assert part.prompt == PromptText(VIEW.spec.instruction)
    assert got.provenance.notes["starts"]["taken"] == "instruction"
    usual = fit(base, "zero_shot>soft_prompt", VIEW, **given)
    kept = usual.part(PromptTextPart)
    assert kept is not None
    assert kept.prompt == PromptText("Answer.")
