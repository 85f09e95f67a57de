"""Work through a base's own forward, for architectures that are no plain decoders.

Rows with the same change inside the model run together, one step each; longer pieces run one by
one. Keys and values live in the same slots, behind a cache that transformers' layers write through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.adaptation.attach import attached
from tunewise.adaptation.parts import LowRankPart, WeightsPart
from tunewise.model.base import Base
from tunewise.model.forward import has_plain_head, layer_masks, logits_at
from tunewise.model.low_rank import add_low_rank
from tunewise.model.prefix import backbone, token_embeddings
from tunewise.serve.engine.attention import allowed_of
from tunewise.serve.engine.changes import Change, changes_of
from tunewise.serve.engine.layout import fitting
from tunewise.serve.engine.slots import KeyValueSlots
from tunewise.serve.engine.work import Inside, Work


class GeneralRunner:
    """See `Runner`.

    Args:
        base: the base, with nothing attached.
        slots: keys and values.
    """

    def __init__(self, base: Base, slots: KeyValueSlots) -> None:
        self._base, self._slots = base, slots
        self._plain_head = has_plain_head(base)
        self._modules = _linear_modules(base)

    def inside(self, parts: Sequence[Any]) -> Inside:
        """See `Runner.inside`."""
        weights, low_rank, size = None, None, 0
        for part in parts:
            if isinstance(part, WeightsPart):
                weights = WeightsPart(fitting(self._base, part.tensors))
                size += sum(tensor.nbytes for tensor in weights.tensors.values())
            elif isinstance(part, LowRankPart):
                shapes = {name: shape for name, (_, shape) in self._modules.items()}
                dtype = self._base.dtype
                low_rank = {
                    name: Change(change.down.to(dtype), change.up.to(dtype))
                    for name, change in changes_of(part, shapes).items()
                }
                size += sum(each.down.nbytes + each.up.nbytes for each in low_rank.values())
        return Inside(weights, low_rank, size)

    def embed(self, tokens: Sequence[int], inside: Inside) -> Tensor:
        """See `Runner.embed`."""
        with self._with(inside):
            return token_embeddings(self._base, tokens)[0]

    def run(self, works: Sequence[Work]) -> list[Tensor]:
        """See `Runner.run`."""
        found: list[Tensor | None] = [None] * len(works)
        groups: dict[tuple[int, int, bool], list[list[int]]] = {}
        for number, work in enumerate(works):
            step = work.count == 1 and work.allowed is None and not work.pooled
            key = (id(work.inside.weights), id(work.inside.low_rank), step)
            batches = groups.setdefault(key, [])
            if step and batches:
                batches[0].append(number)
            else:
                batches.append([number])
        for batches in groups.values():
            with self._with(works[batches[0][0]].inside):
                for numbers in batches:
                    outcomes = self._batch([works[number] for number in numbers])
                    for number, outcome in zip(numbers, outcomes, strict=True):
                        found[number] = outcome
        return [outcome for outcome in found if outcome is not None]

    def _batch(self, works: Sequence[Work]) -> list[Tensor]:
        """Rows of as many positions each."""
        base, first = self._base, works[0]
        length = max(work.end for work in works)
        allowed = torch.zeros(len(works), first.count, length, dtype=torch.bool)
        places = torch.arange(length).repeat(len(works), 1)
        for row, work in enumerate(works):
            allowed[row, :, : work.end] = allowed_of(work)
            places[row, work.begin : work.end] = work.positions
        positions = torch.stack([work.positions for work in works])
        inputs = {
            "inputs_embeds": torch.stack([work.embeddings for work in works]),
            "position_ids": positions.to(base.device),
            "attention_mask": layer_masks(
                base,
                allowed.to(base.device),
                positions.to(base.device),
                places.to(base.device),
            ),
            "past_key_values": self._cache(works, length),
            "use_cache": True,
        }
        if first.pooled:
            hidden = backbone(base)(**inputs).last_hidden_state
            return [hidden[0].float().sum(dim=0, keepdim=True)]
        rows = [row for row, work in enumerate(works) for _ in work.wanted]
        at = [place for work in works for place in work.wanted]
        select = torch.tensor(rows, dtype=torch.long), torch.tensor(at, dtype=torch.long)
        logits = logits_at(base, inputs, select, plain=self._plain_head)
        return list(torch.split(logits, [len(work.wanted) for work in works]))

    def _cache(self, works: Sequence[Work], length: int) -> Any:
        """A transformers cache whose layers write to the slots and read from them."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        slots = self._slots
        index = slots.index([(work.slot, work.begin, work.end) for work in works])
        chosen = torch.tensor([work.slot for work in works])
        cache = DynamicCache()
        for number in range(slots.shape.layers):
            layer = DynamicLayer()
            before = slots.keys(number, slice(0, 1), length - works[0].count)
            layer.lazy_initialization(before, before)
            layer.keys = layer.values = before
            layer.update = partial(_written, slots, number, index, chosen, length)
            cache.layers.append(layer)
        return cache

    @contextmanager
    def _with(self, inside: Inside) -> Iterator[None]:
        with ExitStack() as stack:
            if inside.weights is not None:
                stack.enter_context(attached(self._base, [inside.weights]))
            if inside.low_rank is not None:
                stack.enter_context(_changed(self._modules, inside.low_rank))
            yield


def _written(
    slots: KeyValueSlots,
    number: int,
    index: Tensor,
    chosen: Tensor,
    length: int,
    keys: Tensor,
    values: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    """A cache layer's update: (B, K, T, W) go into the slots, (B, K, length, W) come out."""
    both = torch.cat([keys, values], dim=1).transpose(1, 2)
    slots.write(number, index, both.reshape(-1, both.shape[3]))
    if len(chosen) == 1:
        span = slice(int(chosen[0]), int(chosen[0]) + 1)
        return slots.keys(number, span, length), slots.values(number, span, length)
    kept = slots.layers[number][chosen, :, :length]
    heads = slots.shape.heads
    return kept[:, :heads], kept[:, heads:]


def _linear_modules(base: Base) -> dict[str, tuple[nn.Module, tuple[int, int]]]:
    """Linear layers by name, each with (O, I)."""
    from transformers.pytorch_utils import Conv1D

    found: dict[str, tuple[nn.Module, tuple[int, int]]] = {}
    for name, module in base.model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = module, (module.weight.shape[0], module.weight.shape[1])
        elif isinstance(module, Conv1D):
            found[name] = module, (module.weight.shape[1], module.weight.shape[0])
    return found


@contextmanager
def _changed(
    modules: Mapping[str, tuple[nn.Module, tuple[int, int]]], changes: Mapping[str, Change]
) -> Iterator[None]:
    """Linear layers with low-rank changes, while the context lasts."""
    try:
        for name, change in changes.items():
            module = modules[name][0]
            # An instance's own `forward` goes before that of its class.
            module.forward = partial(_with_change, module, change)
        yield
    finally:
        for name in changes:
            vars(modules[name][0]).pop("forward", None)


def _with_change(module: Any, change: Change, rows: Tensor) -> Tensor:
    return add_low_rank(type(module).forward(module, rows), rows, change.down, change.up, 1.0)
