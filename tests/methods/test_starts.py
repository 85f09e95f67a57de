"""The ladder: every method begins where the adaptation it is given ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.laws.fitting import base_of, context_of, counted_positions, fit, planted_view, rates

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import KVPrefixPart, VirtualTokensPart
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.adaptation.store import fingerprint_of
from tunewise.errors import BudgetTooSmallError, ConfigError
from tunewise.methods._registry import discover_methods
from tunewise.model.base import Base
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

VIEW = planted_view()
INPUTS = [row.input for row in VIEW.validation]
GRADIENT = [name for name, method in discover_methods().items() if method.needs.gradients]
TOGETHER = ["soft_prompt+lora", "prefix+full"]
STARTS: dict[str, dict[str, Any]] = {
    "zero_shot": {"instruction": "Another instruction."},
    "few_shot": {"demonstrations": 2, "pick": "balanced", "draws": 1},
    "soft_prompt": {"steps": 2, "learning_rate": 1e-2},
    "soft_prompt before the text": {"steps": 2, "virtual_tokens": 3, "learning_rate": 1e-2},
    "prefix": {"steps": 2, "learning_rate": 1e-2},
    "prefix before the text": {"steps": 2, "positions": 4, "learning_rate": 1e-2},
    "lora": {"steps": 2, "rank": 2, "learning_rate": 1e-3},
    "full": {"steps": 2, "learning_rate": 1e-4},
}


def start_of(base: Base, which: str) -> Adaptation:
    name = which.split()[0]
    batch = {"batch_size": 8} if name in GRADIENT else {}
    return fit(base, name, VIEW, **batch, **STARTS[which])


def scores(base: Base, adaptation: Adaptation) -> np.ndarray:
    with predictor_for(base, adaptation) as predictor:
        assert isinstance(predictor, BasePredictor)
        return predictor.readout.label_scores(INPUTS)


@pytest.mark.parametrize("which", STARTS)
@pytest.mark.parametrize("name", GRADIENT + TOGETHER)
def test_step_0_is_the_start(name: str, which: str) -> None:
    """A learning rate of nothing: what comes out answers as what went in.

    Where a trained prefix has replaced the text already, new virtual tokens have no text whose
    place they could take: they stand behind it, and step 0 is another prompt.
    """
    base = base_of()
    start = start_of(base, which)
    context = context_of(base, VIEW, start=start)
    got = fit(base, name, VIEW, context=context, steps=1, batch_size=4, **rates(name, 1e-20))
    assert got.provenance.start == fingerprint_of(start)
    kept = {part.kind for part in start.parts} - {"virtual_tokens", "kv_prefix"}
    assert kept <= set(got.kinds)
    if name.startswith("soft_prompt") and which == "prefix":
        return
    np.testing.assert_allclose(scores(base, got), scores(base, start), atol=2e-3, rtol=1e-4)


def test_weights_on_top_of_a_lora_keep_the_base_s_own_names() -> None:
    base = base_of()
    got = fit(base, "full", VIEW, start=start_of(base, "lora"), steps=2, batch_size=8)
    part = next(part for part in got.parts if part.kind == "weights")
    stored: Any = part
    assert set(stored.tensors) == {name for name, _ in base.model.named_parameters()}


@pytest.mark.parametrize(("last", "layers"), [(1, {"1"}), (2, {"0", "1"})])
def test_only_the_last_layers(last: int, layers: set[str]) -> None:
    got = fit(base_of(), "full", VIEW, steps=1, batch_size=4, last_layers=last)
    stored: Any = next(part for part in got.parts if part.kind == "weights")
    assert {name.split(".")[2] for name in stored.tensors} == layers


def test_a_lora_of_the_last_layer_only() -> None:
    got = fit(base_of(), "lora", VIEW, steps=1, batch_size=4, last_layers=1)
    stored: Any = next(part for part in got.parts if part.kind == "low_rank")
    assert stored.tensors
    assert all(".layers.1." in name for name in stored.tensors)
    with predictor_for(base_of(), got) as predictor:
        assert len(predictor.answers(["a b c"])) == 1


@pytest.mark.parametrize(("name", "passes"), [("lora", 1.0), ("full", 2.0)])
@pytest.mark.parametrize("last", [1, 2])
def test_nothing_goes_back_below_the_lowest_trained_layer(
    name: str, passes: float, last: int
) -> None:
    base = base_of()
    context = context_of(base, VIEW)
    reached = {0: 0, 1: 0}
    for number, layer in enumerate(base.model.model.layers):

        def count(module: Any, inputs: Any, output: Any, number: int = number) -> None:
            if torch.is_grad_enabled() and output.requires_grad:
                output.register_hook(
                    lambda gradient: reached.__setitem__(number, reached[number] + 1)
                )

        layer.mlp.down_proj.register_forward_hook(count)
    with counted_positions(base) as counts:
        fit(base, name, VIEW, context=context, steps=2, batch_size=4, last_layers=last)
    assert reached[1] > 0
    assert (reached[0] > 0) == (last == 2)
    # Each of the two steps is rounded.
    wanted = counts["graded"] * passes * last / 2
    assert context.ledger.backward_tokens == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_more_layers_than_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match="so many last layers"):
        fit(base_of(), name, VIEW, steps=1, last_layers=3)


def test_a_prefix_that_the_budget_does_not_start() -> None:
    with pytest.raises(BudgetTooSmallError, match="for the prefix to start from"):
        fit(base_of(), "prefix", VIEW, limit=3)


def test_a_prefix_of_the_instruction_replaces_it_and_one_of_a_length_does_not() -> None:
    base = base_of()
    shared = len(
        Renderer(base.tokenizer, VIEW.spec, PromptText(VIEW.spec.instruction)).shared_tokens
    )
    for size, replaces in ((None, True), (7, False)):
        got = fit(base, "prefix", VIEW, steps=1, batch_size=4, positions=size)
        prefix = got.part(KVPrefixPart)
        assert prefix is not None
        assert prefix.replaces_shared_text is replaces
        assert prefix.keys[0].shape[1] == (size or shared)
        got = fit(base, "soft_prompt", VIEW, steps=1, batch_size=4, virtual_tokens=size)
        soft = got.part(VirtualTokensPart)
        assert soft is not None
        assert soft.replaces_shared_text is replaces
        assert soft.embeddings.shape[0] == (size or shared)


@pytest.mark.parametrize("name", ["soft_prompt", "prefix"])
def test_no_demonstrations_where_the_text_is_replaced(name: str) -> None:
    """They would stand in a text that is not read any more; those nearest to a row are read."""
    base = base_of()
    context = context_of(base, VIEW, start=start_of(base, name))
    got = fit(base, "few_shot", VIEW, context=context)
    tried = [each["candidate"] for each in got.provenance.notes["tried"]]
    assert tried[0] == "start"
    assert all(each.startswith("nearest") for each in tried[1:])
    with pytest.raises(ConfigError, match="would not be read"):
        fit(base, "few_shot", VIEW, start=context.start, pick="random")


def test_without_a_budget_few_shot_keeps_its_start_and_its_readout() -> None:
    base = base_of()
    start = start_of(base, "lora")
    got = fit(base, "few_shot", VIEW, start=start, limit=0)
    assert got.decoding == start.decoding
    assert got.kinds == start.kinds


def test_without_a_budget_zero_shot_still_answers_uncalibrated() -> None:
    got = fit(base_of(), "zero_shot", VIEW, limit=0)
    assert got.provenance.notes == {"calibrated": False}
    assert got.decoding.label_bias == ()


def test_without_a_budget_few_shot_is_the_bare_instruction() -> None:
    got = fit(base_of(), "few_shot", VIEW, limit=0)
    part: Any = got.parts[0]
    assert part.prompt.demonstrations == part.prompt.pool == ()
    assert all(each["left_out"] for each in got.provenance.notes["tried"])


@pytest.mark.parametrize("pick", ["random", "balanced", "nearest"])
def test_few_shot_shows_training_rows_only(pick: str) -> None:
    got = fit(base_of(), "few_shot", VIEW, pick=pick, demonstrations=4, draws=1)
    part: Any = got.parts[0]
    shown = part.prompt.demonstrations or part.prompt.pool
    known = {(row.input, row.output) for row in VIEW.train}
    assert {(each.input, each.output) for each in shown} <= known
    assert part.prompt.nearest == (4 if pick == "nearest" else 0)
    if pick != "nearest":
        assert len(shown) == 4
    if pick == "balanced":
        assert sorted(each.output for each in shown) == ["no", "no", "yes", "yes"]
