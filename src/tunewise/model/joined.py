"""The shared prefix and the rows behind it in one pass through the base.

Two passes, the prefix first, cost every layer's fixed price twice, and products of a few dozen
positions run at half the rate of larger ones. Packed rows already stand on one flat axis, so the
prefix can stand at its front: each position runs once, attention lets the prefix see itself and
every row the prefix and itself. The slow twin in the tests lowers the prefix first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunewise.model.base import Base
from tunewise.model.forward import (
    PaddedRows,
    additive,
    cached,
    has_plain_head,
    logits_at,
    packable,
    row_inputs,
    sliding_window,
)
from tunewise.model.packing import Packing, packed_as
from tunewise.model.prefix import PrefixInputs


def joinable(base: Base) -> bool:
    """Whether the base runs a prefix and its rows in one pass: rows can be packed, and every layer
    sees all positions before.
    """
    return packable(base) and sliding_window(base) is None


def joined_logits(
    base: Base, ahead: PrefixInputs, rows: PaddedRows, select: tuple[Tensor, Tensor]
) -> Tensor:
    """Logits at chosen positions of rows behind a prefix that is computed along with them.

    Args:
        base: a base that is `joinable`, with whatever is attached to it.
        ahead: the prefix.
        rows: B rows of T tokens.
        select: row indices (N,) and token indices (N,).

    Returns:
        (N, V) float32.
    """
    # Asked before: it runs a probe, which is not packed.
    plain = has_plain_head(base)
    flat, packing = joined_inputs(base, ahead, rows)
    chosen = ahead.length - ahead.after.length + packing.place[select]
    with packed_as(packing):
        at = (torch.zeros_like(chosen), chosen)
        return logits_at(base, flat, at, plain=plain)


def joined_inputs(
    base: Base, ahead: PrefixInputs, rows: PaddedRows
) -> tuple[dict[str, Any], Packing]:
    """Keyword arguments for one pass of a prefix and the rows behind it, and how it is packed.

    On the flat axis stand the positions that are computed of the prefix, then the rows one after
    another.

    Args:
        base: a base that is `joinable`, with whatever is attached to it.
        ahead: the prefix.
        rows: B rows of T tokens.
    """
    keep = rows.mask
    begin = ahead.after.length
    inputs = row_inputs(base, ahead.length, rows)
    own = base.model.get_input_embeddings()(rows.tokens[keep])[None]
    embedded = own if ahead.embeddings is None else torch.cat([ahead.embeddings, own], dim=1)
    places = torch.arange(begin, ahead.length, device=base.device)[None]
    flat = {
        "inputs_embeds": embedded,
        "position_ids": torch.cat([places, inputs["position_ids"][keep][None]], dim=1),
        "attention_mask": additive(inputs["attention_mask"], keep.shape[1], base),
    }
    # An empty cache would copy all keys and values once.
    flat |= cached(ahead.after, 1) if begin else {"use_cache": False}
    return flat, Packing.of(keep, ahead.length)
