"""Attention of rows over their slots: rows that take one step together, others one by one.

Shapes: N positions on the flat axis, s slots, H query heads, K key/value heads, W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.model.forward import additive_mask
from tunewise.serve.engine.slots import KeyValueSlots
from tunewise.serve.engine.work import Work

# A row of its own costs about as much as so many further places in the common block.
_CALL_IN_PLACES = 100


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that take one step each: all slots below `top`, those of nobody among them."""

    rows: Tensor = field(repr=False)
    slots: Tensor = field(repr=False)
    row_of_slot: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    top: int
    length: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Single:
    rows: slice
    slot: int
    length: int
    mask: Tensor | None = field(repr=False)


class SlotAttention:
    """Attention for one pass.

    Args:
        slots: keys and values.
        heads: H.
        works: in the order of the flat axis.
        dtype: to compute in.
    """

    def __init__(
        self, slots: KeyValueSlots, heads: int, works: Sequence[Work], dtype: torch.dtype
    ) -> None:
        self._slots, self._heads, self._dtype = slots, heads, dtype
        begins: list[int] = [0]
        for work in works:
            begins.append(begins[-1] + work.count)
        self._index = slots.index([(work.slot, work.begin, work.end) for work in works])
        steps = [n for n, work in enumerate(works) if work.count == 1 and work.allowed is None]
        together = _together([works[n] for n in steps])
        block = {steps[n] for n in together}
        self._count = begins[-1]
        self._block = self._block_of(works, sorted(block), begins) if block else None
        self._singles = [
            _Single(slice(begins[n], begins[n + 1]), work.slot, work.end, self._mask(work))
            for n, work in enumerate(works)
            if n not in block
        ]

    def __call__(self, layer: int, queries: Tensor, kept: Tensor) -> Tensor:
        """See `Attend`."""
        self._slots.write(layer, self._index, kept)
        block = self._block
        if block is not None and block.whole:
            return self._step(layer, block, queries)
        found = None
        if block is not None:
            chosen = queries.index_select(0, block.row_of_slot)
            found = self._step(layer, block, chosen).index_select(0, block.slots)
            if not self._singles:
                return found
        mixed = queries.new_empty(self._count, queries.shape[1] * queries.shape[2])
        if found is not None and block is not None:
            mixed.index_copy_(0, block.rows, found)
        for single in self._singles:
            mixed[single.rows] = self._alone(layer, single, queries[single.rows])
        return mixed

    def _step(self, layer: int, block: _Block, queries: Tensor) -> Tensor:
        """(top, H, W) -> (top, H x W)."""
        keys, values = self._kept(layer, slice(0, block.top), block.length)
        mixed = functional.scaled_dot_product_attention(
            self._stacked(queries), keys, values, attn_mask=block.mask
        )
        return mixed.reshape(block.top, -1)

    def _alone(self, layer: int, single: _Single, queries: Tensor) -> Tensor:
        """(T, H, W) -> (T, H x W)."""
        keys, values = self._kept(layer, slice(single.slot, single.slot + 1), single.length)
        if single.mask is None:
            mixed = functional.scaled_dot_product_attention(self._stacked(queries), keys, values)
            return mixed.reshape(1, -1)
        mixed = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], keys, values, attn_mask=single.mask, enable_gqa=True
        )
        return mixed[0].transpose(0, 1).reshape(len(queries), -1)

    def _kept(self, layer: int, slots: slice, length: int) -> tuple[Tensor, Tensor]:
        return self._slots.keys(layer, slots, length), self._slots.values(layer, slots, length)

    def _stacked(self, queries: Tensor) -> Tensor:
        """One position of each slot, (s, H, W): heads that share keys stand where a longer row's
        positions would, for they have the same keys and the same mask.
        """
        return queries.reshape(len(queries), self._slots.shape.heads, -1, queries.shape[2])

    def _mask(self, work: Work) -> Tensor | None:
        if work.count == 1 and work.allowed is None:
            return None
        return additive_mask(allowed_of(work), self._dtype)

    def _block_of(self, works: Sequence[Work], chosen: list[int], begins: list[int]) -> _Block:
        slots = [works[n].slot for n in chosen]
        top, length = max(slots) + 1, max(works[n].end for n in chosen)
        lengths = torch.ones(top, dtype=torch.long)
        row_of_slot = torch.zeros(top, dtype=torch.long)
        rows = torch.tensor([begins[n] for n in chosen])
        where = torch.tensor(slots)
        lengths[where] = torch.tensor([works[n].end for n in chosen])
        row_of_slot[where] = rows
        allowed = torch.arange(length) < lengths[:, None]
        mask = additive_mask(allowed[:, None, None], self._dtype)
        whole = slots == list(range(self._count))
        return _Block(rows, where, row_of_slot, mask, top, length, whole)


def allowed_of(work: Work) -> Tensor:
    """(T, end) True where the positions of a work may look."""
    if work.allowed is not None:
        return work.allowed
    return torch.ones(work.count, work.end, dtype=torch.bool).tril(work.begin)


def _together(steps: Sequence[Work]) -> list[int]:
    """Which rows take their step in one call: it computes the longest one's places for all of them,
    so rows much longer than the others go alone.
    """
    if not steps:
        return []
    order = sorted(range(len(steps)), key=lambda n: -steps[n].end)
    top = max(work.slot for work in steps) + 1
    best, cost, alone = 0, top * steps[order[0]].end, 0
    for count in range(1, len(order)):
        alone += steps[order[count - 1]].end + _CALL_IN_PLACES
        total = alone + top * steps[order[count]].end
        if total < cost:
            best, cost = count, total
    return order[best:]
