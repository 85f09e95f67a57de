"""Rows without padding: one flat token axis for everything but attention.

Rows of unlike length are padded only where rows must stand side by side, which is attention. All
else (projections, MLPs, normalisation) works on single tokens, so it runs on the N real tokens
instead of B x T slots (Krell et al. 2021 pack rows for the same reason). Attention takes its
queries, keys and values from the flat axis, and puts its result back there. Rows of very unlike
length stand in two blocks there, each as wide as its longest row.

Shapes: B rows, b rows of a block, T tokens of the longest row, N real tokens, P prefix positions, H
heads, W head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# Below this much padding the copies from and to the flat axis cost more than the padding.
LEAST_PADDING = 0.05
# Rows stand in two blocks in attention where that saves this share of the scores: each block costs
# a layer some twenty calls more.
_LEAST_SAVING = 0.2


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of like length that stand side by side in attention.

    Attributes:
        rows: (b,) which rows.
        columns: slots of each.
    """

    rows: Tensor = field(repr=False)
    columns: int

    @property
    def slots(self) -> int:
        """Slots of all its rows."""
        return len(self.rows) * self.columns


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the real tokens of B x T slots stand on a flat axis, and in the blocks of attention.

    Attributes:
        blocks: the rows by length, each in one block. S are the slots of all blocks.
        place: (B, T) place of every slot on the flat axis; arbitrary where the slot is padding.
        flat: (S,) place of every block's slots on the flat axis; 0 where the slot is padding.
        slots: (N,) block slot of every place on the flat axis.
        real: (S, 1) False where the block slot is padding.
    """

    blocks: tuple[Block, ...]
    place: Tensor = field(repr=False)
    flat: Tensor = field(repr=False)
    slots: Tensor = field(repr=False)
    real: Tensor = field(repr=False)
    _masks: dict[int, tuple[Tensor, list[Tensor]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, keep: Tensor, ahead: int) -> Packing:
        """The packing of the slots that are kept.

        Args:
            keep: (B, T) True at real tokens.
            ahead: P, positions before every row.
        """
        place = (keep.flatten().long().cumsum(0) - 1).view(keep.shape)
        columns = torch.arange(1, keep.shape[1] + 1, device=keep.device)
        # A row without tokens has one slot all the same.
        lengths = (keep * columns).amax(dim=1).clamp_min(1).tolist()
        blocks = tuple(
            Block(torch.tensor(rows, device=keep.device), max(lengths[row] for row in rows))
            for rows in _alike(lengths, ahead)
        )
        real = torch.cat([keep[each.rows, : each.columns].flatten() for each in blocks])
        places = torch.cat([place[each.rows, : each.columns].flatten() for each in blocks])
        flat = places * real
        slots = torch.empty_like(flat[real])
        slots[flat[real]] = real.nonzero()[:, 0]
        return cls(blocks, place, flat, slots, real[:, None])

    def pack(self, padded: Sequence[Tensor]) -> Tensor:
        """(b, T of the block, ...) of every block -> (1, N, ...)."""
        shape = padded[0].shape[2:]
        spread = [each.reshape(-1, shape.numel()) for each in padded]
        together = spread[0] if len(spread) == 1 else torch.cat(spread)
        packed: Tensor = _Pack.apply(together, self)  # type: ignore[no-untyped-call]  # torch's
        return packed.view(1, len(self.slots), *shape)

    def pad(self, packed: Tensor) -> list[Tensor]:
        """(1, N, H, W) -> (b, T of the block, H, W) of every block; what stands in padding is
        arbitrary, but finite.
        """
        spread = packed.reshape(len(self.slots), -1)
        padded: Tensor = _Pad.apply(spread, self)  # type: ignore[no-untyped-call]  # torch's
        pieces = torch.split(padded, [each.slots for each in self.blocks])
        return [
            piece.view(len(block.rows), block.columns, *packed.shape[2:])
            for piece, block in zip(pieces, self.blocks, strict=True)
        ]

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(1, H, P+N, W) -> what stands before the rows (1, H, P, W), and the rows' own."""
        count = len(self.slots)
        # One call and not two slices: its backward is one concatenation.
        ahead, own = torch.split(flat, [flat.shape[2] - count, count], dim=2)
        return ahead, own

    def beside_rows(self, ahead: Tensor, own: Tensor) -> list[Tensor]:
        """Keys or values (1, H, P, W) and (1, H, N, W) -> (b, H, P+T, W) of every block: the first
        before every row's own.
        """
        return [
            torch.cat([ahead.expand(len(padded), -1, -1, -1), padded.transpose(1, 2)], dim=2)
            for padded in self.pad(own.transpose(1, 2))
        ]

    def masks(self, mask: Tensor) -> list[Tensor]:
        """(B, 1, T, P+T) -> (b, 1, T, P+T) of every block; the same mask is cut once."""
        found = self._masks.get(id(mask))
        if found is None:
            ahead = mask.shape[3] - mask.shape[2]
            cut = [
                mask[each.rows, :, : each.columns, : ahead + each.columns] for each in self.blocks
            ]
            # The mask is kept with it: as long as it lives, nothing else has its identity.
            found = self._masks[id(mask)] = (mask, cut)
        return found[1]


def _alike(lengths: Sequence[int], ahead: int) -> list[list[int]]:
    """Rows in blocks of like length, so that attention computes few scores of padding.

    Args:
        lengths: slots of every row.
        ahead: positions before every row.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    ranked = [lengths[row] for row in order]

    def scores(first: int, last: int) -> int:
        return (last - first) * ranked[first] * (ahead + ranked[first])

    count = len(order)
    whole = scores(0, count)
    parted = [scores(0, at) + scores(at, count) for at in range(1, count)]
    if not parted or whole - min(parted) < _LEAST_SAVING * whole:
        # Rows stay as they stand: nothing is to be gained from another order.
        return [list(range(count))]
    at = 1 + parted.index(min(parted))
    return [order[:at], order[at:]]


class _Pad(torch.autograd.Function):
    """Gather to slots; the gradient of a token is that of its one slot."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return packed.index_select(0, packing.flat)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.packing.slots), None


class _Pack(torch.autograd.Function):
    """Gather from slots; padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return padded.index_select(0, packing.slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        packing = ctx.packing
        return gradients[0].index_select(0, packing.flat).mul_(packing.real), None


_PRESENT: ContextVar[Packing | None] = ContextVar("packing", default=None)


def present_packing() -> Packing | None:
    """The packing of the rows that run through the model right now; None where they are padded."""
    return _PRESENT.get()


@contextmanager
def packed_as(packing: Packing) -> Iterator[None]:
    """What runs through the model while the context lasts is packed so."""
    token = _PRESENT.set(packing)
    try:
        yield
    finally:
        _PRESENT.reset(token)
