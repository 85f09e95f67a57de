"""Frozen layers in a faster form: products with weights laid out once for the matrix kernels.

oneDNN keeps a matrix in blocks of its own; PyTorch brings a weight there again at every product
(bfloat16), or leaves the product to another library (float32). A frozen weight can be laid out once
for the way forward, and its transpose once for the way back. That takes twice the memory of the
weights besides, so it is done while training only, and where there is plenty. docs/log.md has what
it brings. The slow twin in the tests is the plain linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from tunewise.model.base import Base
from tunewise.model.lower import LowerActivations
from tunewise.model.norms import lean_norm

_DTYPES = (torch.float32, torch.bfloat16)
# Two more copies of the weights may take this share of the machine's memory. Not of what is free:
# the two ways differ in the last bits, and a fit that goes on must go on in the same one.
_MOST_OF_MEMORY = 0.15


class FrozenLayers:
    """The base's frozen layers in their faster form, where the machine can.

    Linear layers multiply with laid-out weights; norms take fewer passes (norms.py).

    Args:
        base: the base, with whatever is attached to it; which of its weights are frozen is looked
            at once, when they are first used.
        like: of the same base, with something else attached; what it has laid out is used again.

    Attributes:
        lower: kept activations of the lowest layers, where a training has any; every step then
            begins above them, and its rows must run in one piece.
    """

    def __init__(self, base: Base, like: FrozenLayers | None = None) -> None:
        self.base = base
        self._laid: dict[nn.Module, _Laid] = {} if like is None else like._laid
        self.lower: LowerActivations | None = None
        self._forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """The base with these forms, while the context lasts."""
        if self._forwards is None:
            self._forwards = self._found()
        try:
            for module, forward in self._forwards:
                # An instance's own `forward` goes before that of its class.
                module.forward = forward
            yield
        finally:
            for module, _ in self._forwards:
                vars(module).pop("forward", None)

    def _found(self) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
        modules = list(self.base.model.modules())
        linear = _laid_out_layers(self.base)
        lean = [(module, lean_norm(module)) for module in modules]
        found = [(module, form) for module, form in lean if form is not None]
        for module in linear:
            if module not in self._laid:
                self._laid[module] = _Laid(module)
        return [*found, *((module, self._laid[module].apply) for module in linear)]


def laid_out_bytes(base: Base) -> int:
    """Memory that the laid-out weights of the base take while it is trained as it stands."""
    return _copies(_laid_out_layers(base))


def _laid_out_layers(base: Base) -> list[nn.Linear]:
    modules = [
        module
        for module in base.model.modules()
        if isinstance(module, nn.Linear) and _eligible(module)
    ]
    fits = _copies(modules) <= _MOST_OF_MEMORY * psutil.virtual_memory().total
    return modules if fits and lays_out(base) else []


def _copies(modules: Sequence[nn.Linear]) -> int:
    # One for the way forward, one for the way back.
    return 2 * sum(module.weight.numel() * module.weight.itemsize for module in modules)


class _Laid:
    """One weight (O x I) in the kernels' layout; its transpose when first asked for."""

    def __init__(self, module: nn.Linear) -> None:
        self.weight, self.bias = module.weight.detach(), module.bias
        self.forward = lay_out(self.weight)
        self._backward: Tensor | None = None

    @property
    def backward(self) -> Tensor:
        """The transpose (I x O) in the kernels' layout."""
        if self._backward is None:
            self._backward = lay_out(self.weight.t().contiguous())
        return self._backward

    def apply(self, rows: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        product: Tensor = _Product.apply(rows, self)  # type: ignore[no-untyped-call]  # torch has no types there
        return product


class _Product(torch.autograd.Function):
    """rows x weight^T; a frozen weight gets no gradient, and nothing is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, laid: _Laid) -> Tensor:
        ctx.laid = laid
        return laid_product(rows, laid.forward, laid.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return laid_product(gradients[0], ctx.laid.backward, None), None


def laid_product(rows: Tensor, laid: Tensor, bias: Tensor | None) -> Tensor:
    """rows (..., I) times a weight (O x I) in the kernels' layout -> (..., O); no gradients."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(
        rows.contiguous(), laid, bias, "none", [], ""
    )
    return found


def lay_out(weight: Tensor) -> Tensor:
    """A copy of a weight (O x I) in the kernels' layout, which only `laid_product` reads."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return found


def _eligible(module: nn.Linear) -> bool:
    if type(module) is not nn.Linear:
        # What derives from it may compute something else.
        return False
    frozen = not any(parameter.requires_grad for parameter in module.parameters())
    weight = module.weight
    return frozen and weight.device.type == "cpu" and weight.dtype in _DTYPES


def lays_out(base: Base) -> bool:
    """Whether this build of PyTorch has these operations and gets the same from them."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch has no types there
    if not available or base.dtype not in _DTYPES:
        return False
    rows = torch.ones(3, 32, dtype=base.dtype)
    weight = torch.arange(16 * 32, dtype=base.dtype).view(16, 32) / (16 * 32)
    try:
        found = laid_product(rows, lay_out(weight), None)
    except (AttributeError, RuntimeError, NotImplementedError):
        # They are PyTorch's own, made for its compiler, and may be missing or differ.
        return False
    return torch.allclose(found, nn.functional.linear(rows, weight), rtol=1e-2)
