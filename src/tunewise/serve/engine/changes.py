"""Low-rank changes as stored parts hold them, and as the engine's products want them.

Shapes: L layers, I inputs, O outputs of one product, m products of one input, r ranks of one
adaptation, g the greatest common divisor of the O of one site, B = (sum of O) / g blocks of it.
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
# Copied for a moment, beside the part itself.
_CHECKED_AT_ONCE = 16


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
        found[name] = Change(down, up.float() * _scale(config, name, down.shape[0]))
    _check_finite(found)
    return found


def _check_finite(changes: Mapping[str, Change]) -> None:
    """Refuse what is no number, or too large to be rounded to another dtype."""
    both = {name: (change.down.flatten(), change.up.flatten()) for name, change in changes.items()}
    names = list(both)
    # Some at once, since each call costs more than its numbers; one by one only to say which.
    for begin in range(0, len(names), _CHECKED_AT_ONCE):
        some = names[begin : begin + _CHECKED_AT_ONCE]
        if not _small(torch.cat([each for name in some for each in both[name]])):
            bad = next(name for name in some if not _small(torch.cat(both[name])))
            raise AdaptationError(
                "a stored low-rank part holds numbers that are not finite", found=bad
            )


def _small(numbers: Tensor) -> bool:
    # Not a number is never below.
    return bool(numbers.abs().amax() < _MOST)


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    alpha = float(config["lora_alpha"])
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        # PEFT's rule: the pattern is the module's name, or its end behind a dot.
        if name == pattern or name.endswith(f".{pattern}"):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


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

    @property
    def block(self) -> int:
        """g; outputs are cut into blocks of it, so that one batched product makes all of them."""
        return math.gcd(*self.outputs)

    @property
    def module_of_block(self) -> list[int]:
        """Which module's outputs each of the B blocks are."""
        counts = (width // self.block for width in self.outputs)
        return [number for number, count in enumerate(counts) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class LowRank:
    """The changes of one adaptation, stacked over layers.

    Attributes:
        rank: r of the largest change.
        down: site -> (L, m, r, I) float32, A.
        up: site -> (L, B, r, g) float32, B transposed and cut into blocks of outputs.
    """

    rank: int
    down: dict[str, Tensor] = field(repr=False)
    up: dict[str, Tensor] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(each.nbytes for each in (*self.down.values(), *self.up.values()))


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
        of_block = site.module_of_block
        down = torch.zeros(layers, len(site.modules), rank, site.inputs)
        up = torch.zeros(layers, len(of_block), rank, site.block)
        used = False
        for number, module in enumerate(site.modules):
            first, count = of_block.index(number), of_block.count(number)
            for own, chosen in _by_rank(changes, module, layers).items():
                used = True
                whole = [changes[module.format(layer)] for layer in chosen]
                blocks = torch.stack([each.up for each in whole])
                blocks = blocks.view(len(chosen), count, site.block, own).transpose(2, 3)
                down[chosen, number, :own] = torch.stack([each.down for each in whole])
                up[chosen, first : first + count, :own] = blocks
        if used:
            downs[site.name], ups[site.name] = down, up
    return LowRank(rank, downs, ups)


def _by_rank(changes: Mapping[str, Change], module: str, layers: int) -> dict[int, list[int]]:
    """The layers whose module of this name has a change, by its rank."""
    found: dict[int, list[int]] = {}
    for layer in range(layers):
        change = changes.get(module.format(layer))
        if change is not None:
            found.setdefault(change.down.shape[0], []).append(layer)
    return found
