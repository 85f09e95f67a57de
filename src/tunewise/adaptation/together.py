"""Two parts trained by one loop: one that stands before the rows, one that lives in the model.

The prefix of the first is lowered through the model as the second has changed it, so the gradient
of one step reaches both.
"""

from __future__ import annotations

from torch import Tensor

from tunewise.adaptation.inside import LowRank, Weights
from tunewise.adaptation.parts import Part
from tunewise.adaptation.trainables import KVPrefix, VirtualTokens
from tunewise.model.prefix import PrefixInputs

BEFORE, INSIDE = "before/", "inside/"
"""What stands before the names of either's parameters, for learning rates of their own."""


class Together:
    """Both as one trainable.

    Args:
        before: virtual tokens, or keys and values; made while `inside` is attached.
        inside: a low-rank change, or weights.
    """

    frozen_layers = 0

    def __init__(self, before: VirtualTokens | KVPrefix, inside: LowRank | Weights) -> None:
        self._both = (before, inside)
        self.parameters: dict[str, Tensor] = {
            begin + name: leaf
            for begin, each in zip((BEFORE, INSIDE), self._both, strict=True)
            for name, leaf in each.parameters.items()
        }

    @property
    def backward_passes(self) -> float:
        """Through all layers to the prefix, and the gradients of weights where they are trained."""
        before, inside = self._both
        return before.backward_passes + inside.weight_passes

    @property
    def prefix_positions(self) -> int:
        """Those of the part before the rows, which knows what stands beside it."""
        return self._both[0].prefix_positions

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self._both[0].prefix_inputs()

    def collect_gradients(self) -> None:
        """See `Trainable.collect_gradients`."""
        for each in self._both:
            each.collect_gradients()

    def publish(self) -> None:
        """See `Trainable.publish`."""
        for each in self._both:
            each.publish()

    def parts(self) -> tuple[Part, ...]:
        """See `TrainablePart.parts`."""
        return tuple(part for each in self._both for part in each.parts())
