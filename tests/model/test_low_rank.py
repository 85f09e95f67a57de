"""The low-rank sum in fewer passes against the formula, with autograd's own gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tunewise.model.low_rank import add_low_rank

SCALE = 1.5


def leaves(dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows, a layer's weight, A and B; all take gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"rows": (2, 5, 7), "weight": (6, 7), "down": (3, 7), "up": (6, 3)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_(True)
        for name, shape in shapes.items()
    }


def gradients(result: Tensor, of: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
    found = torch.autograd.grad((result * weights).sum(), list(of.values()))
    return dict(zip(of, found, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_value_and_gradients_are_those_of_the_formula(dtype: torch.dtype, tolerance: float) -> None:
    given = leaves(dtype)
    rows, weight, down, up = given.values()
    got = add_low_rank(nn.functional.linear(rows, weight), rows, down, up, SCALE)
    exact = {name: leaf.detach().double().requires_grad_(True) for name, leaf in given.items()}
    rows, weight, down, up = exact.values()
    wanted = rows @ weight.T + SCALE * (rows @ down.T @ up.T)
    assert got.dtype == dtype
    assert torch.dist(got.double(), wanted) <= tolerance * wanted.norm()
    expected = gradients(wanted, exact)
    for name, gradient in gradients(got, given).items():
        assert torch.dist(gradient.double(), expected[name]) <= tolerance * expected[name].norm()


def test_rows_that_take_no_gradient() -> None:
    given = leaves(torch.float64)
    rows = given["rows"].detach()
    result = nn.functional.linear(rows, given["weight"])
    changed = add_low_rank(result, rows, given["down"], given["up"], SCALE)
    found = torch.autograd.grad(changed.sum(), [given["down"], given["up"]])
    assert all(bool(gradient.abs().sum() > 0) for gradient in found)
