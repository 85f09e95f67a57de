"""A plain decoder, run in few calls.

transformers' own forward spends most of a one-token step on the way to the arithmetic: some 60
calls a layer, caches that grow by copying, masks made anew. Here a layer takes some 20 calls,
products of the same input are made in one, and weights are laid out once for the processor's
kernels. A base is run so where trying it on a few positions gives what its own forward gives;
others run through that (general.py).

Shapes: N positions on one flat axis, D width, H query heads, K key/value heads, W head width,
V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.model.base import Base
from tunewise.model.prefix import backbone
from tunewise.serve.engine.layout import Lay, Layout, WeightSet, find_layout, unlaid
from tunewise.serve.engine.low_rank import LowRankBatches

_PROBE = 6
# The same numbers but for the last bits of each dtype.
_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


class Attend(Protocol):
    """Attention over what is kept: writes the new keys and values, then attends."""

    def __call__(self, layer: int, queries: Tensor, kept: Tensor) -> Tensor:
        """(N, H, W) queries and (N, 2K x W) keys and values -> (N, H x W)."""
        ...


class Decoder:
    """Runs positions through a set of weights.

    Args:
        base: the base.
        layout: its layout.
        places: the most positions.
    """

    def __init__(self, base: Base, layout: Layout, places: int) -> None:
        self.layout = layout
        self._scaling = layout.width**-0.5
        probe = torch.zeros(1, 1, layout.width, dtype=torch.float32)
        ids = torch.arange(places, device=base.device)[None]
        cos, sin = backbone(base).rotary_emb(probe.to(base.dtype), ids)
        half = layout.width // 2
        # (places, 1, W); the sign of the rotation stands in the sine, so that turning is a roll.
        self._cos = cos[0, :, None].contiguous()
        self._sin = torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], dim=-1)
        self._eps = torch.tensor(layout.epsilon, device=base.device)

    def run(
        self,
        weights: WeightSet,
        hidden: Tensor,
        positions: Tensor,
        attend: Attend,
        changes: LowRankBatches | None = None,
    ) -> Tensor:
        """The last hidden states, normed.

        Args:
            weights: what to run through.
            hidden: (N, D) input embeddings.
            positions: (N,).
            attend: attention.
            changes: low-rank changes of the first rows.

        Returns:
            (N, D).
        """
        layout = self.layout
        count, turned = len(hidden), layout.heads + layout.groups
        cos, sin = self._cos[positions], self._sin[positions]
        half = layout.width // 2
        for number, layer in enumerate(weights.layers):
            rows = self._normed(hidden, layer.before)
            qkv = layer.qkv(rows)
            if changes is not None:
                changes.add("qkv", number, rows, qkv)
            heads = qkv.view(count, -1, layout.width)
            both = heads[:, :turned]
            if layer.heads is not None:
                both = self._normed(both, layer.heads)
            both = torch.addcmul(both * cos, both.roll(half, -1), sin)
            kept = torch.cat([both[:, layout.heads :], heads[:, turned:]], dim=1)
            mixed = attend(number, both[:, : layout.heads], kept.view(count, -1))
            found = layer.out(mixed)
            if changes is not None:
                changes.add("out", number, mixed, found)
            hidden = hidden + found
            rows = self._normed(hidden, layer.after)
            wide = layer.gate_up(rows)
            if changes is not None:
                changes.add("gate_up", number, rows, wide)
            gate, up = wide.chunk(2, dim=1)
            active = functional.silu(gate).mul_(up)
            found = layer.down(active)
            if changes is not None:
                changes.add("down", number, active, found)
            hidden = hidden + found
        return self._normed(hidden, weights.norm)

    def _normed(self, rows: Tensor, scale: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
        unit = torch.addcmul(self._eps, length, length, value=1 / rows.shape[-1]).rsqrt_()
        return (rows * unit).to(rows.dtype) * scale


def plain_decoder(base: Base, places: int, lay: Lay) -> tuple[Decoder, WeightSet] | None:
    """A decoder for a base and its own weights; None where the base is not a plain decoder.

    Args:
        base: the base, with nothing attached.
        places: the most positions of a row.
        lay: makes the products of its weights.
    """
    layout = find_layout(base)
    if layout is None or base.device.type != "cpu":
        return None
    with torch.no_grad():
        decoder = Decoder(base, layout, places)
        # Tried with the weights as they are: rounded ones would hide what differs.
        exact = WeightSet(base, layout, unlaid)
        tokens = torch.arange(_PROBE) * 7 % base.vocabulary
        wanted = base.model(input_ids=tokens[None]).logits[0].float()
        try:
            hidden = decoder.run(exact, exact.table[tokens], torch.arange(_PROBE), _causal(layout))
            tried = exact.head(hidden).float()
        except RuntimeError:
            # A shape that this decoder does not take.
            return None
        close = torch.dist(tried, wanted) <= _CLOSE[base.dtype] * wanted.norm()
        if not close or _bends(base, places):
            return None
        return decoder, WeightSet(base, layout, lay)


def _causal(layout: Layout) -> Attend:
    """Attention of a few positions over themselves, nothing kept."""

    def attend(layer: int, queries: Tensor, kept: Tensor) -> Tensor:
        count = len(queries)
        keys, values = kept.view(count, 2, layout.groups, layout.width).unbind(1)
        query, key, value = (each.transpose(0, 1)[None] for each in (queries, keys, values))
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        return mixed[0].transpose(0, 1).reshape(count, -1)

    return attend


def _bends(base: Base, places: int) -> bool:
    """Whether rotary positions depend on how long a row is, or layers see a window only."""
    config = base.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    probe = torch.zeros(1, 1, 1, dtype=base.dtype)
    rotary = backbone(base).rotary_emb
    short = rotary(probe, torch.arange(_PROBE)[None])
    long = rotary(probe, torch.arange(places)[None])
    again = rotary(probe, torch.arange(_PROBE)[None])
    same = all(
        one.equal(other[:, :_PROBE]) and one.equal(third)
        for one, other, third in zip(short, long, again, strict=True)
    )
    window = getattr(config, "sliding_window", None)
    windowed = kinds != {"full_attention"} or (
        window is not None
        and getattr(config, "use_sliding_window", True)
        and getattr(config, "layer_types", None) is None
    )
    return not same or windowed
