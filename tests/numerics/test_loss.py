"""Cross-entropy against sums of logarithms in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from tunewise.numerics.loss import summed_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_against_plain_python(dtype: torch.dtype) -> None:
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets = torch.tensor([0, 10, 3, 3, 5, 1, 9])
    by_hand = 0.0
    for row, target in zip(logits.double().tolist(), targets.tolist(), strict=True):
        by_hand += math.log(sum(math.exp(value) for value in row)) - row[target]
    loss = summed_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    assert float(summed_cross_entropy(logits, torch.tensor([0, 1]))) == 0.0


def test_gradient_is_probability_minus_one() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets = torch.tensor([4, 0, 2])
    summed_cross_entropy(logits, targets).backward()
    expected = logits.detach().softmax(dim=1)
    expected[torch.arange(3), targets] -= 1
    torch.testing.assert_close(logits.grad, expected)
