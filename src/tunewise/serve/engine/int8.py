"""Products with weights of 8 bits, for which a processor moves a quarter of float32's bytes.

Weights are rounded once, each output column by its own scale; inputs are rounded as they come, each
row by its own scale, so that no row depends on its neighbours (Dettmers et al. 2022, section 2,
LLM.int8(), row-wise and column-wise scales; no columns are kept apart here). Sums are exact 32-bit
integers. The operations are PyTorch's own for oneDNN. Processors without products of 8-bit numbers
(x86 with AVX2 alone) add two of them in 16 bits, which overflow: there weights have 7 bits. What it
costs in answers is measured in benchmarks/serving.md; the slow twin in the tests rounds in float64.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.errors import ConfigError
from tunewise.model.base import Base
from tunewise.serve.engine.layout import Laid, Lay

_TOP = 127
# Two products of an unsigned 8-bit number with at most this stay within 16 bits.
_NARROW_TOP = 63
# Unsigned numbers are what the kernels take: 0 stands at 128.
_ZERO = 128
# Half is added since the conversion to whole numbers cuts off.
_HALF_UP = torch.tensor(_ZERO + 0.5)


def int8_lay(base: Base) -> Lay:
    """Weights of 8 bits.

    Raises:
        ConfigError: the base does not compute in float32 on a processor, or this build of PyTorch
            has no such products.
    """
    if base.dtype != torch.float32 or base.device.type != "cpu":
        raise ConfigError(
            "8-bit weights are made from a float32 base on a processor",
            found=f"{base.dtype_name} on {base.device}",
            fix="--dtype float32",
        )
    return partial(_laid, most=weight_top())


def weight_top() -> int:
    """The largest whole number that weights are rounded to here: 127, or 63 where 127 overflows.

    Raises:
        ConfigError: this build of PyTorch has no such products, or they give other numbers.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(32, 64, generator=generator), torch.randn(3, 64, generator=generator))]
    # The largest sums there are.
    pairs.append((torch.ones(32, 64), torch.ones(3, 64)))
    for top in (_TOP, _NARROW_TOP):
        try:
            found = [_laid(weight, None, most=top).multiply(rows) for weight, rows in pairs]
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            raise ConfigError(
                "this build of PyTorch has no products with 8-bit weights",
                found=f"{torch.__version__}: {error}"[:300],
                fix="serve with the base's own weights",
            ) from error
        wanted = [functional.linear(rows, weight) for weight, rows in pairs]
        if all(torch.dist(a, b) <= 0.03 * b.norm() for a, b in zip(found, wanted, strict=True)):
            return top
    raise ConfigError(
        "this build of PyTorch gives other numbers for products with 8-bit weights",
        found=torch.__version__,
        fix="serve with the base's own weights",
    )


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as 8-bit numbers.

    Args:
        rows: (N, I) float32.

    Returns:
        (N, I) uint8, 128 for 0; and (N, 1) the largest magnitude of each row, which 127 above or
        below stands for.
    """
    top = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True).clamp_min_(1e-20)
    shifted = torch.addcmul(_HALF_UP, rows, torch.reciprocal(top), value=_TOP)
    return shifted.to(torch.uint8), top


def _laid(weight: Tensor, bias: Tensor | None, *, most: int) -> Laid:
    # (O,) what 1 stands for.
    scale = weight.abs().amax(dim=1).clamp_min(1e-20) / most
    whole = torch.round(weight / scale[:, None]).to(torch.int8)
    operations: Any = torch.ops.onednn
    packed = operations.qlinear_prepack(whole, None)
    # The rows' own scale is put on afterwards.
    scales, zeros = scale / _TOP, torch.zeros(len(scale), dtype=torch.int64)
    one, middle = torch.ones(1), torch.tensor([_ZERO], dtype=torch.int32)
    multiply = operations.qlinear_pointwise.tensor

    def product(rows: Tensor) -> Tensor:
        numbers, top = rounded(rows)
        found: Tensor = multiply(
            numbers, one, middle, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        found.mul_(top)
        return found if bias is None else found.add_(bias)

    return Laid(product, whole.nbytes)
