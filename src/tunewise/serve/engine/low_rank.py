"""Low-rank changes of many adaptations in one batch.

The A of all adaptations in use lie in one tensor, and so do their B of each product: a batched
product takes every row through the numbers of its own adaptation, in few calls, whatever the number
of adaptations, and no row meets another's (Chen et al. 2024, Punica, and Sheng et al. 2024, S-LoRA,
have kernels of their own that gather; here rows are put in the order of the adaptations instead).
Ranks may differ. Where one request brings many rows, a prompt, they go through their adaptation's
own tensors. All of it is in float32, whose batched products are the quicker ones on processors. The
slow twin in the tests is a loop over rows.

Shapes: N rows, I inputs, O outputs of one product, m products of one input, C adaptations, k rows
of each, r ranks of one adaptation, R of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tunewise.adaptation.parts import LowRankPart
from tunewise.adaptation.peft_format import injected_names
from tunewise.errors import AdaptationError

_A, _B = ".lora_A.weight", ".lora_B.weight"
_MOST = 1e38
# From so many rows of one request on, calls of their own take less than the others' columns.
LONG = 16


@dataclass(frozen=True, slots=True)
class Change:
    """The low-rank change of one linear layer: x -> x A^T B^T.

    Attributes:
        down: (r, I), A, float32.
        up: (O, r), B, float32, the scale (alpha / r) multiplied in.
    """

    down: Tensor = field(repr=False)
    up: Tensor = field(repr=False)


def changes_of(part: LowRankPart, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Change]:
    """The changes of a stored part by the name of the module they belong to.

    Args:
        part: as PEFT stores it.
        shapes: (O, I) of every linear layer of the base by its module's name.

    Raises:
        AdaptationError: a tensor does not fit the base, or the part is more than A and B.
    """
    config, named = part.config, injected_names(part.tensors)
    odd = sorted(name for name in named if not name.endswith((_A, _B)))
    if config.get("use_dora") or odd:
        raise AdaptationError(
            "the embedded engine carries plain low-rank changes only",
            found="DoRA" if config.get("use_dora") else f"a tensor {odd[0]}",
            expected="A and B of linear layers",
            fix="merge the adaptation into weights and serve those",
        )
    found: dict[str, Change] = {}
    for name in sorted(name.removesuffix(_A) for name in named if name.endswith(_A)):
        down, up = named[name + _A].float(), named.get(name + _B)
        shape = shapes.get(name)
        if shape is None or up is None or (up.shape[0], down.shape[1]) != shape:
            raise AdaptationError(
                "a stored low-rank part does not fit the base",
                found=f"{name}: A {tuple(down.shape)}, B {None if up is None else tuple(up.shape)}",
                expected="no such linear layer" if shape is None else f"O, I = {shape}",
            )
        change = Change(down, up.float() * _scale(config, name, down.shape[0]))
        # Also too large to be rounded to another dtype; not a number is never below.
        if not all(bool(each.abs().amax() < _MOST) for each in (change.down, change.up)):
            raise AdaptationError(
                "a stored low-rank part holds numbers that are not finite", found=name
            )
        found[name] = change
    return found


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    alpha = float(config["lora_alpha"])
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        # PEFT's rule: the pattern is the module's name, or its end behind a dot.
        if name == pattern or name.endswith(f".{pattern}"):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


@dataclass(frozen=True, slots=True)
class LowRank:
    """The changes of one adaptation, stacked over layers.

    Attributes:
        rank: r of the largest change.
        down: site -> (L, m r, I) float32; m products share the site's input.
        up: site -> (L, r, O) float32 of each product, B transposed.
    """

    rank: int
    down: dict[str, Tensor] = field(repr=False)
    up: dict[str, tuple[Tensor, ...]] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        ups = (each for own in self.up.values() for each in own)
        return sum(each.nbytes for each in (*self.down.values(), *ups))


@dataclass(frozen=True, slots=True)
class Site:
    """Products with the same input, made in one.

    Attributes:
        name: for example "qkv".
        modules: names of the modules, with {} for the layer's number.
        outputs: O of each.
        inputs: I.
    """

    name: str
    modules: tuple[str, ...]
    outputs: tuple[int, ...]
    inputs: int


def stack(changes: Mapping[str, Change], sites: Sequence[Site], layers: int) -> LowRank:
    """Changes of one adaptation as sites want them.

    Args:
        changes: by module name.
        sites: of the base.
        layers: L.
    """
    rank = max((change.down.shape[0] for change in changes.values()), default=1)
    downs, ups = {}, {}
    for site in sites:
        down = torch.zeros(layers, len(site.modules) * rank, site.inputs)
        up = tuple(torch.zeros(layers, rank, width) for width in site.outputs)
        used = False
        for layer in range(layers):
            for number, module in enumerate(site.modules):
                change = changes.get(module.format(layer))
                if change is not None:
                    used, own = True, change.down.shape[0]
                    down[layer, number * rank : number * rank + own] = change.down
                    up[number][layer, :own] = change.up.t()
        if used:
            downs[site.name], ups[site.name] = down, up
    return LowRank(rank, downs, ups)


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
        # (L, C, m R, I), and (L, C, R, O) of each product.
        self._down: dict[str, Tensor] = {}
        self._up: dict[str, tuple[Tensor, ...]] = {}

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

    def arrange(
        self, rows: Sequence[LowRank], runs: Sequence[tuple[LowRank, int]] = ()
    ) -> LowRankBatch:
        """What the first rows of a pass need; in the order of their places it takes fewest calls.

        Args:
            rows: the change of each.
            runs: behind them, changes that so many rows in a row share.
        """
        alone, begin = [], len(rows)
        for change, count in runs:
            alone.append((slice(begin, begin + count), change))
            begin += count
        self.fit(rows)
        count = len(self._members)
        down, up = {}, {}
        for site in self._sites:
            if any(site.name in member.down for member in self._members):
                down[site.name] = self._down[site.name][:, :count]
                up[site.name] = tuple(each[:, :count] for each in self._up[site.name])
        places = [self.place(each) for each in rows]
        return LowRankBatch(len(rows), count, down, up, _padded(places, count), alone)

    def _grow(self, rank: int, capacity: int) -> None:
        self._members = []
        self._rank, self._capacity = rank, capacity
        for site in self._sites:
            held = (self._layers, capacity)
            self._down[site.name] = torch.zeros(*held, len(site.modules) * rank, site.inputs)
            self._up[site.name] = tuple(torch.zeros(*held, rank, each) for each in site.outputs)

    def _put(self, at: int, member: LowRank) -> None:
        for site in self._sites:
            down, ups = self._down[site.name][:, at], self._up[site.name]
            own = member.down.get(site.name)
            if own is None or member.rank < self._rank:
                # What it does not fill must be zero: another's numbers stood there.
                for each in (down, *(up[:, at] for up in ups)):
                    each.zero_()
            for number, up in enumerate(ups):
                if own is not None:
                    rows = own[:, number * member.rank : (number + 1) * member.rank]
                    first = number * self._rank
                    down[:, first : first + member.rank].copy_(rows)
                    up[:, at, : member.rank].copy_(member.up[site.name][number])
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
class LowRankBatch:
    """The changes of the first rows of a pass.

    Attributes:
        rows: N, those that go through the pool.
        members: C.
        down: site -> (L, C, m R, I).
        up: site -> (L, C, R, O) of each product.
        padded: rows in the order of the members, and back; None where they stand so.
        alone: rows behind them, with one change for all of them.
    """

    rows: int
    members: int
    down: dict[str, Tensor] = field(repr=False)
    up: dict[str, tuple[Tensor, ...]] = field(repr=False)
    padded: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    alone: Sequence[tuple[slice, LowRank]] = ()

    def add(self, site: str, layer: int, rows: Tensor, result: Tensor) -> None:
        """Add to what a product gave, in place.

        Args:
            site: which products.
            layer: number of the layer.
            rows: (N and more, I), the input.
            result: (N and more, m O).
        """
        for span, change in self.alone:
            if site in change.down:
                up = [each[layer][None] for each in change.up[site]]
                _add(result[span][None], rows[span][None], change.down[site][layer][None], up)
        if site not in self.down:
            return
        down, up = self.down[site][layer], [each[layer] for each in self.up[site]]
        own, found = rows[: self.rows], result[: self.rows]
        if self.padded is None:
            shape = self.members, len(own) // self.members
            _add(found.view(*shape, -1), own.view(*shape, -1), down, up)
            return
        there, back = self.padded
        chosen = own.index_select(0, there).view(self.members, -1, own.shape[1])
        change_of = chosen.new_zeros(*chosen.shape[:2], result.shape[1], dtype=torch.float32)
        _add(change_of, chosen, down, up)
        found.add_(change_of.flatten(0, 1).index_select(0, back))


def _add(result: Tensor, rows: Tensor, down: Tensor, up: Sequence[Tensor]) -> None:
    """(C, k, m O) plus what (C, k, I) gives, in place."""
    inner = torch.bmm(rows.float(), down.transpose(1, 2))
    rank, column = up[0].shape[1], 0
    for number, own in enumerate(up):
        part = inner[:, :, number * rank : (number + 1) * rank]
        columns = result[:, :, column : column + own.shape[2]]
        if result.dtype == torch.float32:
            columns.baddbmm_(part, own)
        else:
            columns.add_(torch.bmm(part, own))
        column += own.shape[2]
