"""Attaching and taking off again, and the one prefix that all parts before the text become."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES, base_of, plain_logits, planted_view
from torch import Tensor

from tunewise.adaptation.attach import attached, computed_positions, lower_parts
from tunewise.adaptation.inside import LowRank, low_rank_layers
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.adaptation.trainables import FrozenPrefix
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.model.forward import pad_rows, row_inputs, selected_logits
from tunewise.model.prefix import compute_prefix, token_embeddings
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

TOKENS = tuple(range(65, 90))
PROMPT = PromptTextPart(PromptText("Say yes or no."))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_rank_of(base: Base, **settings: Any) -> LowRankPart:
    config = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear", **settings}
    renderer = Renderer(base.tokenizer, planted_view().spec, PROMPT.prompt)
    with low_rank_layers(base, config, None, seed=0) as layers:
        trainable = LowRank(FrozenPrefix(base, renderer, ()), layers)
        for index, (name, leaf) in enumerate(trainable.parameters.items()):
            noise = normal(*leaf.shape, seed=index) * 0.1
            leaf.data = leaf.data + noise if "magnitude" in name else noise
        return trainable.parts()[0]


def weights_of(base: Base) -> WeightsPart:
    tensors = {}
    for index, (name, tensor) in enumerate(base.model.named_parameters()):
        tensors[name] = tensor.detach() + 0.05 * normal(*tensor.shape, seed=index)
    return WeightsPart(tensors)


def state_of(base: Base) -> dict[str, Any]:
    """Everything that must not change: data by identity and value, modules, flags, hooks."""
    modules = dict(base.model.named_modules())
    return {
        "data": {name: tensor.data_ptr() for name, tensor in base.model.named_parameters()},
        "requires": {name: t.requires_grad for name, t in base.model.named_parameters()},
        "gradients": {name: t.grad for name, t in base.model.named_parameters()},
        "modules": {name: (type(module), id(module)) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in modules.items()
        },
        "attributes": sorted(vars(base.model)),
    }


def logits_of(base: Base) -> Tensor:
    with torch.no_grad():
        return plain_logits(base, TOKENS)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
def test_on_and_off_again(architecture: str, settings: dict[str, Any]) -> None:
    base = base_of(architecture)
    before, state = logits_of(base), state_of(base)
    parts = (low_rank_of(base, **settings), weights_of(base), PROMPT)
    assert state_of(base) == state
    seen = []
    for chosen in (parts[:1], parts[1:2], parts, parts[::-1]):
        with attached(base, chosen):
            seen.append(logits_of(base))
            assert (seen[-1] - before).abs().max() > 1e-2
        assert logits_of(base).equal(before)
        assert state_of(base) == state
    # The order in which parts are given does not matter.
    assert seen[2].equal(seen[3])
    assert not seen[2].equal(seen[0])


def test_off_again_after_an_error_and_in_layers() -> None:
    base = base_of()
    before, state = logits_of(base), state_of(base)
    low_rank, weights = low_rank_of(base), weights_of(base)
    with pytest.raises(KeyError), attached(base, (low_rank, weights)):
        raise KeyError
    assert state_of(base) == state
    with ExitStack() as stack:
        stack.enter_context(attached(base, (weights,)))
        inner = logits_of(base)
        with attached(base, (low_rank,)):
            assert not logits_of(base).equal(inner)
        assert logits_of(base).equal(inner)
    assert logits_of(base).equal(before)


@pytest.mark.parametrize(
    ("name", "tensor", "found"),
    [
        ("no.such.weight", torch.ones(2), "no.such.weight of shape (2,)"),
        ("model.norm.weight", torch.ones(7), "model.norm.weight of shape (7,)"),
    ],
)
def test_weights_that_do_not_fit_leave_the_base_alone(
    name: str, tensor: Tensor, found: str
) -> None:
    base = base_of()
    before, state = logits_of(base), state_of(base)
    good = weights_of(base).tensors
    with (
        pytest.raises(AdaptationError) as caught,
        attached(base, (WeightsPart({**good, name: tensor}),)),
    ):
        pass
    assert found in str(caught.value)
    assert state_of(base) == state
    assert logits_of(base).equal(before)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_low_rank_part_that_does_not_fit_leaves_the_base_alone(change: str) -> None:
    base = base_of()
    part = low_rank_of(base)
    before, state = logits_of(base), state_of(base)
    tensors = dict(part.tensors)
    taken = tensors.pop(sorted(tensors)[0])
    if change == "unexpected":
        tensors[sorted(part.tensors)[0]] = taken
        tensors["base_model.model.no.such.lora_A.weight"] = taken
    with (
        pytest.raises(AdaptationError, match="does not fit the base"),
        attached(base, (LowRankPart(part.config, tensors),)),
    ):
        pass
    assert state_of(base) == state
    assert logits_of(base).equal(before)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
@pytest.mark.parametrize("replaces", [True, False])
def test_all_parts_before_the_text_in_their_order(architecture: str, replaces: bool) -> None:
    """Keys and values, virtual tokens, shared text: the same as their embeddings in a row."""
    base = base_of(architecture)
    renderer = Renderer(base.tokenizer, planted_view().spec, PROMPT.prompt)
    first, virtual = (40, 41, 42, 43), normal(3, base.width) * 0.1
    with torch.no_grad():
        stored = compute_prefix(base, token_embeddings(base, first))
    keys, values = (
        tuple(tensor[0] for tensor in tensors) for tensors in (stored.keys, stored.values)
    )
    parts: tuple[Part, ...] = (
        VirtualTokensPart(virtual),
        KVPrefixPart(keys, values, replaces),
        PROMPT,
    )
    prefix = lower_parts(base, renderer, parts)
    text = () if replaces else renderer.shared_tokens
    assert prefix.length == 4 + 3 + len(text)
    assert computed_positions(renderer, parts) == 3 + len(text)
    assert FrozenPrefix(base, renderer, parts).computed_positions == 3 + len(text)
    row = renderer.row_tokens("abc")
    padded = pad_rows([row], base.device, left=False)
    with torch.no_grad():
        got = selected_logits(
            base,
            prefix,
            row_inputs(base, prefix.length, padded),
            padded.mask.nonzero(as_tuple=True),
        )
        before = torch.cat(
            [token_embeddings(base, first)[0], virtual]
            + ([token_embeddings(base, text)[0]] if text else [])
        )
        slow = plain_logits(base, row, before=before)
    torch.testing.assert_close(got, slow, atol=1e-4, rtol=1e-4)


def test_nothing_before_the_text() -> None:
    base = base_of()
    renderer = Renderer(base.tokenizer, planted_view().spec, PromptText(""))
    prefix = lower_parts(base, renderer, ())
    assert prefix.length == len(renderer.shared_tokens) == computed_positions(renderer, ())
