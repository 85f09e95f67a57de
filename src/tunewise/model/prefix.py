"""The shared prefix: keys and values of the first P positions, computed once for all rows.

A text prompt, virtual tokens and a trained prefix all become this one thing at run time. In
fitting it is computed once per optimizer step with gradients and expanded over the B rows as a
view; in measuring once per adaptation. Tests hold it against the slow twin that repeats the prompt
on every row, forward and gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunewise.model.base import Base


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Keys and values of P positions.

    Attributes:
        keys: per layer (1, H, P, head width), rotary positions applied; H key/value heads.
        values: per layer (1, H, P, head width).
    """

    keys: tuple[Tensor, ...] = field(default=(), repr=False)
    values: tuple[Tensor, ...] = field(default=(), repr=False)

    @property
    def length(self) -> int:
        """P, the number of positions."""
        return self.keys[0].shape[2] if self.keys else 0

    def tensors(self) -> tuple[Tensor, ...]:
        """All keys, then all values."""
        return self.keys + self.values

    def with_tensors(self, tensors: Sequence[Tensor]) -> SharedPrefix:
        """The same prefix on other tensors, given in the order of `tensors()`."""
        half = len(tensors) // 2
        return SharedPrefix(tuple(tensors[:half]), tuple(tensors[half:]))

    def cache(self, rows: int, *, grows: bool = True) -> Any:
        """A transformers cache that begins with this prefix for every one of `rows` rows.

        The expansion is a view: no memory until a layer appends its own keys and values.

        Args:
            rows: how many there are.
            grows: whether the rows' own keys and values stay in it, for tokens to come.
        """
        from transformers.cache_utils import DynamicCache, DynamicLayer

        cache = DynamicCache()
        for keys, values in zip(self.keys, self.values, strict=True):
            layer = DynamicLayer()
            if not grows:
                layer.update = partial(_beside, layer, {})
            layer.lazy_initialization(keys, values)
            layer.keys = keys.expand(rows, -1, -1, -1)
            layer.values = values.expand(rows, -1, -1, -1)
            cache.layers.append(layer)
        return cache


def _beside(
    layer: Any, told: dict[str, Tensor], keys: Tensor, values: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    """A cache layer's update that leaves it as it was, so that a layer can run twice."""
    if layer.get_seq_length() > 0:
        keys = torch.cat([layer.keys, keys], dim=-2)
        values = torch.cat([layer.values, values], dim=-2)
    told.update(keys=keys, values=values)
    return keys, values


EMPTY_PREFIX = SharedPrefix()


@dataclass(frozen=True, slots=True)
class PrefixInputs:
    """What a shared prefix is computed from.

    Attributes:
        embeddings: (1, P, D) input embeddings, in the dtype of the base; gradients flow through
            them. None where nothing is to be computed.
        after: keys and values that stand before them.
    """

    embeddings: Tensor | None = field(default=None, repr=False)
    after: SharedPrefix = EMPTY_PREFIX

    @property
    def length(self) -> int:
        """All positions before the rows."""
        computed = 0 if self.embeddings is None else int(self.embeddings.shape[1])
        return self.after.length + computed

    def lower(self, base: Base) -> SharedPrefix:
        """The prefix by itself, through the base as it stands now."""
        if self.embeddings is None:
            return self.after
        return compute_prefix(base, self.embeddings, after=self.after)


def backbone(base: Base) -> Any:
    """The model without its output head."""
    return getattr(base.model, base.model.base_model_prefix)


def token_embeddings(base: Base, tokens: Sequence[int]) -> Tensor:
    """Input embeddings (1, T, D) of T tokens, in the dtype of the base."""
    ids = torch.tensor([list(tokens)], dtype=torch.long, device=base.device)
    embedded: Tensor = base.model.get_input_embeddings()(ids)
    return embedded


def compute_prefix(
    base: Base, embeddings: Tensor, *, after: SharedPrefix = EMPTY_PREFIX
) -> SharedPrefix:
    """Run P positions through the base and keep their keys and values.

    Args:
        base: the base, with whatever is attached to it.
        embeddings: (1, P, D) input embeddings; gradients flow through them.
        after: positions that come before these.

    Returns:
        `after` followed by the new positions.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if embeddings.shape[1] == 0:
        return after
    begin = after.length
    cache = after.cache(1) if begin else DynamicCache()
    if not begin:
        cache.layers += [DynamicLayer() for _ in range(base.layers)]
    found: list[dict[str, Tensor]] = [{} for _ in cache.layers]
    for layer, told in zip(cache.layers, found, strict=True):
        layer.update = partial(_beside, layer, told)
    positions = torch.arange(begin, begin + embeddings.shape[1], device=base.device)[None]
    backbone(base)(
        inputs_embeds=embeddings.to(base.dtype),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    # Layers that share the keys of others have none of their own.
    own = [told for told in found if told]
    # Attention hands them over as views of its own order; what is trained from them must not
    # depend on whether it was stored in between.
    return SharedPrefix(
        tuple(told["keys"].contiguous() for told in own),
        tuple(told["values"].contiguous() for told in own),
    )
