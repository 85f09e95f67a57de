"""Attention by plain products, for the short rows that fitting and measuring consist of.

PyTorch's fused kernel for CPUs is made for long sequences; its backward takes a third of a training
step on rows of some thirty tokens. Here query heads that share a key/value head are stacked into
one product, so keys and values are never repeated (grouped-query attention, Ainslie et al. 2023).
Long rows go to the fused kernel, which needs no T x S matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunewise.errors import ConfigError
from tunewise.model.packing import present_packing

NAME = "tunewise"
# Entries of the B x H x T x S score matrix from which the fused kernel takes over: where the matrix
# no longer fits the processor's caches. Its backward is the slower part of it (docs/log.md).
MOST_SCORES = 8_000_000
MOST_SCORES_FORWARD = 2_000_000


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
    most = MOST_SCORES if torch.is_grad_enabled() else MOST_SCORES_FORWARD
    if softcap is None and rows * heads * tokens * length > most:
        fused = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=True
        )
        return fused.transpose(1, 2)
    # The queries are scaled, which are fewer numbers than the scores.
    stacked = (query * scale).reshape(rows, groups, -1, width)
    scores = (stacked @ key.transpose(2, 3)).view(rows, groups, -1, tokens, length)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, :length]
    # Sums up in float32 by itself, whatever the dtype.
    weights = torch.softmax(scores, dim=-1)
    mixed = weights.view(rows, groups, -1, length) @ value
    return mixed.view(rows, heads, tokens, -1).transpose(1, 2)


def _causal(tokens: int, length: int, like: Tensor) -> Tensor:
    allowed = torch.ones(tokens, length, dtype=torch.bool, device=like.device)
    allowed = allowed.tril(length - tokens)
    mask = torch.zeros(1, 1, tokens, length, dtype=like.dtype, device=like.device)
    return mask.masked_fill(~allowed, torch.finfo(like.dtype).min)
