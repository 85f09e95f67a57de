"""Activations of frozen lower layers: computed once, kept over all steps of a fit.

Where only the last layers are trained, what reaches them from below is the same at every step: the
prefix and the rows are frozen there, and a row sees only itself and the prefix. So the layers below
run once over all rows, and every step begins at the lowest trained layer. It costs one pass over
the rows, and the memory of one activation a token. The slow twin in the tests runs all layers at
every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from tunewise.model.answers import Example
from tunewise.model.base import Base
from tunewise.model.forward import group_by_length, has_plain_head, pad_rows
from tunewise.model.joined import joinable, joined_inputs
from tunewise.model.layers import layer_modules
from tunewise.model.packing import packed_as
from tunewise.model.prefix import PrefixInputs, backbone

# Of the machine's memory, not of what is free: a fit that goes on must go on in the same way.
_MOST_OF_MEMORY = 0.1
_MOST_POSITIONS, _MOST_ROWS = 4096, 64


class LowerActivations:
    """What the lowest trained layer is given, for the prefix and for every row.

    Args:
        base: the base, with whatever is attached to it.
        examples: the rows of the fit.
        layers: how many layers from below are frozen.
    """

    def __init__(self, base: Base, examples: Sequence[Example], layers: int) -> None:
        self.base, self.examples, self.layers = base, examples, layers
        self._in_tuple = False
        self._prefix: Tensor | None = None
        self._rows: list[Tensor] = []

    @property
    def share(self) -> float:
        """Share of the base's layers that no step runs any more."""
        return self.layers / self.base.layers

    def positions(self, prefix_positions: int) -> int:
        """Positions that `compute` runs through the lower layers.

        Args:
            prefix_positions: positions of the prefix that are computed.
        """
        rows = sum(len(example.inputs) for example in self.examples)
        return rows + prefix_positions * len(self._batches())

    def fits(self, prefix_positions: int) -> bool:
        """Whether the base can be run so, and all activations be kept.

        Args:
            prefix_positions: positions of the prefix that are computed.
        """
        kept = self.positions(prefix_positions) * self.base.width * self.base.dtype.itemsize
        room = _MOST_OF_MEMORY * psutil.virtual_memory().total
        return kept <= room and joinable(self.base) and len(layer_modules(self.base)) > self.layers

    @torch.no_grad()
    def compute(self, ahead: PrefixInputs) -> None:
        """Run the lower layers once over the prefix and all rows.

        Args:
            ahead: the prefix.
        """
        # Asked now: it runs a probe, which the layers would not see while their output is given.
        has_plain_head(self.base)
        computed = ahead.length - ahead.after.length
        rows: dict[int, Tensor] = {}
        for batch in self._batches():
            hidden = self._below(ahead, [self.examples[index].inputs for index in batch])
            lengths = [len(self.examples[index].inputs) for index in batch]
            # Copies: a view would keep what belongs to the whole batch.
            prefix, *own = (piece.clone() for piece in torch.split(hidden, [computed, *lengths]))
            # Batches of other sizes give it other last bits; the first batch's stands for all.
            self._prefix = prefix if self._prefix is None else self._prefix
            rows.update(zip(batch, own, strict=True))
        self._rows = [rows[index] for index in range(len(self.examples))]

    @contextmanager
    def used(self, batch: Sequence[int]) -> Iterator[None]:
        """In place of running, the lower layers give what was kept of these rows.

        Args:
            batch: row indices, in the order the rows stand on the flat axis.
        """
        if self._prefix is None:
            raise RuntimeError("activations are used before they are computed")
        kept = torch.cat([self._prefix, *(self._rows[index] for index in batch)])[None]
        given = (kept,) if self._in_tuple else kept
        lower = layer_modules(self.base)[: self.layers]
        present = [vars(layer).get("forward") for layer in lower]
        try:
            for layer in lower:
                # An instance's own `forward` goes before that of its class.
                layer.forward = lambda *_, **__: given
            yield
        finally:
            for layer, forward in zip(lower, present, strict=True):
                vars(layer).pop("forward", None)
                if forward is not None:
                    layer.forward = forward

    def _batches(self) -> list[list[int]]:
        lengths = [len(example.inputs) for example in self.examples]
        return group_by_length(lengths, most_positions=_MOST_POSITIONS, most_rows=_MOST_ROWS)

    def _below(self, ahead: PrefixInputs, inputs: Sequence[Sequence[int]]) -> Tensor:
        """(positions, D) of the flat axis, as they enter the lowest trained layer."""
        flat, packing = joined_inputs(
            self.base, ahead, pad_rows(inputs, self.base.device, left=False)
        )
        found: list[Tensor] = []

        def take(_: nn.Module, __: Any, given: Any) -> None:
            # Some architectures' layers give a tuple, of which the activations are the first.
            self._in_tuple = isinstance(given, tuple)
            found.append(given[0] if self._in_tuple else given)
            raise _FarEnoughError

        handle = layer_modules(self.base)[self.layers - 1].register_forward_hook(take)
        try:
            with packed_as(packing), suppress(_FarEnoughError):
                backbone(self.base)(**flat)
        finally:
            handle.remove()
        return found[0][0]


class _FarEnoughError(Exception):
    """Ends a pass through the base before the trained layers."""
