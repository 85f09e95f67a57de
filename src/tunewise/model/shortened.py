"""The base with its first layers alone: what it costs tells what all of them cost.

A model's layers are alike, so steps that are only timed run through a part of them, and what they
took is scaled by counted operations, the output head's apart. The slow twin in the tests is the
whole base.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from tunewise.model.base import Base
from tunewise.model.layers import layer_modules
from tunewise.model.ledger import Ledger

# A third of the layers, but never fewer than this: their weights must not fit in the processor's
# caches, what is done once a step must stay small, and the first six of Gemma 3 hold one of each
# kind of its layers as often as the rest does.
_SHARE, _LEAST = 3, 6


@dataclass(frozen=True, slots=True)
class Shortened:
    """How much of the base is there.

    Attributes:
        layers: of the whole base.
        kept: that run.
        missing_parameters: of the layers that do not.
    """

    layers: int
    kept: int
    missing_parameters: int = 0

    @property
    def times(self) -> float:
        """How often the layers that run would stand in the whole base."""
        return self.layers / self.kept

    def whole(self, ledger: Ledger) -> float:
        """What the whole base would take for some work, as a multiple.

        Args:
            ledger: the work, counted with the parameters that are there.
        """
        counted = ledger.work().flops
        return 1.0 if counted == 0 else 1.0 + 2 * self.missing_parameters * ledger.spent / counted


@contextmanager
def shortened(base: Base) -> Iterator[Shortened]:
    """Leave the upper layers out while the context lasts.

    A base whose layers stand in no list of their own stays whole.

    Args:
        base: the base; what is attached to it inside the context is attached to what is there.
    """
    layers = layer_modules(base)
    place = next((each for each in base.model.modules() if _holds(each, layers)), None)
    kept = max(_LEAST, -(-len(layers) // _SHARE))
    if place is None or kept >= len(layers):
        yield Shortened(max(base.layers, 1), max(base.layers, 1))
        return
    config = base.model.config.get_text_config()
    name = next(name for name, child in place.named_children() if _is(child, layers))
    body, whole = base.body_parameters, getattr(place, name)
    try:
        setattr(place, name, nn.ModuleList(layers[:kept]))
        config.num_hidden_layers = kept
        yield Shortened(len(layers), kept, body - base.body_parameters)
    finally:
        setattr(place, name, whole)
        config.num_hidden_layers = len(layers)


def _holds(module: nn.Module, layers: list[nn.Module]) -> bool:
    return any(_is(child, layers) for child in module.children())


def _is(module: nn.Module, layers: list[nn.Module]) -> bool:
    return isinstance(module, nn.ModuleList) and list(module) == layers
