"""Rows without padding: one flat token axis for everything but attention.

Rows of unlike length are padded only where rows must stand side by side, which is attention. All
else (projections, MLPs, normalisation) works on single tokens, so it runs on the N real tokens
instead of B x T slots (Krell et al. 2021 pack rows for the same reason). Attention takes its
queries, keys and values from the flat axis, and puts its result back there.

Shapes: B rows, T tokens of the longest row, N real tokens, P prefix positions, H heads, W head
width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# Below this much padding the copies from and to the flat axis cost more than the padding.
LEAST_PADDING = 0.05


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the real tokens of B x T slots stand on a flat axis, and back.

    Attributes:
        rows: B.
        columns: T.
        flat: (B*T,) place of every slot on the flat axis; 0 where the slot is padding.
        slots: (N,) slot of every place on the flat axis.
        real: (B*T, 1) False where the slot is padding.
    """

    rows: int
    columns: int
    flat: Tensor = field(repr=False)
    slots: Tensor = field(repr=False)
    real: Tensor = field(repr=False)

    @classmethod
    def of(cls, keep: Tensor) -> Packing:
        """The packing of the slots that are kept.

        Args:
            keep: (B, T) True at real tokens.
        """
        rows, columns = keep.shape
        real = keep.flatten()
        slots = real.nonzero()[:, 0]
        flat = torch.zeros_like(real, dtype=torch.long)
        flat[slots] = torch.arange(len(slots), device=keep.device)
        return cls(rows, columns, flat, slots, real[:, None])

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (1, N, ...)."""
        spread = padded.reshape(self.rows * self.columns, -1)
        packed: Tensor = _Pack.apply(spread, self)  # type: ignore[no-untyped-call]  # torch's
        return packed.view(1, len(self.slots), *padded.shape[2:])

    def pad(self, packed: Tensor) -> Tensor:
        """(1, N, H, W) -> (B, T, H, W); what stands in padding is arbitrary, but finite."""
        spread = packed.reshape(len(self.slots), -1)
        padded: Tensor = _Pad.apply(spread, self)  # type: ignore[no-untyped-call]  # torch's
        return padded.view(self.rows, self.columns, *packed.shape[2:])

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(1, H, P+N, W) -> what stands before the rows (1, H, P, W), and the rows' own."""
        count = len(self.slots)
        # One call and not two slices: its backward is one concatenation.
        ahead, own = torch.split(flat, [flat.shape[2] - count, count], dim=2)
        return ahead, own

    def beside_rows(self, ahead: Tensor, own: Tensor) -> Tensor:
        """Keys or values (1, H, P, W) and (1, H, N, W) -> (B, H, P+T, W): the first before every
        row's own.
        """
        padded = self.pad(own.transpose(1, 2)).transpose(1, 2)
        return torch.cat([ahead.expand(self.rows, -1, -1, -1), padded], dim=2)


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
