"""The race of prompts: counted work, budgets, and the same numbers as judging from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.laws.fitting import base_of, context_of, generation_view, planted_view

from tunewise.adaptation.attach import lower_parts
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import example, label_frequencies, sample_rows
from tunewise.adaptation.race import Contestant, race
from tunewise.adaptation.readout import Readout
from tunewise.model.loop import mean_answer_loss
from tunewise.numerics.calibration import batch_bias, cross_entropy
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.render import Renderer

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
