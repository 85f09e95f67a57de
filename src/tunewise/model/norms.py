"""Root-mean-square normalisation with frozen scales, in fewer passes (Zhang & Sennrich 2019).

Written out in PyTorch's operations, as architectures have it, it takes eight passes over the rows
and some fourteen on the way back, and keeps two float32 copies of them. Here the normalised rows
are kept once, in the dtype of the base, and gradients need no more than they. The slow twin in the
tests is the architecture's own layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# The names under which architectures keep what is added to the mean square.
_EPSILON_NAMES = ("variance_epsilon", "eps")
_CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def lean_norm(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The same layer in fewer passes; None where it is none of this kind, or its scale is trained.

    Architectures agree on the name and differ in what they do with the scale (Gemma adds one to
    it), so the outcome is held against the layer's own on a few rows.
    """
    weight = getattr(module, "weight", None)
    epsilon = next((getattr(module, name, None) for name in _EPSILON_NAMES), None)
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, Tensor):
        return None
    if not isinstance(epsilon, float) or weight.requires_grad or weight.dtype not in _CLOSE:
        return None
    lean = partial(_normalise, weight=weight.detach(), epsilon=epsilon)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, len(weight), generator=generator).to(weight.device, weight.dtype)
    with torch.no_grad():
        wanted, got = module(rows), lean(rows)
    same = got.dtype == wanted.dtype and torch.dist(got.float(), wanted.float())
    return lean if same <= _CLOSE[weight.dtype] * wanted.float().norm() else None


def _normalise(rows: Tensor, *, weight: Tensor, epsilon: float) -> Tensor:
    normalised: Tensor = _Normalised.apply(rows, weight, epsilon)  # type: ignore[no-untyped-call]  # torch's
    return normalised


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = rows.float()
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scale = (length.square() / rows.shape[-1] + epsilon).rsqrt()
        unit = (exact * scale).to(rows.dtype)
        ctx.save_for_backward(unit, scale, weight)
        found: Tensor = unit * weight
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        unit, scale, weight = ctx.saved_tensors
        given = gradients[0] * weight
        # What points along the rows changes their length only, which does not come through.
        along = torch.linalg.vecdot(given, unit)[..., None] / unit.shape[-1]
        return torch.addcmul(given, unit, along, value=-1) * scale.to(unit.dtype), None, None
