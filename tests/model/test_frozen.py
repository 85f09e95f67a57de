"""Frozen layers in their faster form against the plain ones, and what must not be touched."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.laws.fitting import ALL_ARCHITECTURES, base_of
from torch import Tensor, nn

from tunewise.model import frozen
from tunewise.model.base import Base
from tunewise.model.frozen import FrozenLayers, lays_out
from tunewise.model.norms import lean_norm

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


def linear_forwards(base: Base) -> list[str]:
    """The linear layers among them."""
    return [n for n in own_forwards(base) if isinstance(base.model.get_submodule(n), nn.Linear)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_logits_and_gradients(
    architecture: str, dtype: torch.dtype, tolerance: float
) -> None:
    base = base_of(architecture, dtype=dtype)
    wanted = logits_and_gradient(base)
    with FrozenLayers(base).used():
        # GPT-2's layers are convolutions of width one, but its output head is linear. Processors
        # without bfloat16 products lay nothing out in it.
        assert own_forwards(base) or not lays_out(base)
        got = logits_and_gradient(base)
    for one, other in zip(got, wanted, strict=True):
        assert torch.dist(one, other) <= tolerance * other.norm()


def test_float32_is_laid_out_everywhere() -> None:
    assert lays_out(base_of(dtype=torch.float32))


def test_nothing_is_left_behind_even_after_an_error() -> None:
    base = base_of()
    with pytest.raises(ZeroDivisionError), FrozenLayers(base).used():
        raise ZeroDivisionError
    assert own_forwards(base) == []


def test_what_is_laid_out_is_used_again() -> None:
    base = base_of(dtype=torch.float32)
    first = FrozenLayers(base)
    with first.used():
        wanted = logits_and_gradient(base)
    layer = base.model.get_submodule("model.layers.1.mlp.up_proj")
    # What was laid out before stands, so this tells whether it is looked at again.
    with torch.no_grad():
        layer.weight += 1.0
    with FrozenLayers(base, first).used():
        got = logits_and_gradient(base)
    with FrozenLayers(base).used():
        anew = logits_and_gradient(base)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    assert not torch.equal(anew[0], wanted[0])


def test_trained_weights_are_left_alone() -> None:
    base = base_of()
    trained = "model.layers.1.mlp.up_proj"
    base.model.get_submodule(trained).weight.requires_grad_(True)
    with FrozenLayers(base).used():
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
    with FrozenLayers(base).used():
        assert "model.layers.0.extra" in own_forwards(base)
        torch.testing.assert_close(layer(rows), wanted, atol=1e-5, rtol=1e-5)


def test_little_memory_or_a_build_without_them_leaves_the_plain_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = base_of()
    with monkeypatch.context() as scarce:
        scarce.setattr(frozen, "_MOST_OF_MEMORY", 0.0)
        with FrozenLayers(base).used():
            assert linear_forwards(base) == []

    def missing(weight: Tensor) -> Tensor:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(frozen, "lay_out", missing)
    with FrozenLayers(base).used():
        assert linear_forwards(base) == []


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_norms_only_where_they_are_the_plain_kind(architecture: str) -> None:
    base = base_of(architecture)
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    with FrozenLayers(base).used():
        norms = [name for name in own_forwards(base) if "norm" in name]
    # Gemma scales by one plus its weight, GPT-2 has another norm.
    assert bool(norms) == (architecture in {"llama", "qwen3"})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_norm_has_the_gradient_of_the_architectures_own(
    dtype: torch.dtype, tolerance: float
) -> None:
    layer = base_of(dtype=dtype).model.model.layers[0].input_layernorm
    layer.weight.data = torch.linspace(-2, 3, len(layer.weight)).to(dtype)
    lean = lean_norm(layer)
    assert lean is not None
    generator = torch.Generator().manual_seed(0)
    rows, given = (
        torch.randn(3, 5, len(layer.weight), generator=generator).to(dtype) for _ in range(2)
    )
    rows = (rows * torch.linspace(0.01, 30, 5)[:, None]).to(dtype).requires_grad_(True)
    exact = rows.detach().double().requires_grad_(True)
    unit = exact * (exact.square().mean(-1, keepdim=True) + layer.variance_epsilon).rsqrt()
    wanted = torch.autograd.grad(unit * layer.weight.double(), exact, given.double())[0]
    got = torch.autograd.grad(lean(rows), rows, given)[0].double()
    for one, other in zip(got.flatten(0, 1), wanted.flatten(0, 1), strict=True):
        assert torch.dist(one, other) <= tolerance * other.norm()
