"""Which bases are plain decoders, and their weights in the form that a few calls run.

Plain decoders are those of the Llama family: root mean square norms before attention and a gated
MLP, rotary positions, nothing else. Names of parameters say whether a base looks like one; whether
it is one is tried (`plain_decoder` in decoder.py).

Shapes: D width, H query heads, K key/value heads, W head width, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.model.frozen import laid_product, lay_out, lays_out
from tunewise.model.prefix import backbone
from tunewise.serve.engine.changes import Site

_EPSILON_NAMES = ("variance_epsilon", "eps")
_SITES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")

Multiply = Callable[[Tensor], Tensor]
"""(N, I) -> (N, O)."""
Lay = Callable[[Tensor, "Tensor | None"], "Laid"]
"""Makes a product of a weight (O, I) and a bias (O,)."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A product with one weight, or several of the same input.

    Attributes:
        multiply: (N, I) -> (N, O).
        bytes: memory of the weight as it is kept.
    """

    multiply: Multiply = field(repr=False)
    bytes: int


def unlaid(weight: Tensor, bias: Tensor | None) -> Laid:
    """A weight as it is."""
    return Laid(lambda rows: functional.linear(rows, weight, bias), weight.nbytes)


def plain_lay(base: Base) -> Lay:
    """Weights in the kernels' own layout where this build of PyTorch has it, else as they are."""

    def lay(weight: Tensor, bias: Tensor | None) -> Laid:
        ordered = lay_out(weight)
        return Laid(lambda rows: laid_product(rows, ordered, bias), weight.nbytes)

    return lay if lays_out(base) else unlaid


@dataclass(frozen=True, slots=True)
class Layout:
    """How a plain decoder's parameters are called and shaped.

    Attributes:
        stem: what stands before a layer's parameters, with {} for its number.
        layers: L.
        heads: H.
        groups: K.
        width: W.
        sites: products of one input, by module names.
        epsilon: of the norms.
        normed_heads: whether queries and keys are normed head by head.
    """

    stem: str
    layers: int
    heads: int
    groups: int
    width: int
    sites: tuple[Site, ...]
    epsilon: float
    normed_heads: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: scales (D,) of its two norms and of heads (H + K, W), and its four products."""

    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)
    heads: Tensor | None = field(repr=False)
    qkv: Multiply = field(repr=False)
    out: Multiply = field(repr=False)
    gate_up: Multiply = field(repr=False)
    down: Multiply = field(repr=False)


def find_layout(base: Base) -> Layout | None:
    """The layout of a base that looks like a plain decoder; None where it does not."""
    named = dict(base.model.named_parameters())
    body = f"{base.model.base_model_prefix}."
    stem = body + "layers.{}."
    first = stem.format(0)
    present = {name.removeprefix(first) for name in named if name.startswith(first)}
    modules = [module for own in _SITES.values() for module in own]
    needed = {*_NORMS, *(f"{module}.weight" for module in modules)}
    optional = {*_HEAD_NORMS, *(f"{module}.bias" for module in modules)}
    inside = sum(name.startswith(f"{body}layers.") for name in named)
    if not needed <= present <= needed | optional or inside != len(present) * base.layers:
        return None
    final = getattr(backbone(base), "norm", None)
    epsilon = next((getattr(final, name, None) for name in _EPSILON_NAMES), None)
    width = getattr(backbone(base).layers[0].self_attn, "head_dim", None)
    rotary = getattr(backbone(base), "rotary_emb", None)
    head = base.model.get_output_embeddings()
    if not isinstance(width, int) or not isinstance(epsilon, float) or None in (rotary, head):
        return None
    shapes = {module: named[f"{first}{module}.weight"].shape for module in modules}
    sites = tuple(
        Site(
            name,
            tuple(stem + module for module in own),
            tuple(int(shapes[module][0]) for module in own),
            int(shapes[own[0]][1]),
        )
        for name, own in _SITES.items()
    )
    queries, keys, _ = (count // width for count in sites[0].outputs)
    normed = present >= set(_HEAD_NORMS)
    return Layout(stem, base.layers, queries, keys, width, sites, epsilon, normed)


class WeightSet:
    """All weights of a plain decoder: the base's own, or with some replaced.

    Args:
        base: the base.
        layout: its layout.
        lay: makes the products.
        replaced: tensors in place of the base's own, by parameter name.
        like: a set of the base's own, whose products are shared where nothing is replaced.

    Attributes:
        table: (V, D) input embeddings.
        norm: (D,) scale of the last norm.
        layers: the layers.
        head: the output head.
        bytes: memory of what is not shared.

    Raises:
        AdaptationError: a replaced tensor does not fit the base.
    """

    def __init__(
        self,
        base: Base,
        layout: Layout,
        lay: Lay,
        *,
        replaced: Mapping[str, Tensor] | None = None,
        like: WeightSet | None = None,
    ) -> None:
        self._lay, self._like = lay, like
        self._tensors: dict[str, Tensor] = dict(base.model.named_parameters(remove_duplicate=False))
        # Tied tensors go by the first of their names.
        self._first = {id(tensor): name for name, tensor in base.model.named_parameters()}
        self._replaced = {} if replaced is None else fitting(base, replaced)
        self._products: dict[str, Laid] = {}
        self.bytes = 0
        body = base.model.base_model_prefix
        tables = base.model.get_input_embeddings(), base.model.get_output_embeddings()
        entry, out = (self._first[id(module.weight)] for module in tables)
        self.table = self._tensor(entry)
        self.norm = self._tensor(f"{body}.norm.weight")
        self.head = self._product("head", (out,), (None,))
        self.layers = [self._layer(layout, number) for number in range(layout.layers)]

    def _layer(self, layout: Layout, number: int) -> Layer:
        stem = layout.stem.format(number)
        products = {}
        for site in layout.sites:
            modules = [module.format(number) for module in site.modules]
            names = tuple(f"{module}.weight" for module in modules)
            biases = tuple(
                bias if (bias := f"{module}.bias") in self._tensors else None for module in modules
            )
            products[site.name] = self._product(f"{number}.{site.name}", names, biases)
        before, after = (self._tensor(stem + name) for name in _NORMS)
        heads = None
        if layout.normed_heads:
            scales = [self._tensor(stem + name) for name in _HEAD_NORMS]
            counts = (layout.heads, layout.groups)
            spread = [s.expand(n, -1) for s, n in zip(scales, counts, strict=True)]
            heads = torch.cat(spread)
        return Layer(before, after, heads, **products)

    def _tensor(self, name: str) -> Tensor:
        found = self._replaced.get(name)
        if found is None:
            return self._tensors[name].detach()
        self.bytes += found.nbytes
        return found

    def _product(
        self, key: str, names: tuple[str, ...], biases: tuple[str | None, ...]
    ) -> Multiply:
        shared = None if self._like is None else self._like._products.get(key)
        if shared is not None and self._replaced.keys().isdisjoint({*names, *biases}):
            self._products[key] = shared
            return shared.multiply
        weights = [self._replaced.get(name, self._tensors[name].detach()) for name in names]
        bias = None
        if any(name is not None for name in biases):
            pieces = [
                weight.new_zeros(len(weight))
                if name is None
                else self._replaced.get(name, self._tensors[name].detach())
                for name, weight in zip(biases, weights, strict=True)
            ]
            bias = torch.cat(pieces)
        product = self._products[key] = self._lay(torch.cat(weights), bias)
        self.bytes += product.bytes
        return product.multiply


def fitting(base: Base, replaced: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replaced tensors in the dtype and on the device of the base.

    Raises:
        AdaptationError: one does not fit, or holds numbers that are not finite.
    """
    named: dict[str, Any] = dict(base.model.named_parameters())
    found = {}
    for name, tensor in replaced.items():
        if name not in named or named[name].shape != tensor.shape:
            shape = tuple(named[name].shape) if name in named else "no such tensor"
            raise AdaptationError(
                "a stored weight does not fit the base",
                found=f"{name} of shape {tuple(tensor.shape)}",
                expected=f"{shape} in {base.name}",
            )
        found[name] = tensor.to(device=base.device, dtype=named[name].dtype)
        if not found[name].isfinite().all():
            raise AdaptationError("a stored weight holds numbers that are not finite", found=name)
    return found
