"""What a step keeps for its way back: counted over the tensors that the backward pass asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tunewise.model.base import Base
from tunewise.model.layers import layer_modules


class KeptBytes:
    """Bytes of what a backward pass asks to be kept, each storage once; weights do not count.

    Args:
        base: the base.

    Attributes:
        inside: what the layers keep.
        outside: what the rest keeps.
    """

    def __init__(self, base: Base) -> None:
        self.inside = self.outside = 0
        self._base, self._among_layers = base, False
        self._seen: set[int] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count while the context lasts."""
        self._seen = {each.untyped_storage().data_ptr() for each in self._base.model.parameters()}
        layers = layer_modules(self._base)
        hooks = []
        if layers:
            hooks.append(layers[0].register_forward_pre_hook(lambda *_: self._enter(True)))
            hooks.append(layers[-1].register_forward_hook(lambda *_: self._enter(False)))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, inside: bool) -> None:
        self._among_layers = inside

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            if self._among_layers:
                self.inside += storage.nbytes()
            else:
                self.outside += storage.nbytes()
        return tensor
