"""What the gradient loop can train inside the model: low-rank changes, and weights of the base.

Parameters of the model are working copies in the dtype the base computes in; what the optimizer
changes are float32 masters of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.adaptation.attach import ADAPTER, LowRankLayers, low_rank_attached
from tunewise.adaptation.parts import LowRankPart, WeightsPart
from tunewise.adaptation.peft_format import low_rank_part
from tunewise.adaptation.trainables import FrozenPrefix
from tunewise.model.base import Base
from tunewise.model.layers import lowest_layer
from tunewise.model.prefix import PrefixInputs


class Masters:
    """Float32 masters of parameters of the model, which are their working copies.

    Gradients arise on the working copies, in the dtype the base computes in; the optimizer works
    on the masters (Micikevicius et al. 2018, section 3.1).

    Attributes:
        backward_passes, frozen_layers: see `Trainable`.
        weight_passes: those of them that give the gradients of weights of the base.

    Args:
        working: parameters of the model; they must be writable copies already.
        exact: their values in float32; None where the working copies hold them.
    """

    backward_passes: float
    frozen_layers: int
    weight_passes = 0.0

    def __init__(
        self, working: Mapping[str, nn.Parameter], exact: Mapping[str, Tensor] | None = None
    ) -> None:
        self._working = {name: working[name] for name in sorted(working)}
        for parameter in self._working.values():
            parameter.requires_grad_(True)
        values = self._working if exact is None else exact
        self.parameters = {
            name: values[name].detach().float().clone().requires_grad_(True)
            for name in self._working
        }

    def collect_gradients(self) -> None:
        """Move gradients from the working copies to the masters."""
        for name, parameter in self._working.items():
            gradient = parameter.grad
            self.parameters[name].grad = None if gradient is None else gradient.float()
            parameter.grad = None

    def publish(self) -> None:
        """Round the masters into the working copies."""
        with torch.no_grad():
            for name, parameter in self._working.items():
                parameter.copy_(self.parameters[name])


class LowRank(Masters):
    """Trains the A and B of PEFT's LoRA layers, which must be attached already.

    Args:
        frozen: the prefix before the rows.
        layers: the layers.
    """

    def __init__(self, frozen: FrozenPrefix, layers: LowRankLayers) -> None:
        super().__init__(layers.working, layers.exact)
        self.frozen, self.config = frozen, layers.config
        self.frozen_layers = lowest_layer(layers.working)
        self.backward_passes = 1.0 - self.frozen_layers / frozen.base.layers

    @property
    def prefix_positions(self) -> int:
        """The shared text runs through the changed layers at every step."""
        return self.frozen.computed_positions

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self.frozen.inputs()

    def parts(self) -> tuple[LowRankPart]:
        """See `TrainablePart.parts`."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(
            self.frozen.base.model,
            state_dict=self.parameters,
            adapter_name=ADAPTER,
            save_embedding_layers=False,
        )
        return (low_rank_part(self.config, state, self.frozen.base.name),)


class Weights(Masters):
    """Trains weights of the base.

    Args:
        frozen: the prefix before the rows.
        names: which parameters are trained; they must be writable copies already.
        given: weights of the start; those that are not trained stay replaced.
    """

    def __init__(
        self, frozen: FrozenPrefix, names: Sequence[str], given: WeightsPart | None = None
    ) -> None:
        named = dict(frozen.base.model.named_parameters())
        super().__init__({name: named[name] for name in names})
        self.frozen = frozen
        self._given = {} if given is None else given.tensors
        self.frozen_layers = lowest_layer(names)
        self.weight_passes = 1.0 - self.frozen_layers / frozen.base.layers
        self.backward_passes = 2 * self.weight_passes

    @property
    def prefix_positions(self) -> int:
        """The shared text runs through the changed layers at every step."""
        return self.frozen.computed_positions

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self.frozen.inputs()

    def parts(self) -> tuple[WeightsPart]:
        """See `TrainablePart.parts`."""
        # A LoRA of the start puts its layers around the base's; the base's own names are stored.
        trained = {
            name.replace(".base_layer.", "."): parameter.detach().cpu().clone()
            for name, parameter in self._working.items()
        }
        return (WeightsPart({**self._given, **trained}),)


@contextmanager
def low_rank_layers(
    base: Base, config: Mapping[str, Any], start: LowRankPart | None, *, seed: int
) -> Iterator[LowRankLayers]:
    """Fresh LoRA layers, or those of `start`, attached while the context lasts."""
    chosen = config if start is None else start.config
    tensors = None if start is None else start.tensors
    with low_rank_attached(base, chosen, tensors, seed=seed) as layers:
        yield layers


@contextmanager
def writable_weights(base: Base, names: Sequence[str]) -> Iterator[None]:
    """Copies of these parameters in their place; the originals come back when the context ends."""
    named: dict[str, nn.Parameter] = dict(base.model.named_parameters())
    before = {name: named[name].data for name in names}
    try:
        for name in names:
            named[name].data = before[name].clone()
        yield
    finally:
        for name, tensor in before.items():
            named[name].requires_grad_(False)
            named[name].grad = None
            named[name].data = tensor
