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


def embedding_name(base: Base) -> str:
    """The last word of the name of the input embeddings."""
    table = base.model.get_input_embeddings()
    names: dict[int, str] = {id(module): name for name, module in base.model.named_modules()}
    return names[id(table)].rpartition(".")[2]


def lowest_layer(names: Iterable[str]) -> int:
    """The number of the lowest layer that has one of these parameters; nothing below it needs a
    gradient when they are trained.

    Parameters outside the layers may stand before the first one, so they count as in it.
    """
    numbers = [layer_of(name) for name in names]
    return min((0 if number is None else number for number in numbers), default=0)
