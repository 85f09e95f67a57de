"""The race of prompts: counted work, budgets, and the same numbers as judging from scratch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.laws.fitting import base_of, context_of, generation_view, planted_view

from tunewise.adaptation.attach import lower_parts
from tunewise.adaptation.contestant import SHARED_PRICE, Contestant
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import example, label_frequencies, sample_rows
from tunewise.adaptation.race import affordable, race
from tunewise.adaptation.readout import Readout
from tunewise.model.answers import mean_answer_loss
from tunewise.numerics.calibration import batch_bias, cross_entropy
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import FitView

WORDS = ("Answer.", "Say yes or no.", "Is it so?", "Label the row, please.", "Yes?")


def entered(
    context: FitContext, words: tuple[str, ...] = WORDS, most: int = 64
) -> list[Contestant]:
    rows = sample_rows(context.view.validation, most, seed=0, shuffled=True)
    return [Contestant(context, text, PromptText(text), (), rows) for text in words]


@pytest.mark.parametrize("kind", ["labels", "text"])
def test_scoring_in_pieces_is_scoring_at_once(kind: str) -> None:
    view = planted_view() if kind == "labels" else generation_view()
    context = context_of(base_of(), view)
    (one,) = entered(context, WORDS[:1])
    for until in (2, 3, len(one.examples)):
        before, cost = context.ledger.spent, one.cost(until)
        one.extend(until)
        assert context.ledger.spent - before == cost
        assert len(one.losses()) == until
    renderer = Renderer(context.base.tokenizer, view.spec, one.prompt)
    prefix = lower_parts(context.base, renderer, ())
    rows = sample_rows(view.validation, 64, seed=0, shuffled=True)
    if kind == "text":
        examples = [example(renderer, row) for row in rows]
        wanted = mean_answer_loss(context.base, prefix, examples, context.ledger)
        assert one.verdict().loss == pytest.approx(wanted, rel=1e-5)
    else:
        readout = Readout(context.base, renderer, prefix, context.ledger)
        scores = readout.label_scores([row.input for row in rows])
        gold = np.array([view.spec.labels.index(row.output) for row in rows])
        bias = batch_bias(scores, np.array(label_frequencies(view)))
        assert one.losses().mean() == pytest.approx(cross_entropy(scores + bias, gold), rel=1e-5)


def test_half_go_on_and_the_last_have_seen_all_rows() -> None:
    context = context_of(base_of(), planted_view())
    contestants = entered(context)
    rows = len(contestants[0].examples)
    outcome = race(contestants, first=2, ledger=context.ledger)
    assert outcome.winner is not None
    assert len(outcome.winner.scores) == rows
    seen = sorted(told["rows"] for told in outcome.tried)
    assert [told["candidate"] for told in outcome.tried] == list(WORDS)
    assert seen[0] == 2
    assert sum(count > 2 for count in seen) <= 3
    assert sum(count > 4 for count in seen) <= 2
    assert not any("left_out" in told for told in outcome.tried)


def test_the_same_race_twice() -> None:
    def tried() -> tuple[dict[str, Any], ...]:
        context = context_of(base_of(), planted_view())
        return race(entered(context), first=4, ledger=context.ledger).tried

    assert tried() == tried()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.8, 1.0])
def test_a_budget_is_kept_and_what_it_left_out_is_said(share: float) -> None:
    whole = context_of(base_of(), planted_view())
    race(entered(whole), first=4, ledger=whole.ledger)
    limit = round(share * whole.ledger.spent)
    context = context_of(base_of(), planted_view(), limit=limit)
    outcome = race(entered(context), first=4, ledger=context.ledger)
    assert context.ledger.spent <= limit
    left_out = [told for told in outcome.tried if told.get("left_out") == "budget"]
    assert bool(left_out) == (share < 1.0)
    assert (outcome.winner is None) == all(told["rows"] == 0 for told in outcome.tried)


def test_a_prompt_longer_than_the_context_is_left_out() -> None:
    context = context_of(base_of(), planted_view())
    rows = sample_rows(context.view.validation, 8, seed=0, shuffled=True)
    shown = tuple(Demonstration("word " * 300, "yes") for _ in range(10))
    long = Contestant(context, "long", PromptText("x", demonstrations=shown), (), rows)
    short = Contestant(context, "short", PromptText("x"), (), rows)
    outcome = race([long, short], first=4, ledger=context.ledger)
    assert outcome.winner is short
    assert outcome.tried[0] == {
        "candidate": "long",
        "rows": 0,
        "left_out": "longer than the context",
    }
    assert race([], first=4, ledger=context.ledger).winner is None


def test_what_was_scored_enters_the_next_race_for_nothing_and_is_never_dropped() -> None:
    context = context_of(base_of(), planted_view())
    contestants = entered(context)
    known = contestants[0]
    known.extend(12)
    before = context.ledger.spent
    assert known.cost(5) == known.cost(12) == 0
    known.extend(5)
    assert (context.ledger.spent, len(known.scores)) == (before, 12)
    outcome = race(contestants, first=2, ledger=context.ledger)
    assert known in outcome.standing
    assert len({len(one.scores) for one in outcome.standing}) == 1
    losses = [one.losses(12).mean() for one in outcome.standing]
    assert losses == sorted(losses)


def test_losses_and_verdicts_of_the_first_rows_are_those_of_a_shorter_race() -> None:
    context = context_of(base_of(), planted_view())
    (long, _), (short, _) = entered(context, WORDS[:2]), entered(context, WORDS[:2])
    long.extend(12)
    short.extend(5)
    np.testing.assert_allclose(long.losses(5), short.losses(), rtol=1e-4)
    one, other = long.verdict(5), short.verdict()
    assert (one.metric, one.loss) == (other.metric, pytest.approx(other.loss, rel=1e-4))


@pytest.mark.parametrize(("most", "enough", "rows", "left"), [(6, 0, 6, None), (12, 2, 8, 2)])
def test_a_race_ends_at_so_many_rows_or_so_few_contestants(
    most: int, enough: int, rows: int, left: int | None
) -> None:
    context = context_of(base_of(), planted_view())
    contestants = entered(context)
    outcome = race(contestants, first=2, ledger=context.ledger, most=most, enough=enough)
    assert max(len(one.scores) for one in contestants) <= rows
    assert left is None or len(outcome.standing) <= left
    assert outcome.winner in outcome.standing


def test_a_race_leaves_what_it_is_told_to_leave() -> None:
    whole = context_of(base_of(), planted_view())
    race(entered(whole), first=4, ledger=whole.ledger)
    limit = whole.ledger.spent
    for reserve in (0, limit // 3, limit):
        context = context_of(base_of(), planted_view(), limit=limit)
        outcome = race(entered(context), first=4, ledger=context.ledger, reserve=reserve)
        assert context.ledger.spent <= limit - reserve
        assert (outcome.winner is None) == (reserve == limit)


def test_no_leader_is_left_behind_for_want_of_budget() -> None:
    """The best of the first turn is the dearest, and the second turn cannot be paid for it."""
    view = planted_view()
    free = context_of(base_of(), view)
    contestants = entered(free)
    race(contestants, first=4, ledger=free.ledger, most=4)
    best = min(contestants, key=lambda one: float(one.losses().mean()))
    limit = free.ledger.spent + best.cost(8) - 1
    context = context_of(base_of(), view, limit=limit)
    again = entered(context)
    outcome = race(again, first=4, ledger=context.ledger)
    # Nobody was scored further, so all stand on the same four rows.
    assert {len(one.scores) for one in again} == {4}
    assert outcome.standing[0].name == best.name
    assert len(outcome.standing) == len(WORDS)


def test_who_is_admitted_can_be_paid_to_the_end() -> None:
    context = context_of(base_of(), planted_view())
    contestants = entered(context)
    # Half of them go on to 6 rows, and half of those to 12.
    costs = [
        math.ceil((one.cost(3) + one.cost(6)) / 2 + (one.cost(12) - one.cost(6)) / 4)
        for one in contestants
    ]
    told = {"first": 3, "most": 12}
    assert affordable(contestants, room=sum(costs), **told) == (contestants, [])
    less = affordable(contestants, room=sum(costs) - 1, **told)
    assert less == (contestants[:-1], contestants[-1:])
    assert affordable(contestants, room=-5, **told) == ([], contestants)
    contestants[2].extend(3)
    assert affordable(contestants, room=0, **told)[0] == [contestants[2]]


@pytest.mark.parametrize(("first", "most"), [(3, 12), (2, 12), (12, 12), (5, 12)])
def test_a_race_costs_what_its_entrants_were_admitted_for(first: int, most: int) -> None:
    """Eight alike, paid for in full: what they shared is computed once, as is every row."""
    context = context_of(base_of(), planted_view())
    words = tuple(f"Number {number}." for number in range(8))
    asked = context_of(base_of(), planted_view())
    room = next(
        room
        for room in range(10, 100_000, 10)
        if len(affordable(entered(asked, words), first=first, most=most, room=room)[0]) == 8
    )
    race(entered(context, words), first=first, ledger=context.ledger, most=most)
    # Whoever has clearly lost leaves before its half does.
    assert 0.7 * room < context.ledger.spent <= room


def test_after_some_that_are_too_dear_no_more_are_built() -> None:
    context = context_of(base_of(), planted_view())
    built = iter(entered(context, tuple(f"Number {number}." for number in range(20))))
    admitted, passed_over = affordable(built, first=3, most=12, room=0)
    assert (admitted, len(passed_over)) == ([], 6)
    assert len(list(built)) == 14


def test_shared_positions_count_a_little_and_rows_in_full() -> None:
    context = context_of(base_of(), planted_view())
    rows = context.view.validation
    shown = tuple(Demonstration(row.input, row.output) for row in context.view.train[:8])
    bare = Contestant(context, "bare", PromptText("x"), (), rows)
    shared = Contestant(context, "shared", PromptText("x", demonstrations=shown), (), rows)
    nearest = Contestant(context, "nearest", PromptText("x", pool=shown, nearest=4), (), rows)
    assert bare.price < shared.price < nearest.price
    wanted = shared.row_cost + SHARED_PRICE * len(shared.renderer.shared_tokens)
    assert shared.price == pytest.approx(wanted, rel=0.05)


def test_how_far_the_budget_reaches() -> None:
    free = context_of(base_of(), planted_view())
    (one,) = entered(free, WORDS[:1])
    costs = [one.cost(until) for until in range(13)]
    for limit, reached in (
        (costs[12], 12),
        (costs[12] - 1, 11),
        (costs[4], 4),
        (costs[4] - 1, None),
    ):
        context = context_of(base_of(), planted_view(), limit=limit)
        (same,) = entered(context, WORDS[:1])
        assert same.reach(4) == reached


class Planted(Contestant):
    """Has lost what it is told, row by row; every row costs one token pass."""

    planted: list[float]

    def cost(self, until: int) -> int:
        return max(0, until - len(self.scores))

    def extend(self, until: int) -> None:
        self.scores = self.planted[: max(until, len(self.scores))]


def planted_race(view: FitView, losses: np.ndarray, first: int) -> tuple[str, list[str]]:
    """Who wins and who stands at the end, where candidates have these losses (C, n).

    The later ones are the dearer ones.
    """
    context = context_of(base_of(), view)
    contestants = []
    for at, planted in enumerate(losses):
        text = PromptText("word " * 20 * at)
        one = Planted(context, f"c{at}", text, (), view.validation)
        one.planted = planted.tolist()
        contestants.append(one)
    outcome = race(contestants, first=first, ledger=context.ledger)
    assert outcome.winner is not None
    return outcome.winner.name, [one.name for one in outcome.standing]


def test_rows_of_a_group_are_one_unit_of_the_race() -> None:
    """Each row four times in one group: the race ends as on the rows themselves."""
    random = np.random.default_rng(0)
    single = generation_view(validation=16)
    rows = [
        replace(row, id=f"{row.id}-{copy}", group=f"of {row.id}")
        for row in single.validation
        for copy in range(4)
    ]
    copies = replace(single, validation=tuple(rows))
    alone = replace(single, validation=tuple(replace(row, group=None) for row in rows))
    other_winners = other_standing = 0
    for _ in range(12):
        losses = random.normal(size=(8, 16)) - 0.02 * np.arange(8)[:, None]
        wanted = planted_race(single, losses, first=8)
        fourfold = np.repeat(losses, 4, axis=1)
        assert planted_race(copies, fourfold, first=32) == wanted
        # Taken for independent ones, some lose clearly who do not.
        winner, standing = planted_race(alone, fourfold, first=32)
        assert set(standing) <= set(wanted[1])
        other_winners += winner != wanted[0]
        other_standing += standing != wanted[1]
    assert other_winners >= 1
    assert other_standing >= 3
