"""A chain keeps the best of its stages on the same validation rows, whatever its links did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.adaptation.samples import assert_same
from tests.laws.fitting import base_of, context_of, fit, generation_view, planted_view

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import label_frequencies
from tunewise.adaptation.parts import LowRankPart, Part, PromptTextPart
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.adaptation.readout import adjusted_scores, choose_decoding
from tunewise.methods._chain import Chain
from tunewise.methods._contract import parse_settings
from tunewise.methods._registry import find_method
from tunewise.methods._stages import Stages
from tunewise.model.base import Base
from tunewise.numerics.calibration import cross_entropy
from tunewise.task.prompt import PromptText
from tunewise.task.types import FitView

PWP = "prompt_search>lora>prompt_search"
QUICK = {"lora_steps": 6, "lora_rank": 2, "lora_batch_size": 8, "prompt_search_edits": 4}


def validated(base: Base, view: FitView, found: Adaptation) -> tuple[float, float]:
    """Metric and loss on all validation rows, by the predictor that measures."""
    with predictor_for(base, found) as predictor:
        assert isinstance(predictor, BasePredictor)
        readout = predictor.readout
        scores = readout.label_scores([row.input for row in view.validation])
    gold = np.array([view.spec.labels.index(row.output) for row in view.validation])
    decoding = choose_decoding(scores, gold.tolist(), readout.renderer, label_frequencies(view))
    adjusted = adjusted_scores(scores, readout.renderer, decoding)
    return float((adjusted.argmax(axis=1) == gold).mean()), cross_entropy(adjusted, gold)


class _Replaced:
    """A link that goes wrong: whatever it is given, it ends with other parts."""

    def __init__(self, change: Callable[[FitContext], tuple[Part, ...]]) -> None:
        self.change, method = change, find_method("zero_shot")
        self.name, self.summary, self.produces = "replaced", "", ("prompt_text", "low_rank")
        self.needs, self.Settings = method.needs, method.Settings

    def fit(self, context: FitContext, settings: Any) -> Adaptation:
        start = context.start
        assert start is not None
        return context.finish(self.name, settings, self.change(context), start.decoding)


def _bare(context: FitContext) -> tuple[Part, ...]:
    return (PromptTextPart(PromptText(context.view.spec.instruction)),)


def test_a_link_that_ends_below_the_one_before_is_not_kept(prompted_base: Base) -> None:
    view = planted_view(48, 24)
    links: list[Any] = [find_method("few_shot"), _Replaced(_bare)]
    chain = Chain(links)
    settings = parse_settings(chain, {"few_shot_demonstrations": 2})
    context = context_of(prompted_base, view)
    got = chain.fit(context, settings)
    told = got.provenance.notes
    assert told["kept_stage"] == 0
    part = got.part(PromptTextPart)
    assert part is not None
    assert len(part.prompt.demonstrations) + part.prompt.nearest == 2
    assert told["stages"][0]["metric"] > told["stages"][1]["metric"]
    metric, loss = validated(prompted_base, view, got)
    assert metric == told["stages"][0]["metric"]
    assert loss == pytest.approx(told["stages"][0]["loss"], abs=1e-5)


def test_of_stages_that_tie_the_last_is_kept() -> None:
    base, view = base_of(), planted_view()
    links: list[Any] = [find_method("zero_shot"), _Replaced(_bare)]
    chain = Chain(links)
    got = chain.fit(context_of(base, view), parse_settings(chain, {}))
    assert got.provenance.notes["kept_stage"] == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_written_order_keeps_the_best_validated_stage(seed: int) -> None:
    base, view = base_of(seed=seed), planted_view(40, 24, seed=seed)
    context = context_of(base, view, seed=seed)
    got = fit(base, PWP, view, context=context, **QUICK)
    told = got.provenance.notes
    stages = told["stages"]
    assert [each["method"] for each in stages] == PWP.split(">")
    ranks = [(each["metric"], -each["loss"]) for each in stages]
    assert ranks[told["kept_stage"]] == max(ranks)
    metric, loss = validated(base, view, got)
    assert metric == max(each["metric"] for each in stages)
    assert loss == pytest.approx(stages[told["kept_stage"]]["loss"], abs=1e-5)


def test_prompts_are_searched_again_on_the_tuned_model(prompted_base: Base) -> None:
    base, view = prompted_base, planted_view(40, 24)
    settings = {"rank": 4, "steps": 60, "learning_rate": 3e-3}
    alone = fit(base, "lora", view, **settings)
    in_chain = {f"lora_{name}": value for name, value in settings.items()}
    got = fit(base, "lora>prompt_search", view, **in_chain)
    ours, theirs = got.part(LowRankPart), alone.part(LowRankPart)
    assert ours is not None
    assert alone.provenance.notes["best_step"] > 0
    assert_same(ours, theirs)
    assert "prompt_text" in got.kinds
    search = got.provenance.notes["links"][1]
    assert search["method"] == "prompt_search"
    # The search's own start is the tuned model, not the base: its loss is the tuned model's.
    (tried,) = [each for each in search["notes"]["rounds"][0]["tried"] if each["rows"] == 24][:1]
    assert tried["candidate"] == "start"
    metric, tuned = validated(base, view, alone)
    _, untouched = validated(base, view, fit(base, "zero_shot", view))
    stage = got.provenance.notes["stages"][0]
    assert stage["metric"] == metric
    assert stage["loss"] == pytest.approx(tuned, abs=1e-5)
    assert abs(tried["loss"] - tuned) < abs(tried["loss"] - untouched)
    assert validated(base, view, got)[0] >= metric


@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_judging_the_stages_is_in_the_budget(limit: int) -> None:
    base, view = base_of(), planted_view(40, 24)
    context = context_of(base, view, limit=limit)
    fit(base, PWP, view, context=context, **QUICK)
    assert context.ledger.spent <= limit


def test_a_budget_that_does_not_pay_for_it_says_so() -> None:
    base, view = base_of(), planted_view(40, 400)
    context = context_of(base, view, limit=9_000)
    assert Stages(context, 3).rows == ()
    got = fit(base, "zero_shot>few_shot", view, limit=9_000, few_shot_demonstrations=2)
    assert "does not pay" in got.provenance.notes["stages"]


def test_answers_that_are_generated_are_told_apart_by_their_loss() -> None:
    base, view = base_of(), generation_view()
    got = fit(base, "zero_shot>lora", view, lora_steps=8, lora_rank=2, lora_learning_rate=1e-2)
    first, second = got.provenance.notes["stages"]
    assert first["metric"] is None
    assert got.provenance.notes["kept_stage"] == int(second["loss"] <= first["loss"])


def test_the_stages_are_the_same_again() -> None:
    base, view = base_of(), planted_view()
    one, two = (fit(base, "few_shot>lora", view, lora_steps=3, lora_rank=2) for _ in range(2))
    assert_same(one, two)
