"""Which layer a parameter stands in, told by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from tunewise.model.base import Base

# Architectures call their list of layers "layers", "h", "blocks" or "layer"; a number follows.
_LAYER = re.compile(r"\.(?:layers|h|blocks|layer)\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """The number of a parameter's layer, from 0; None for embeddings, last norm and head."""
    found = _LAYER.search(f".{name}")
    return None if found is None else int(found[1])


def layer_modules(base: Base) -> list[nn.Module]:
    """The layers themselves, from the first to the last; empty where none is told by its name."""
    return [
        module
        for name, module in base.model.named_modules()
        if layer_of(f"{name}.") is not None and layer_of(name) is None
    ]


def linear_names(base: Base) -> list[str]:
    """The last words of the names of all linear modules in the layers, sorted."""
    from transformers.pytorch_utils import Conv1D

    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in base.model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and layer_of(f"{name}.weight") is not None
        }
    )


def share_with_gradients(base: Base, names: Iterable[str]) -> float:
    """Share of the layers that a backward pass goes through when these parameters are trained.

    It ends at the lowest trained layer, since nothing below it needs a gradient. Trained parameters
    outside the layers may stand before the first one.

    Args:
        base: the base.
        names: of the trained parameters.

    Returns:
        Between 0 and 1.
    """
    numbers = [layer_of(name) for name in names]
    if not numbers or None in numbers:
        return 1.0
    lowest = min(number for number in numbers if number is not None)
    return (base.layers - lowest) / base.layers
