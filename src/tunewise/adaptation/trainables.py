"""What the gradient loop can train: one class for each kind of part that gradients find.

Each holds float32 leaves, lowers itself to a shared prefix, and gives its part back. The loop and
the search around it know nothing else. Here is what stands before the rows; `inside.py` has what
lives in the model, `together.py` one of either at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tunewise.adaptation.attach import prefix_inputs, prefix_of
from tunewise.adaptation.parts import KVPrefixPart, Part, VirtualTokensPart, text_replaced
from tunewise.model.base import Base
from tunewise.model.loop import Trainable
from tunewise.model.prefix import EMPTY_PREFIX, PrefixInputs, SharedPrefix
from tunewise.task.render import Renderer


class TrainablePart(Trainable, Protocol):
    """A trainable that gives its parts back."""

    def parts(self) -> tuple[Part, ...]:
        """The parts as the parameters stand now; independent copies."""
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
        kept: so many of the first stay as they began: what stands at position 0 serves the base as
            attention sink (Xiao et al. 2024, section 3.1).
        replaces_shared_text: whether they stand in place of the shared text.
    """

    backward_passes = 1.0
    frozen_layers = 0

    def __init__(
        self,
        frozen: FrozenPrefix,
        initial: Tensor,
        *,
        hidden: int,
        seed: int,
        kept: int = 0,
        replaces_shared_text: bool = False,
    ) -> None:
        self.frozen, self.replaces = frozen, replaces_shared_text
        device, width = frozen.base.device, initial.shape[1]
        begun = initial.detach().float().to(device).clone()
        self._kept = begun[:kept]
        leaves = {"embeddings": begun[kept:].clone()}
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
        return len(self._kept) + int(self.parameters["embeddings"].shape[0]) + text

    def embeddings(self) -> Tensor:
        """(k, D) float32, as the base sees them."""
        trained = self.parameters["embeddings"]
        if "down" in self.parameters:
            hidden = torch.relu((trained / self._scale) @ self.parameters["down"].T)
            trained = trained + self._scale * (hidden @ self.parameters["up"].T)
        return torch.cat([self._kept, trained]) if len(self._kept) else trained

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self.frozen.inputs(virtual=self.embeddings(), replaces_shared_text=self.replaces)

    def collect_gradients(self) -> None:
        """Gradients arise on the leaves themselves."""

    def publish(self) -> None:
        """The prefix is lowered anew at every step."""

    def parts(self) -> tuple[VirtualTokensPart]:
        """See `TrainablePart.parts`."""
        return (VirtualTokensPart(self.embeddings().detach().cpu().clone(), self.replaces),)


class KVPrefix:
    """Trains the keys and values of P positions in every layer.

    Args:
        frozen: the rest of the prefix; its own stored keys and values are replaced.
        initial: the prefix to start from.
        replaces_shared_text: whether it stands in place of the shared text.
    """

    backward_passes = 1.0
    frozen_layers = 0

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

    def parts(self) -> tuple[KVPrefixPart]:
        """See `TrainablePart.parts`."""
        stored = [leaf.detach().cpu().clone() for leaf in self.parameters.values()]
        half = len(stored) // 2
        return (KVPrefixPart(tuple(stored[:half]), tuple(stored[half:]), self.replaces),)

    def _names(self) -> list[str]:
        layers = range(len(self._initial.keys))
        return [f"{kind}.{layer:03d}" for kind in ("keys", "values") for layer in layers]
