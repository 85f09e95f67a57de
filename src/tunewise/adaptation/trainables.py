"""What the gradient loop can train: one class for each kind of part that gradients find.

Each holds float32 leaves, lowers itself to a shared prefix, and gives its part back. The loop and
the search around it know nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tunewise.adaptation.attach import (
    ADAPTER,
    LowRankLayers,
    low_rank_attached,
    prefix_inputs,
    prefix_of,
)
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    VirtualTokensPart,
    WeightsPart,
    text_replaced,
)
from tunewise.adaptation.peft_format import low_rank_part
from tunewise.model.base import Base
from tunewise.model.layers import share_with_gradients
from tunewise.model.loop import Trainable
from tunewise.model.prefix import EMPTY_PREFIX, PrefixInputs, SharedPrefix
from tunewise.task.render import Renderer


class TrainablePart(Trainable, Protocol):
    """A trainable that gives its part back."""

    def part(self) -> Part:
        """The part as the parameters stand now; independent copies."""
        ...


class FrozenPrefix:
    """The stored parts that stand before the rows and are not trained.

    Args:
        base: the base with the parts inside it attached.
        renderer: gives the shared text.
        parts: the parts of the start; those inside the model are passed over.
    """

    def __init__(self, base: Base, renderer: Renderer, parts: Sequence[Part]) -> None:
        self.base, self.renderer = base, renderer
        self.virtual: Tensor | None = None
        self.positions, self.replaces = EMPTY_PREFIX, text_replaced(parts)
        for part in parts:
            if isinstance(part, VirtualTokensPart):
                self.virtual = part.embeddings.to(base.device)
            elif isinstance(part, KVPrefixPart):
                self.positions = prefix_of(part, base)

    @property
    def computed_positions(self) -> int:
        """Positions that lowering computes: all but stored keys and values."""
        return self.text_positions() + (0 if self.virtual is None else int(self.virtual.shape[0]))

    def text_positions(self, replaced: bool = False) -> int:
        """Positions of the shared text; none where it is replaced, here or by what is trained."""
        return 0 if replaced or self.replaces else len(self.renderer.shared_tokens)

    def inputs(
        self,
        *,
        virtual: Tensor | None = None,
        positions: SharedPrefix | None = None,
        replaces_shared_text: bool = False,
    ) -> PrefixInputs:
        """What the shared prefix is computed from.

        Args:
            virtual: (k, D) trained virtual tokens in place of the frozen ones.
            positions: trained keys and values in place of the frozen ones.
            replaces_shared_text: whether what is trained stands in place of the shared text.
        """
        return prefix_inputs(
            self.base,
            self.renderer,
            virtual=self.virtual if virtual is None else virtual,
            positions=self.positions if positions is None else positions,
            replaces_shared_text=replaces_shared_text or self.replaces,
        )


class VirtualTokens:
    """Trains (k, D) embeddings, plainly or through a residual network.

    The residual reparametrisation adds a small network of the embedding to itself and drops it
    after training (Razdaibiedina et al. 2023, section 3); its last layer starts at zero, so step 0
    is the given start.

    Args:
        frozen: the rest of the prefix.
        initial: (k, D) float32 start.
        hidden: width of the residual network's bottleneck; 0 trains the embeddings plainly.
        seed: of the network's first layer.
        replaces_shared_text: whether they stand in place of the shared text.
    """

    backward_passes = 1.0

    def __init__(
        self,
        frozen: FrozenPrefix,
        initial: Tensor,
        *,
        hidden: int,
        seed: int,
        replaces_shared_text: bool = False,
    ) -> None:
        self.frozen, self.replaces = frozen, replaces_shared_text
        device, width = frozen.base.device, initial.shape[1]
        leaves = {"embeddings": initial.detach().float().to(device).clone()}
        if hidden > 0:
            generator = torch.Generator().manual_seed(seed)
            down = torch.randn(hidden, width, generator=generator) / width**0.5
            leaves["down"] = down.to(device)
            leaves["up"] = torch.zeros(width, hidden, device=device)
        # Embeddings are small numbers; the network sees them at unit size.
        self._scale = float(leaves["embeddings"].pow(2).mean().sqrt())
        self.parameters = {name: leaf.requires_grad_(True) for name, leaf in leaves.items()}

    @property
    def prefix_positions(self) -> int:
        """Virtual tokens and everything frozen before the rows."""
        text = self.frozen.text_positions(self.replaces)
        return int(self.parameters["embeddings"].shape[0]) + text

    def embeddings(self) -> Tensor:
        """(k, D) float32, as the base sees them."""
        plain = self.parameters["embeddings"]
        if "down" not in self.parameters:
            return plain
        hidden = torch.relu((plain / self._scale) @ self.parameters["down"].T)
        return plain + self._scale * (hidden @ self.parameters["up"].T)

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self.frozen.inputs(virtual=self.embeddings(), replaces_shared_text=self.replaces)

    def collect_gradients(self) -> None:
        """Gradients arise on the leaves themselves."""

    def publish(self) -> None:
        """The prefix is lowered anew at every step."""

    def part(self) -> VirtualTokensPart:
        """See `TrainablePart.part`."""
        return VirtualTokensPart(self.embeddings().detach().cpu().clone(), self.replaces)


class KVPrefix:
    """Trains the keys and values of P positions in every layer.

    Args:
        frozen: the rest of the prefix; its own stored keys and values are replaced.
        initial: the prefix to start from.
        replaces_shared_text: whether it stands in place of the shared text.
    """

    backward_passes = 1.0

    def __init__(
        self, frozen: FrozenPrefix, initial: SharedPrefix, *, replaces_shared_text: bool
    ) -> None:
        self.frozen, self.replaces = frozen, replaces_shared_text
        self._initial = initial
        named = zip(self._names(), initial.tensors(), strict=True)
        self.parameters = {
            name: tensor[0].detach().float().clone().requires_grad_(True) for name, tensor in named
        }

    @property
    def prefix_positions(self) -> int:
        """Only what follows the trained positions is computed."""
        virtual = self.frozen.virtual
        rest = 0 if virtual is None else int(virtual.shape[0])
        return rest + self.frozen.text_positions(self.replaces)

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        dtype = self.frozen.base.dtype
        tensors = [leaf[None].to(dtype) for leaf in self.parameters.values()]
        positions = self._initial.with_tensors(tensors)
        return self.frozen.inputs(positions=positions, replaces_shared_text=self.replaces)

    def collect_gradients(self) -> None:
        """Gradients arise on the leaves themselves."""

    def publish(self) -> None:
        """The prefix is lowered anew at every step."""

    def part(self) -> KVPrefixPart:
        """See `TrainablePart.part`."""
        stored = [leaf.detach().cpu().clone() for leaf in self.parameters.values()]
        half = len(stored) // 2
        return KVPrefixPart(tuple(stored[:half]), tuple(stored[half:]), self.replaces)

    def _names(self) -> list[str]:
        layers = range(len(self._initial.keys))
        return [f"{kind}.{layer:03d}" for kind in ("keys", "values") for layer in layers]


class Masters:
    """Float32 masters of parameters of the model, which are their working copies.

    Gradients arise on the working copies, in the dtype the base computes in; the optimizer works
    on the masters (Micikevicius et al. 2018, section 3.1).

    Args:
        working: parameters of the model; they must be writable copies already.
        exact: their values in float32; None where the working copies hold them.
    """

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
        self.backward_passes = share_with_gradients(frozen.base, layers.working)

    @property
    def prefix_positions(self) -> int:
        """The shared text runs through the changed layers at every step."""
        return self.frozen.computed_positions

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self.frozen.inputs()

    def part(self) -> LowRankPart:
        """See `TrainablePart.part`."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(
            self.frozen.base.model,
            state_dict=self.parameters,
            adapter_name=ADAPTER,
            save_embedding_layers=False,
        )
        return low_rank_part(self.config, state, self.frozen.base.name)


class Weights(Masters):
    """Trains weights of the base.

    Args:
        frozen: the prefix before the rows.
        names: which parameters are trained; they must be writable copies already.
    """

    def __init__(self, frozen: FrozenPrefix, names: Sequence[str]) -> None:
        named = dict(frozen.base.model.named_parameters())
        super().__init__({name: named[name] for name in names})
        self.frozen = frozen
        self.backward_passes = 2 * share_with_gradients(frozen.base, names)

    @property
    def prefix_positions(self) -> int:
        """The shared text runs through the changed layers at every step."""
        return self.frozen.computed_positions

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self.frozen.inputs()

    def part(self) -> WeightsPart:
        """See `TrainablePart.part`."""
        # A LoRA of the start puts its layers around the base's; the base's own names are stored.
        return WeightsPart(
            {
                name.replace(".base_layer.", "."): parameter.detach().cpu().clone()
                for name, parameter in self._working.items()
            }
        )


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
