"""Low-rank changes of many adaptations in one batch.

The A of all adaptations in use lie in one tensor, and so do their B of each product: a batched
product takes every row through the numbers of its own adaptation, in few calls, whatever the number
of adaptations, and no row meets another's (Chen et al. 2024, Punica, and Sheng et al. 2024, S-LoRA,
have kernels of their own that gather; here rows are put in the order of the adaptations instead).
Ranks may differ. Where one request brings many rows, a prompt, they go through their adaptation's
own tensors. All of it is in float32, whose batched products are the quicker ones on processors. The
slow twin in the tests is a loop over rows.

Shapes: N rows, I inputs, O outputs of one product, m products of one input, C adaptations, k rows
of each, R ranks of the largest, g the greatest common divisor of the O of one site, B blocks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tunewise.serve.engine.changes import LowRank, Site

# From so many rows of one request on, calls of their own take less than the others' columns.
LONG = 16


class LowRankPool:
    """The changes of all adaptations in use, beside one another, kept over passes.

    Args:
        sites: of the base.
        layers: L.
    """

    def __init__(self, sites: Sequence[Site], layers: int) -> None:
        self._sites, self._layers = sites, layers
        self._members: list[LowRank] = []
        self._rank = self._capacity = 0
        # (L, C, m, R, I) and (L, C, B, R, g).
        self._down: dict[str, Tensor] = {}
        self._up: dict[str, Tensor] = {}
        # What every pass needs of them; None where it must be cut anew.
        self._products: dict[str, list[_Products]] | None = None

    def place(self, change: LowRank) -> int:
        """Where a change stands; those of `fit` do."""
        return next(at for at, each in enumerate(self._members) if each is change)

    def fit(self, rows: Sequence[LowRank]) -> None:
        """Hold these changes, and no others: each costs reading in every product."""
        wanted = list({id(each): each for each in rows}.values())
        rank = max((each.rank for each in wanted), default=0)
        if rank > self._rank or len(wanted) > self._capacity:
            self._grow(max(rank, self._rank), max(len(wanted), 2 * self._capacity))
        keep, present = ({id(each) for each in some} for some in (wanted, self._members))
        free = [at for at, each in enumerate(self._members) if id(each) not in keep]
        for each in wanted:
            if id(each) not in present:
                self._put(free.pop() if free else len(self._members), each)
        while free:
            last = len(self._members) - 1
            if last in free:
                free.remove(last)
            else:
                self._put(free.pop(), self._members[last])
            self._members.pop()
            self._products = None

    def arrange(
        self, rows: Sequence[LowRank], runs: Sequence[tuple[LowRank, int]] = ()
    ) -> LowRankBatches:
        """What the first rows of a pass need; in the order of their places it takes fewest calls.

        Args:
            rows: the change of each.
            runs: behind them, changes that so many rows in a row share.
        """
        self.fit(rows)
        count, places = len(self._members), [self.place(each) for each in rows]
        if self._products is None:
            used = {name for member in self._members for name in member.down}
            self._products = {
                site.name: _products(site, self._down[site.name][:, :count], self._up[site.name])
                for site in self._sites
                if site.name in used
            }
        found = [LowRankBatch(0, len(rows), self._products, _padded(places, count))]
        begin = len(rows)
        for change, length in runs:
            own = {
                site.name: _products(
                    site, change.down[site.name][:, None], change.up[site.name][:, None]
                )
                for site in self._sites
                if site.name in change.down
            }
            found.append(LowRankBatch(begin, length, own))
            begin += length
        return LowRankBatches(found)

    def _grow(self, rank: int, capacity: int) -> None:
        self._members, self._products = [], None
        self._rank, self._capacity = rank, capacity
        for site in self._sites:
            held = self._layers, capacity
            blocks = len(site.module_of_block)
            self._down[site.name] = torch.zeros(*held, len(site.modules), rank, site.inputs)
            self._up[site.name] = torch.zeros(*held, blocks, rank, site.block)

    def _put(self, at: int, member: LowRank) -> None:
        self._products = None
        for site in self._sites:
            name = site.name
            whole = self._down[name][:, at], self._up[name][:, at]
            if name not in member.down or member.rank < self._rank:
                # What it does not fill must be zero: another's numbers stood there.
                for each in whole:
                    each.zero_()
            if name in member.down:
                for each, own in zip(whole, (member.down[name], member.up[name]), strict=True):
                    each[:, :, : member.rank].copy_(own)
        if at == len(self._members):
            self._members.append(member)
        else:
            self._members[at] = member


def _padded(places: Sequence[int], count: int) -> tuple[Tensor, Tensor] | None:
    """Which row stands where in (C x k), some row where none does, and where each row stands; None
    where rows stand there as they are.
    """
    of = [[row for row, place in enumerate(places) if place == at] for at in range(count)]
    most = max((len(each) for each in of), default=0)
    if [row for own in of for row in own] == list(range(count * most)):
        return None
    padded = [[*own, *[0] * (most - len(own))] for own in of]
    seats = {row: at * most + seat for at, own in enumerate(of) for seat, row in enumerate(own)}
    return torch.tensor(padded).flatten(), torch.tensor([seats[row] for row in range(len(places))])


@dataclass(frozen=True, slots=True)
class _Products:
    """A and B of one layer's products of one input.

    Attributes:
        down: (C, I, m R).
        up: (C x B, R, g).
        members: C.
        modules: m.
        blocks: (B,) which of the m each block is of; None where each has one.
    """

    down: Tensor = field(repr=False)
    up: Tensor = field(repr=False)
    members: int
    modules: int
    blocks: Tensor | None = field(repr=False)


def _products(site: Site, down: Tensor, up: Tensor) -> list[_Products]:
    """Of every layer; cut here, once, since a step asks for a hundred.

    Args:
        site: whose.
        down: (L, C, m, R, I).
        up: (L, C and more, B, R, g).
    """
    modules, of_block = len(site.modules), site.module_of_block
    blocks = None if len(of_block) == modules else torch.tensor(of_block)
    downs = down.flatten(2, 3).transpose(2, 3).unbind()
    ups = up[:, : down.shape[1]].flatten(1, 2).unbind()
    return [
        _Products(*both, down.shape[1], modules, blocks) for both in zip(downs, ups, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class LowRankBatch:
    """The changes of some rows of a pass that follow one another.

    Attributes:
        first: of them.
        count: of them.
        sites: site -> the products of every layer.
        padded: rows in the order of the members, and back; None where they stand so.
    """

    first: int
    count: int
    sites: dict[str, list[_Products]] = field(repr=False)
    padded: tuple[Tensor, Tensor] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class LowRankBatches:
    """The changes of the first rows of a pass: those that go through the pool, and then runs of
    rows with one change each.
    """

    batches: Sequence[LowRankBatch]

    def add(self, site: str, layer: int, rows: Tensor, result: Tensor) -> None:
        """Add to what a product gave, in place.

        Args:
            site: which products.
            layer: number of the layer.
            rows: (N and more, I), the input.
            result: (N and more, m O).
        """
        for batch in self.batches:
            products = batch.sites.get(site)
            if products is not None:
                own = result.narrow(0, batch.first, batch.count)
                _add(own, rows.narrow(0, batch.first, batch.count), products[layer], batch.padded)


def _add(
    result: Tensor, rows: Tensor, products: _Products, padded: tuple[Tensor, Tensor] | None
) -> None:
    """(N, m O) plus what (N, I) gives, in place; rounded once, whatever the result's dtype."""
    total, back = result, None
    if padded is not None:
        there, back = padded
        total, rows = result.index_select(0, there), rows.index_select(0, there)
    members, (_, rank, width) = products.members, products.up.shape
    seats = total.shape[0] // members
    inner = torch.bmm(rows.float().view(members, seats, -1), products.down)
    if products.blocks is not None:
        parts = inner.view(members, seats, products.modules, rank)
        inner = parts.index_select(2, products.blocks)
    found = _cut(total.float(), members, seats, width)
    found.baddbmm_(_cut(inner, members, seats, rank), products.up)
    # In float32, and with one row of each adaptation, that was the result itself.
    if found.data_ptr() != result.data_ptr():
        found = found.view(members, -1, seats, width).transpose(1, 2).reshape(total.shape)
        result.copy_(found if back is None else found.index_select(0, back))


def _cut(numbers: Tensor, members: int, seats: int, width: int) -> Tensor:
    """(C k, B x width) -> (C B, k, width); a view where k is 1."""
    if seats == 1:
        return numbers.view(-1, 1, width)
    return numbers.view(members, seats, -1, width).transpose(1, 2).reshape(-1, seats, width)
