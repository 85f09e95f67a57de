"""Activation checkpointing: layers that keep their input only and are run again on the way back.

Chen et al. 2016, section 4. It costs another forward pass, so it is done only where a step would
otherwise take most of the memory that is free. The numbers are the same, bit for bit: the same
operations run on the same inputs, so where a fit is run does not change what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psutil
import torch
from torch.utils.checkpoint import checkpoint

from tunewise.model.base import Base
from tunewise.model.layers import layer_modules
from tunewise.model.packing import packed_as, present_packing

# Numbers that one layer keeps for a position, in widths of the model: an upper bound for what was
# counted on rows of the default base (docs/log.md).
_KEPT_WIDTHS = 40
_MOST_OF_FREE_MEMORY = 0.5


def memory_is_short(base: Base, positions: int) -> bool:
    """Whether a step should rather compute its layers twice than keep what they leave.

    Args:
        base: the base.
        positions: of the largest piece of a step, its prefix included.
    """
    kept = _KEPT_WIDTHS * base.width * base.layers * base.dtype.itemsize * positions
    return kept > _MOST_OF_FREE_MEMORY * _free_bytes(base.device)


@contextmanager
def recomputed(base: Base) -> Iterator[None]:
    """Every layer of the base keeps its input only, while the context lasts."""
    layers = layer_modules(base)
    try:
        for layer in layers:
            # An instance's own `forward` goes before that of its class.
            layer.forward = _twice(layer.forward)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        # The way back runs outside the context that the rows were packed in.
        packing = present_packing()

        def again(*given: Any, **named: Any) -> Any:
            with nullcontext() if packing is None else packed_as(packing):
                return forward(*given, **named)

        return checkpoint(again, *given, use_reentrant=False, preserve_rng_state=False, **named)

    return run


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
