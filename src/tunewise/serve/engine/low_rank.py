"""Low-rank changes of many adaptations in one batch.

The A of all adaptations in use stand below one another in one matrix, and so do their B: every row
goes through both products, and between them its numbers for all adaptations but its own are set to
zero. Three calls for each product of the base, whatever the number of adaptations, ranks may
differ, and rows of one adaptation share its numbers (Chen et al. 2024, Punica, and Sheng et al.
2024, S-LoRA, gather them with kernels of their own; at the few dozen rows of a processor's batch
the dense product is cheaper than any gathering). The slow twin in the tests is PEFT's own layer.

Shapes: N rows, I inputs, O outputs, r ranks of one adaptation, R of all together.
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
# Regions of adaptations that are no longer in use may stay, since rows of the same adaptation tend
# to come again; more than so many are idle work in every product.
_IDLE = 1
_MOST = 1e38


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
    """The changes of one adaptation, stacked over layers, for products that are made in one.

    Attributes:
        rank: r of the largest change.
        down: site -> (L, m r, I); m products share the site's input.
        up: site -> (L, m r, O), B transposed; each product's columns are its own, zero elsewhere.
    """

    rank: int
    down: dict[str, Tensor] = field(repr=False)
    up: dict[str, Tensor] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(each.nbytes for each in (*self.down.values(), *self.up.values()))


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


def stack(
    changes: Mapping[str, Change], sites: Sequence[Site], layers: int, dtype: torch.dtype
) -> LowRank:
    """Changes of one adaptation as sites want them.

    Args:
        changes: by module name.
        sites: of the base.
        layers: L.
        dtype: to compute in.
    """
    rank = max((change.down.shape[0] for change in changes.values()), default=1)
    downs, ups = {}, {}
    for site in sites:
        rows = len(site.modules) * rank
        down = torch.zeros(layers, rows, site.inputs)
        up = torch.zeros(layers, rows, sum(site.outputs))
        used = False
        for layer in range(layers):
            column = 0
            for number, (module, width) in enumerate(zip(site.modules, site.outputs, strict=True)):
                change = changes.get(module.format(layer))
                if change is not None:
                    used, own = True, change.down.shape[0]
                    block = slice(number * rank, number * rank + own)
                    down[layer, block] = change.down
                    up[layer, block, column : column + width] = change.up.t()
                column += width
        if used:
            downs[site.name], ups[site.name] = down.to(dtype), up.to(dtype)
    return LowRank(rank, downs, ups)


class LowRankPool:
    """The changes of all adaptations in use, below one another, kept over passes.

    Args:
        sites: of the base.
        layers: L.
        dtype: to compute in.
    """

    def __init__(self, sites: Sequence[Site], layers: int, dtype: torch.dtype) -> None:
        self._sites, self._layers, self._dtype = sites, layers, dtype
        self._members: list[LowRank] = []
        self._rank = 0
        self._capacity = 0
        self._down: dict[str, Tensor] = {}
        self._up: dict[str, Tensor] = {}

    def arrange(self, rows: Sequence[LowRank]) -> LowRankBatch:
        """What rows need that have these changes, in this order."""
        wanted = list({id(each): each for each in rows}.values())
        self._fit(wanted)
        place = {id(each): index for index, each in enumerate(self._members)}
        own = torch.tensor([place[id(each)] for each in rows])
        count = len(self._members)
        others = own[:, None] != torch.arange(count)
        masks, down, up = {}, {}, {}
        for site in self._sites:
            if any(site.name in member.down for member in self._members):
                unit = len(site.modules) * self._rank
                masks[site.name] = others.repeat_interleave(unit, dim=1)
                down[site.name] = self._down[site.name][:, : count * unit]
                up[site.name] = self._up[site.name][:, : count * unit]
        return LowRankBatch(len(rows), masks, down, up)

    def _fit(self, wanted: list[LowRank]) -> None:
        rank = max(each.rank for each in wanted)
        keep = {id(each) for each in wanted}
        idle = [at for at, each in enumerate(self._members) if id(each) not in keep]
        most = len(wanted) + _IDLE
        if rank > self._rank or most > self._capacity:
            self._grow(max(rank, self._rank), max(most, 2 * self._capacity))
            self._members, idle = [], []
        present = {id(each) for each in self._members}
        for each in wanted:
            if id(each) not in present:
                self._place(idle.pop() if idle else len(self._members), each)
        while len(idle) > _IDLE:
            last = len(self._members) - 1
            if last in idle:
                idle.remove(last)
            else:
                # The last takes the place of one that nobody uses.
                self._place(idle.pop(), self._members[last])
            self._members.pop()

    def _grow(self, rank: int, capacity: int) -> None:
        self._rank, self._capacity = rank, capacity
        for site in self._sites:
            rows = capacity * len(site.modules) * rank
            shapes = (self._layers, rows, site.inputs), (self._layers, rows, sum(site.outputs))
            self._down[site.name] = torch.zeros(shapes[0], dtype=self._dtype)
            self._up[site.name] = torch.zeros(shapes[1], dtype=self._dtype)

    def _place(self, at: int, member: LowRank) -> None:
        for site in self._sites:
            unit = len(site.modules) * self._rank
            for pool, own in ((self._down, member.down), (self._up, member.up)):
                region = pool[site.name][:, at * unit : (at + 1) * unit]
                tensor = own.get(site.name)
                # What it does not fill must be zero: another's numbers stood there.
                filled = 0 if tensor is None else tensor.shape[1]
                region[:, filled:].zero_()
                if tensor is not None:
                    region[:, :filled].copy_(tensor)
        if at == len(self._members):
            self._members.append(member)
        else:
            self._members[at] = member


@dataclass(frozen=True, slots=True)
class LowRankBatch:
    """The changes of the first N rows of a pass.

    Attributes:
        count: N.
        masks: site -> (N, R), True in the columns of other adaptations than a row's own.
        down: site -> (L, R, I).
        up: site -> (L, R, O).
    """

    count: int
    masks: dict[str, Tensor] = field(repr=False)
    down: dict[str, Tensor] = field(repr=False)
    up: dict[str, Tensor] = field(repr=False)

    def add(self, site: str, layer: int, rows: Tensor, result: Tensor) -> None:
        """Add to what a product gave, in place.

        Args:
            site: which products.
            layer: number of the layer.
            rows: (N and more, I), the input.
            result: (N and more, O).
        """
        down = self.down.get(site)
        if down is None:
            return
        inner = rows[: self.count] @ down[layer].t()
        # Filled and not multiplied: what overflows in another's columns stays there.
        inner.masked_fill_(self.masks[site], 0.0)
        result[: self.count].addmm_(inner, self.up[site][layer])
