"""Attention by plain products, for the short rows that fitting and measuring consist of.

PyTorch's fused kernel for CPUs is made for long sequences; its backward takes a third of a training
step on rows of some thirty tokens, and is slower than plain products on rows of two thousand. Here
query heads that share a key/value head are stacked into one product, so keys and values are never
repeated (grouped-query attention, Ainslie et al. 2023). Long rows run in blocks of queries, each
with the keys up to its last one, so that little above the diagonal is computed. What would need
too much memory goes to the fused kernel, which keeps no T x S matrix; so do long rows without
gradients, where it is the faster one.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.errors import ConfigError
from tunewise.model.packing import present_packing

NAME = "tunewise"
# Entries of the B x H x T x S score matrix, those above the diagonal not counted, from which the
# fused kernel takes over: with gradients, where too much would be kept for the way back; without,
# where the matrix no longer fits the processor's caches.
MOST_SCORES = 8_000_000
MOST_SCORES_FORWARD = 2_000_000
# Queries of a block, about: fewer make products too small, more compute more above the diagonal.
BLOCK_QUERIES = 96


def register() -> str:
    """Make this attention known to transformers; returns the name to load models with."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, attention_forward)
    # The same additive mask as transformers' own plain attention.
    AttentionMaskInterface.register(NAME, eager_mask)
    return NAME


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer.

    Args:
        module: the layer; not looked at.
        query: (B, H, T, head width); (1, H, N, head width) where rows are packed, or
            (1, H, L+N, head width) where the last L of the P prefix positions run along.
        key: (B, K, S, head width), K key/value heads; K divides H. Where rows are packed,
            (1, K, P+N, head width).
        value: as `key`.
        attention_mask: (B or 1, 1, T, S) added to the scores; None where all is allowed that is
            not later.
        scaling: of the scores; None for 1 / sqrt(head width).
        softcap: limit of the scores by tanh (Gemma 2), or None.
        others: further settings of the architecture.

    Returns:
        (B, T, H, head width), or (1, L+N, H, head width) where rows are packed; and no weights.

    Raises:
        ConfigError: the architecture has attention sinks, which are not supported.
    """
    if others.get("s_aux") is not None:
        raise ConfigError("models with attention sinks are not supported")
    packing = present_packing()
    if packing is None:
        return _attend(query, key, value, attention_mask, scaling, softcap), None
    first, query = packing.split(query)
    (key_ahead, key), (value_ahead, value) = packing.split(key), packing.split(value)
    queries = [padded.transpose(1, 2) for padded in packing.pad(query.transpose(1, 2))]
    keys, values = packing.beside_rows(key_ahead, key), packing.beside_rows(value_ahead, value)
    masks = [None] * len(queries) if attention_mask is None else packing.masks(attention_mask)
    blocks = zip(queries, keys, values, masks, strict=True)
    mixed = packing.pack([_attend(*block, scaling, softcap) for block in blocks])
    if first.shape[2] == 0:
        return mixed, None
    # The prefix runs along with the rows (joined.py) and sees only itself.
    prefix = _attend(first, key_ahead, value_ahead, None, scaling, softcap)
    return torch.cat([prefix, mixed], dim=1), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    rows, heads, tokens, width = query.shape
    groups, length = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    if attention_mask is None and tokens > 1:
        attention_mask = _causal(tokens, length, query)
    if softcap is None:
        most = MOST_SCORES if torch.is_grad_enabled() else MOST_SCORES_FORWARD
        if rows * heads * tokens * (length - tokens // 2) > most:
            fused = nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=True
            )
            return fused.transpose(1, 2)
        # The queries are scaled, which are fewer numbers than the scores.
        mixed: Tensor = _InBlocks.apply(query * scale, key, value, attention_mask)  # type: ignore[no-untyped-call]  # torch has no types there
        return mixed
    stacked = (query * scale).reshape(rows, groups, -1, width)
    scores = (stacked @ key.transpose(2, 3)).view(rows, groups, -1, tokens, length)
    scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, :length]
    # Sums up in float32 by itself, whatever the dtype.
    weights = torch.softmax(scores, dim=-1)
    capped = weights.view(rows, groups, -1, length) @ value
    return capped.view(rows, heads, tokens, -1).transpose(1, 2)


class _InBlocks(torch.autograd.Function):
    """Attention of scaled queries, a block of them at a time, with its gradients."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        rows, heads, tokens, _ = query.shape
        groups, length = key.shape[1], key.shape[2]
        mixed = value.new_empty(rows, tokens, heads, value.shape[3])
        kept: list[Tensor] = []
        for first, last in _blocks(tokens):
            # No query sees a key behind its own place, so none of this block sees what follows.
            seen = length - tokens + last
            stacked = query[:, :, first:last].reshape(rows, groups, -1, query.shape[3])
            scores = stacked @ key[:, :, :seen].transpose(2, 3)
            if mask is not None:
                by_head = scores.view(rows, groups, -1, last - first, seen)
                by_head.add_(mask[:, :, None, first:last, :seen])
            # Sums up in float32 by itself, whatever the dtype.
            weights = torch.softmax(scores, dim=-1)
            block = (weights @ value[:, :, :seen]).view(rows, heads, last - first, -1)
            mixed[:, first:last] = block.transpose(1, 2)
            kept += [stacked, weights]
        ctx.save_for_backward(key, value, *kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        key, value, *kept = ctx.saved_tensors
        towards = gradients[0]
        rows, tokens, heads, _ = towards.shape
        groups, length = key.shape[1], key.shape[2]
        query_gradient = key.new_empty(rows, heads, tokens, key.shape[3])
        key_gradient, value_gradient = torch.empty(0), torch.empty(0)
        blocks = zip(_blocks(tokens), kept[::2], kept[1::2], strict=True)
        # The last block sees all keys, so the others' share is added to what it leaves.
        for (first, last), stacked, weights in reversed(list(blocks)):
            seen = length - tokens + last
            block = towards[:, first:last].transpose(1, 2).reshape(rows, groups, -1, value.shape[3])
            by_weight = block @ value[:, :, :seen].transpose(2, 3)
            by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
            of_query = (by_score @ key[:, :, :seen]).view(rows, heads, last - first, -1)
            query_gradient[:, :, first:last] = of_query
            of_key = by_score.transpose(2, 3) @ stacked
            of_value = weights.transpose(2, 3) @ block
            if last == tokens:
                key_gradient, value_gradient = of_key, of_value
            else:
                key_gradient[:, :, :seen] += of_key
                value_gradient[:, :, :seen] += of_value
        return query_gradient, key_gradient, value_gradient, None


def _blocks(tokens: int) -> list[tuple[int, int]]:
    """First and last (exclusive) query of every block."""
    count = max(1, round(tokens / BLOCK_QUERIES))
    cuts = [tokens * each // count for each in range(count + 1)]
    return list(itertools.pairwise(cuts))


def _causal(tokens: int, length: int, like: Tensor) -> Tensor:
    allowed = torch.ones(tokens, length, dtype=torch.bool, device=like.device)
    allowed = allowed.tril(length - tokens)
    mask = torch.zeros(1, 1, tokens, length, dtype=like.dtype, device=like.device)
    return mask.masked_fill(~allowed, torch.finfo(like.dtype).min)
