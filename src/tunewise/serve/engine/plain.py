"""Work through a plain decoder: all rows of one set of weights in one pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.adaptation.parts import LowRankPart, WeightsPart
from tunewise.model.base import Base
from tunewise.serve.engine.attention import SlotAttention
from tunewise.serve.engine.changes import LowRank, changes_of, stack
from tunewise.serve.engine.decoder import Decoder
from tunewise.serve.engine.layout import Lay, WeightSet
from tunewise.serve.engine.low_rank import LONG, LowRankBatches, LowRankPool
from tunewise.serve.engine.slots import KeyValueSlots
from tunewise.serve.engine.work import Inside, Work


class PlainRunner:
    """See `Runner`.

    Args:
        base: the base.
        decoder: runs it.
        own: the base's own weights.
        slots: keys and values.
        lay: makes the products of replaced weights.
    """

    def __init__(
        self, base: Base, decoder: Decoder, own: WeightSet, slots: KeyValueSlots, lay: Lay
    ) -> None:
        self._base, self._decoder, self._own = base, decoder, own
        self._slots, self._lay = slots, lay
        layout = decoder.layout
        self._pool = LowRankPool(layout.sites, layout.layers)
        self._shapes = {
            module.format(layer): (width, site.inputs)
            for layer in range(layout.layers)
            for site in layout.sites
            for module, width in zip(site.modules, site.outputs, strict=True)
        }

    def inside(self, parts: Sequence[Any]) -> Inside:
        """See `Runner.inside`."""
        layout = self._decoder.layout
        weights, low_rank, size = None, None, 0
        for part in parts:
            if isinstance(part, WeightsPart):
                weights = WeightSet(
                    self._base, layout, self._lay, replaced=part.tensors, like=self._own
                )
                size += weights.bytes
            elif isinstance(part, LowRankPart):
                changes = changes_of(part, self._shapes)
                low_rank = stack(changes, layout.sites, layout.layers)
                size += low_rank.bytes
        return Inside(weights, low_rank, size)

    def embed(self, tokens: Sequence[int], inside: Inside) -> Tensor:
        """See `Runner.embed`."""
        weights = self._own if inside.weights is None else inside.weights
        return functional.embedding(torch.tensor(list(tokens)), weights.table)

    def run(self, works: Sequence[Work]) -> list[Tensor]:
        """See `Runner.run`."""
        found: list[Tensor | None] = [None] * len(works)
        sets: dict[int, list[int]] = {}
        for number, work in enumerate(works):
            sets.setdefault(id(work.inside.weights), []).append(number)
        for numbers in sets.values():
            # Rows with a low-rank change come first, in the pool's order, and those of a request
            # that has many behind those of one with few.
            few = [works[number] for number in numbers if _few(works[number])]
            self._pool.fit([work.inside.low_rank for work in few])
            order = sorted(numbers, key=lambda number: self._place(works[number]))
            for number, outcome in zip(
                order, self._pass([works[number] for number in order]), strict=True
            ):
                found[number] = outcome
        return [outcome for outcome in found if outcome is not None]

    def _pass(self, works: Sequence[Work]) -> list[Tensor]:
        weights = works[0].inside.weights
        weights = self._own if weights is None else weights
        layout = self._decoder.layout
        attend = SlotAttention(self._slots, layout.heads, works, self._base.dtype)
        embeddings = torch.cat([work.embeddings for work in works])
        positions = torch.cat([work.positions for work in works])
        hidden = self._decoder.run(weights, embeddings, positions, attend, self._changes(works))
        begins, wanted = 0, []
        for work in works:
            wanted += [begins + place for place in work.wanted]
            begins += work.count
        if wanted:
            chosen = hidden if len(wanted) == len(hidden) else hidden[wanted]
            counts = [len(work.wanted) for work in works]
            logits = iter(torch.split(weights.head(chosen).float(), counts))
        else:
            logits = iter([hidden.new_empty(0, 0)] * len(works))
        pieces = torch.split(hidden, [work.count for work in works])
        return [
            piece.float().sum(dim=0, keepdim=True) if work.pooled else own
            for work, piece, own in zip(works, pieces, logits, strict=True)
        ]

    def _changes(self, works: Sequence[Work]) -> LowRankBatches | None:
        rows: list[LowRank] = []
        runs: list[tuple[LowRank, int]] = []
        for work in works:
            change = work.inside.low_rank
            if _few(work):
                rows += [change] * work.count
            elif change is not None:
                runs.append((change, work.count))
        return self._pool.arrange(rows, runs) if rows or runs else None

    def _place(self, work: Work) -> tuple[bool, int]:
        change = work.inside.low_rank
        return change is None, self._pool.place(change) if _few(work) else sys.maxsize


def _few(work: Work) -> bool:
    """Whether a work's rows go through the pool of low-rank changes."""
    return work.inside.low_rank is not None and work.count < LONG
