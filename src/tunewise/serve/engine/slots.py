"""Keys and values of all running rows, in memory that is laid out once.

A row has one slot for its whole life: its prefix is copied to the front, its own positions follow
place by place, and nothing is moved or copied as it grows. Keys and values of one place stand side
by side, so that one call writes both.

Shapes: L layers, S slots, C places of a slot, K key/value heads, W head width, P prefix positions.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewise.errors import ConfigError
from tunewise.model.base import Base
from tunewise.model.prefix import SharedPrefix, compute_prefix, token_embeddings


@dataclass(frozen=True, slots=True)
class PlaceShape:
    """What one position keeps.

    Attributes:
        layers: L.
        heads: K.
        width: W.
    """

    layers: int
    heads: int
    width: int

    def bytes(self, dtype: torch.dtype) -> int:
        """Memory of one position."""
        return self.layers * 2 * self.heads * self.width * dtype.itemsize


def place_shape(base: Base) -> PlaceShape:
    """What one position of this base keeps, found by running one.

    Raises:
        ConfigError: its layers keep unlike or other things (state spaces, latent attention).
    """
    with torch.no_grad():
        prefix = compute_prefix(base, token_embeddings(base, [0]))
    shapes = {tuple(tensor.shape) for tensor in prefix.tensors()}
    if len(shapes) != 1 or len(prefix.keys) != base.layers:
        raise ConfigError(
            "the embedded engine cannot keep what this base's layers remember",
            found=f"{len(prefix.keys)} of {base.layers} layers with keys and values, of shapes "
            f"{sorted(shapes)}",
            expected="keys and values of one shape in every layer",
            fix="serve another base",
        )
    _, heads, _, width = shapes.pop()
    return PlaceShape(base.layers, heads, width)


class KeyValueSlots:
    """The slots.

    Args:
        shape: of one position.
        slots: S.
        places: C.
        dtype: of keys and values.

    Attributes:
        shape: of one position.
        count: S.
        places: C.
        layers: per layer (S, C, 2K, W): keys, then values.
    """

    def __init__(self, shape: PlaceShape, slots: int, places: int, dtype: torch.dtype) -> None:
        self.shape, self.count, self.places = shape, slots, places
        whole = (shape.layers, slots, places, 2 * shape.heads, shape.width)
        # (L, S, C, 2K, W)
        self._memory = _untouched(whole, dtype)
        self.layers: tuple[Tensor, ...] = tuple(self._memory.unbind(0))
        # (S x C, 2K x W) of every layer: one index tells slot and place.
        self._flat = [layer.view(slots * places, -1) for layer in self.layers]

    def write(self, layer: int, index: Tensor, rows: Tensor) -> None:
        """Write keys and values of N positions.

        Args:
            layer: number of the layer.
            index: (N,) slot x C + place.
            rows: (N, 2K x W).
        """
        self._flat[layer].index_copy_(0, index, rows)

    def put(self, slot: int, prefix: Tensor) -> None:
        """Copy a prefix (L, P, 2K, W) to the front of a slot."""
        self._memory[:, slot, : prefix.shape[1]].copy_(prefix)

    def clear(self, slot: int, begin: int, end: int) -> None:
        """Zero some places of a slot: a mask hides finite numbers only, and adds to others."""
        if begin < end:
            self._memory[:, slot, begin:end].zero_()

    def take(self, slot: int, begin: int, end: int) -> Tensor:
        """A copy (L, end - begin, 2K, W) of some places of a slot."""
        return self._memory[:, slot, begin:end].clone()

    def keys(self, layer: int, slots: slice, length: int) -> Tensor:
        """(s, K, length, W) of some slots; a view."""
        return self.layers[layer][slots, :length, : self.shape.heads].transpose(1, 2)

    def values(self, layer: int, slots: slice, length: int) -> Tensor:
        """(s, K, length, W) of some slots; a view."""
        return self.layers[layer][slots, :length, self.shape.heads :].transpose(1, 2)


def packed_prefix(prefix: SharedPrefix) -> Tensor:
    """Keys and values of a prefix as slots keep them, (L, P, 2K, W)."""
    both = [
        torch.cat([keys[0], values[0]], dim=0).transpose(0, 1)
        for keys, values in zip(prefix.keys, prefix.values, strict=True)
    ]
    return torch.stack(both)


def _untouched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory only where they are written: most slots never fill up."""
    size = math.prod(shape) * dtype.itemsize
    mapped = mmap.mmap(-1, max(size, 1))
    buffer = (ctypes.c_byte * size).from_buffer(mapped)
    return torch.frombuffer(buffer, dtype=dtype).view(shape)
