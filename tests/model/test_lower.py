"""Steps that begin at the lowest trained layer, against steps that run all layers."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.laws.fitting import base_of
from torch import nn

from tunewise.model.answers import Example, joined_loss
from tunewise.model.base import Base
from tunewise.model.forward import has_plain_head
from tunewise.model.layers import layer_modules, layer_of
from tunewise.model.lower import LowerActivations
from tunewise.model.prefix import EMPTY_PREFIX, PrefixInputs, compute_prefix
from tunewise.model.recompute import recomputed

EXAMPLES = [
    Example((5, 6, 7), (1, 2)),
    Example((8,), (3,)),
    Example((9, 10, 11, 12, 13), (4,)),
    Example((14, 15, 16, 17), (5, 6, 7)),
]
BATCH = [2, 0, 3]


def ahead_of(base: Base, begin: int) -> PrefixInputs:
    """Six computed positions behind so many kept ones."""
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(1, begin + 6, base.width, generator=generator) * 0.1
    with torch.no_grad():
        after = compute_prefix(base, embeddings[:, :begin]) if begin else EMPTY_PREFIX
    return PrefixInputs(embeddings[:, begin:], after)


def upper_parameters(base: Base, lowest: int) -> list[nn.Parameter]:
    """The weights of the layers from this one on."""
    named = base.model.named_parameters()
    return [leaf for name, leaf in named if (layer_of(name) or 0) >= lowest]


def loss_and_gradients(
    base: Base, ahead: PrefixInputs, lower: LowerActivations | None
) -> tuple[float, list[torch.Tensor]]:
    """Of the batch; all layers run where nothing is kept."""
    leaves = upper_parameters(base, 1)
    for leaf in leaves:
        leaf.requires_grad_(True)
    try:
        rows = [EXAMPLES[index] for index in BATCH]
        if lower is None:
            loss = joined_loss(base, ahead, rows)
        else:
            with lower.used(BATCH):
                loss = joined_loss(base, ahead, rows)
        return float(loss.detach()), list(torch.autograd.grad(loss, leaves))
    finally:
        base.model.requires_grad_(False)


@pytest.mark.parametrize("begin", [0, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_loss_and_gradients(architecture: str, begin: int) -> None:
    base = base_of(architecture)
    ahead = ahead_of(base, begin)
    lower = LowerActivations(base, EXAMPLES, 1)
    assert lower.fits(6)
    assert lower.share == 1 / base.layers
    lower.compute(ahead)
    wanted_loss, wanted = loss_and_gradients(base, ahead, None)
    loss, gradients = loss_and_gradients(base, ahead, lower)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)


def test_the_lower_layers_do_not_run_and_are_as_before_afterwards() -> None:
    base = base_of()
    has_plain_head(base)
    ahead = ahead_of(base, 0)
    lower = LowerActivations(base, EXAMPLES, 1)
    first, second = layer_modules(base)[:2]
    ran: list[str] = []
    handles = [
        first.mlp.register_forward_hook(lambda *_: ran.append("lower")),
        second.mlp.register_forward_hook(lambda *_: ran.append("upper")),
    ]
    try:
        lower.compute(ahead)
        assert ran == ["lower"]
        with recomputed(base):
            around = vars(first)["forward"]
            with lower.used(BATCH):
                joined_loss(base, ahead, [EXAMPLES[index] for index in BATCH])
            assert vars(first)["forward"] is around
        assert ran == ["lower", "upper"]
        assert "forward" not in vars(first)
    finally:
        for handle in handles:
            handle.remove()


def test_its_work_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of()
    has_plain_head(base)
    ahead = ahead_of(base, 0)
    monkeypatch.setattr("tunewise.model.lower._MOST_ROWS", 3)
    lower = LowerActivations(base, EXAMPLES, 1)
    positions = []
    handle = layer_modules(base)[0].register_forward_hook(
        lambda _, given, __: positions.append(given[0].shape[1])
    )
    try:
        lower.compute(ahead)
    finally:
        handle.remove()
    assert len(positions) == 2
    assert sum(positions) == lower.positions(6)


def test_activations_that_take_too_much_memory_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lower = LowerActivations(base_of(), EXAMPLES, 1)
    assert lower.fits(6)
    monkeypatch.setattr("tunewise.model.lower._MOST_OF_MEMORY", 0.0)
    assert not lower.fits(6)


def test_a_base_that_does_not_join_runs_all_layers() -> None:
    assert not LowerActivations(base_of("gemma3"), EXAMPLES, 1).fits(6)
