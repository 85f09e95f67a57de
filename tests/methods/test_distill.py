"""A prefix distilled from demonstrations: their effect, at the price of the bare instruction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.laws.fitting import (
    base_of,
    context_of,
    counted_positions,
    fit,
    generation_view,
    plain_logits,
    planted_rows,
    planted_view,
)

from tunewise.adaptation.attach import standing_positions
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.adaptation.teacher import taught_examples
from tunewise.errors import BudgetTooSmallError, ConfigError, DataError
from tunewise.model.base import Base
from tunewise.model.forward import has_plain_head, packable
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import FitView

UNSEEN = [row.input for row in planted_rows(60, seed=99, prefix="x")]


def expected(base: Base, adaptation: Adaptation) -> tuple[np.ndarray, int]:
    """(n,) what parts the labels on unseen rows, in nats about its mean; positions before a row."""
    with predictor_for(base, adaptation) as predictor:
        assert isinstance(predictor, BasePredictor)
        scores = predictor.readout.label_scores(UNSEEN)
        before = standing_positions(predictor.readout.renderer, adaptation.parts)
    # What a label's further letters cost is the same for all rows; the base never learned them.
    odds = scores[:, 1] - scores[:, 0]
    return odds - odds.mean(), before


def test_it_expects_what_its_teacher_does_at_the_price_of_the_instruction(
    prompted_base: Base,
) -> None:
    view = planted_view(48, 24)
    got = fit(prompted_base, "prefix", view, steps=160, learning_rate=3e-2, distill=2)
    told = got.provenance.notes["teacher"]
    assert (told["demonstrations"], told["rows"]) == (2, 46)
    teacher = fit(prompted_base, "few_shot", view, demonstrations=2, pick="balanced", draws=1)
    plain = fit(prompted_base, "zero_shot", view)
    (wanted, dear), (without, cheap), (found, cost) = (
        expected(prompted_base, each) for each in (teacher, plain, got)
    )
    spread = np.abs(wanted).mean()
    assert np.abs(found - wanted).mean() < 0.3 * spread
    assert np.abs(without - wanted).mean() > 0.6 * spread
    assert cost == cheap < dear


def test_step_0_is_the_instruction() -> None:
    base, view = base_of(), planted_view()
    got = fit(base, "prefix", view, steps=1, learning_rate=1e-20, batch_size=4, distill=4)
    plain = fit(base, "zero_shot", view)
    np.testing.assert_allclose(expected(base, got)[0], expected(base, plain)[0], atol=1e-4)


@pytest.mark.parametrize("view", [planted_view(), generation_view()], ids=["labels", "text"])
def test_what_is_taught_is_the_softmax_of_the_demonstrated_prompt(view: FitView) -> None:
    """Against a full pass over every row with the whole prompt before it."""
    base, count = base_of(), 3
    context = context_of(base, view)
    student = Renderer(base.tokenizer, view.spec, PromptText(view.spec.instruction))
    examples, _ = taught_examples(context, student, context.starting_parts(), count)
    assert len(examples) == len(view.train) - count
    rows = {student.row_tokens(row.input) + student.answer_tokens(row.output) for row in view.train}
    assert {each.row + each.answer for each in examples} <= rows
    # What the teacher was shown is what the student is not asked.
    asked = {each.row for each in examples}
    told = [row for row in view.train if student.row_tokens(row.input) not in asked]
    assert len(told) == count
    found = []
    for order in orders(told):
        prompt = PromptText(view.spec.instruction, demonstrations=order)
        before = Renderer(base.tokenizer, view.spec, prompt).shared_tokens
        each = examples[0]
        assert each.taught is not None
        with torch.no_grad():
            logits = plain_logits(base, before + each.row + each.answer)
        begin = len(before + each.row) - 1
        probabilities = logits[begin : begin + len(each.answer)].softmax(-1)
        top = probabilities.gather(1, each.taught.tokens)
        found.append(
            float((top / top.sum(1, keepdim=True) - each.taught.probabilities).abs().max())
        )
        assert each.taught.tokens.shape == (len(each.answer), 64)
    assert min(found) < 1e-5


def orders(rows: Any) -> Any:
    import itertools

    from tunewise.adaptation.demonstrations import shown

    return [shown(order) for order in itertools.permutations(rows)]


def test_the_teacher_is_in_the_ledger() -> None:
    base, view = base_of(), planted_view()
    has_plain_head(base)
    packable(base)
    context = context_of(base, view, limit=40_000)
    with counted_positions(base) as counts:
        got = fit(base, "prefix", view, context=context, distill=4, batch_size=8)
    ledger = context.ledger
    assert ledger.forward_tokens == counts["plain"] + counts["graded"]
    assert ledger.backward_tokens == counts["graded"]
    assert 0 < got.provenance.notes["teacher"]["token_passes"] <= 10_000
    assert ledger.spent <= 40_000
    plain = fit(base, "prefix", view, limit=40_000, batch_size=8)
    assert plain.provenance.notes["steps"] >= got.provenance.notes["steps"]


def test_a_short_budget_asks_the_teacher_about_fewer_rows() -> None:
    base, view = base_of(), planted_view()
    rows = []
    for limit in (1_500, 1_900, 10**6):
        got = fit(base, "prefix", view, limit=limit, distill=4, batch_size=4, validation_rows=4)
        rows.append(got.provenance.notes["teacher"]["rows"])
    assert rows == sorted(rows)
    assert rows[0] < rows[-1] == 20
    with pytest.raises(BudgetTooSmallError, match="for the teacher"):
        fit(base, "prefix", view, limit=500, distill=4)


def test_teachers_that_cannot_be() -> None:
    base, view = base_of(), planted_view()
    for count in (24, 400):
        with pytest.raises(DataError, match="needs more training rows"):
            fit(base, "prefix", view, distill=count)
    start = fit(base, "soft_prompt", view, steps=1, batch_size=4)
    assert start.part(PromptTextPart) is not None
    with pytest.raises(ConfigError, match="would not be read"):
        fit(base, "prefix", view, distill=2, start=start)
    narrow = replace(base, context_length=60)
    with pytest.raises(ConfigError, match="do not fit the context"):
        fit(narrow, "prefix", view, distill=8)
