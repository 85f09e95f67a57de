"""Our attention against a softmax written out, on both sides of where the fused kernel begins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tunewise.model import attention

ROWS, HEADS, GROUPS, TOKENS, BEFORE, WIDTH = 3, 6, 2, 5, 4, 8


def written_out(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """One row, one head and one position at a time, in float64."""
    mixed = torch.zeros(ROWS, TOKENS, HEADS, WIDTH, dtype=torch.float64)
    for row in range(ROWS):
        for head in range(HEADS):
            keys, values = (each[row, head // (HEADS // GROUPS)].double() for each in (key, value))
            for token in range(TOKENS):
                scores = keys @ query[row, head, token].double() / WIDTH**0.5
                weights = scores.masked_fill(~allowed[row, token], -torch.inf).softmax(dim=0)
                mixed[row, token, head] = weights @ values
    return mixed


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    mixed, weights = attention.attention_forward(nn.Identity(), query, key, value, mask)
    assert weights is None
    return mixed


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize(("most", "block"), [(0, 96), (10**9, 96), (10**9, 1), (10**9, 2)])
@pytest.mark.parametrize("padded", [True, False])
def test_attention(
    monkeypatch: pytest.MonkeyPatch, padded: bool, most: int, block: int, gradients: bool
) -> None:
    monkeypatch.setattr(attention, "BLOCK_QUERIES", block)
    monkeypatch.setattr(attention, "MOST_SCORES", most if gradients else 0)
    monkeypatch.setattr(attention, "MOST_SCORES_FORWARD", 0 if gradients else most)
    fused = []
    kernel = nn.functional.scaled_dot_product_attention

    def noted(*inputs: Tensor, **settings: object) -> Tensor:
        fused.append(True)
        return kernel(*inputs, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", noted)
    generator = torch.Generator().manual_seed(0)
    shapes = ((HEADS, TOKENS), (GROUPS, BEFORE + TOKENS), (GROUPS, BEFORE + TOKENS))
    query, key, value = (
        torch.randn(ROWS, heads, length, WIDTH, generator=generator).requires_grad_(True)
        for heads, length in shapes
    )
    allowed = torch.ones(ROWS, TOKENS, BEFORE + TOKENS, dtype=torch.bool).tril(BEFORE)
    mask = None
    if padded:
        allowed[1, :, :2] = False
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        mask = mask[:, None]
    with torch.set_grad_enabled(gradients):
        got = attended(query, key, value, mask)
    wanted = written_out(query, key, value, allowed)
    assert bool(fused) == (most == 0)
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)
    if gradients:
        towards = torch.randn(got.shape, generator=generator)
        leaves = (query, key, value)
        ours = torch.autograd.grad((got * towards).sum(), leaves)
        slow = torch.autograd.grad((wanted * towards).sum(), leaves)
        for one, other in zip(ours, slow, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 95, 96, 143, 145, 363, 2048])
def test_blocks_cover_every_query_once_in_like_sizes(tokens: int) -> None:
    blocks = attention._blocks(tokens)
    assert [place for first, last in blocks for place in range(first, last)] == list(range(tokens))
    sizes = [last - first for first, last in blocks]
    assert max(sizes) - min(sizes) <= 1
    assert tokens < 48 or 48 <= max(sizes) <= 144
