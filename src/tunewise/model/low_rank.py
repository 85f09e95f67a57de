"""A low-rank change of a product, added as it is computed (Hu et al. 2022, section 4.1).

PEFT's own layer multiplies with B, scales, and adds: three passes over a result of N x O numbers
forward, and as many on the way back. Here B's product is added as it is computed, and the scale is
applied to N x r numbers. The slow twin in the tests is PEFT's layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def add_low_rank(result: Tensor, rows: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """result + scale * rows A^T B^T; takes the memory of `result`, which must not be used again.

    Args:
        result: (..., O), what the layer gives by itself.
        rows: (..., I), its input.
        down: (r, I), A.
        up: (O, r), B.
        scale: alpha / r.
    """
    changed: Tensor = _Added.apply(  # type: ignore[no-untyped-call]  # torch's
        result, rows, down, up, scale
    )
    return changed


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, result: Tensor, rows: Tensor, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1])
        inner = flat @ down.t()
        ctx.save_for_backward(flat, inner, down, up)
        ctx.scale, ctx.shape = scale, rows.shape
        # Nothing but this reads what the layer gave by itself, so the sum may take its memory.
        changed = result.data
        changed.view(-1, changed.shape[-1]).addmm_(inner, up.t(), alpha=scale)
        return changed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, down, up = ctx.saved_tensors
        given = gradients[0].reshape(-1, gradients[0].shape[-1])
        # These shapes and no others: with r columns the libraries' kernels differ by factors.
        between = functional.linear(given, up.t().contiguous()).mul_(ctx.scale)
        of_rows = (between @ down).view(ctx.shape) if ctx.needs_input_grad[1] else None
        of_up = (inner.t() @ given).mul_(ctx.scale).t()
        return gradients[0], of_rows, between.t() @ flat, of_up, None
