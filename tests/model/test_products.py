"""Laid-out products of frozen weights against plain linear layers, and what must not be touched."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.laws.fitting import base_of
from torch import Tensor, nn

from tunewise.model import products
from tunewise.model.base import Base
from tunewise.model.products import FrozenProducts

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def logits_and_gradient(base: Base) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of their weighted sum for the embeddings that went in."""
    embeddings = base.model.get_input_embeddings()(TOKENS).detach().requires_grad_(True)
    logits = base.model(inputs_embeds=embeddings).logits.float()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), embeddings)[0].float()


def own_forwards(base: Base) -> list[str]:
    """Modules that do not compute as their class does."""
    return [name for name, module in base.model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_logits_and_gradients(
    architecture: str, dtype: torch.dtype, tolerance: float
) -> None:
    base = base_of(architecture, dtype=dtype)
    wanted = logits_and_gradient(base)
    with FrozenProducts(base).used():
        # GPT-2's layers are convolutions of width one, but its output head is linear.
        assert own_forwards(base)
        got = logits_and_gradient(base)
    for one, other in zip(got, wanted, strict=True):
        assert torch.dist(one, other) <= tolerance * other.norm()


def test_nothing_is_left_behind_even_after_an_error() -> None:
    base = base_of()
    with pytest.raises(ZeroDivisionError), FrozenProducts(base).used():
        raise ZeroDivisionError
    assert own_forwards(base) == []


def test_trained_weights_are_left_alone() -> None:
    base = base_of()
    trained = "model.layers.1.mlp.up_proj"
    base.model.get_submodule(trained).weight.requires_grad_(True)
    with FrozenProducts(base).used():
        assert trained not in own_forwards(base)
        assert "model.layers.0.mlp.up_proj" in own_forwards(base)
    base.model.requires_grad_(False)


def test_biases_are_added() -> None:
    base = base_of()
    layer = nn.Linear(base.width, 3)
    layer.bias.data = torch.tensor([1.0, -2.0, 3.0])
    layer.requires_grad_(False)
    base.model.model.layers[0].extra = layer
    rows = torch.randn(2, 5, base.width, generator=torch.Generator().manual_seed(0))
    wanted = layer(rows)
    with FrozenProducts(base).used():
        assert "model.layers.0.extra" in own_forwards(base)
        torch.testing.assert_close(layer(rows), wanted, atol=1e-5, rtol=1e-5)


def test_little_memory_or_a_build_without_them_leaves_the_plain_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = base_of()
    with monkeypatch.context() as scarce:
        scarce.setattr(products, "_MOST_OF_FREE_MEMORY", 0.0)
        with FrozenProducts(base).used():
            assert own_forwards(base) == []

    def missing(weight: Tensor) -> Tensor:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(products, "_lay_out", missing)
    with FrozenProducts(base).used():
        assert own_forwards(base) == []
