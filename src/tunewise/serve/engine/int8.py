"""Products with weights of 8 bits, for which a processor moves a quarter of float32's bytes.

Weights are rounded once, each output column by its own scale. Inputs are rounded as they come, each
row by its own scale, so that no row depends on its neighbours, and twice: what the first rounding
leaves is rounded in a second half of its own, which takes the same weights along in the same
product. Activations of language models have a few columns a hundred times larger than the rest
(Dettmers et al. 2022, LLM.int8(), section 3), so that 8 bits for a row leave little of the others;
with two halves what is lost is the rounding of the weights (docs/log.md). Sums are exact 32-bit
integers. The operations are PyTorch's own, for oneDNN and FBGEMM. Processors without products of
8-bit numbers (x86 with AVX2 alone) add two of them in 16 bits, which overflow: there halves have 7
bits. What it costs in answers is measured in benchmarks/serving.md; the slow twin in the tests
rounds in float64.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.errors import ConfigError
from tunewise.model.base import Base
from tunewise.serve.engine.layout import Laid, Lay

_TOP = 127
# Two products of a weight with an unsigned number of 7 bits stay within 16 bits.
_LEVELS = (127, 63)
_LEAST = torch.tensor(1e-20)
# What the second half is multiplied by: what is left of a rounded number is half a step at most.
_SECOND = {levels: torch.tensor(2.0 * levels) for levels in _LEVELS}
# Which library packs is a setting of the process, and adaptations come from several threads.
_PACKING = threading.Lock()

Kernel = Callable[[Tensor, Tensor, int], Callable[[Tensor], Tensor]]
"""Weights (O, I) int8, what 1 stands for in each column (O,), and the levels of inputs -> a product
of whole numbers within plus and minus the levels (N, I) float32 -> (N, O) float32."""


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
    kernel, levels = kernel_here()
    return partial(_laid, kernel=kernel, levels=levels)


def kernel_here() -> tuple[Kernel, int]:
    """The quickest kernel whose sums are right on this processor, and the levels of its inputs.

    Raises:
        ConfigError: this build of PyTorch has none.
    """
    faults = []
    for levels in _LEVELS:
        right = []
        for kernel in (onednn, fbgemm):
            try:
                if _exact(kernel, levels):
                    right.append(kernel)
                else:
                    faults.append(f"{kernel.__name__}: other numbers with {levels} levels")
            except (AttributeError, RuntimeError, NotImplementedError) as error:
                faults.append(f"{kernel.__name__}: {error}")
        if right:
            # With the same levels they sum the same whole numbers.
            return min(right, key=lambda kernel: _seconds(kernel, levels)), levels
    raise ConfigError(
        "this build of PyTorch has no products with 8-bit weights",
        found=f"{torch.__version__}: {'; '.join(faults)}"[:300],
        fix="serve with the base's own weights",
    )


def halves(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Rows as whole numbers, each twice.

    Args:
        rows: (N, I) float32.
        levels: the largest number.

    Returns:
        (2N, I) float32, the rounded rows, then what that left, 2 x levels times as large, which
        the kernel rounds; and (N, 1), what 1 stands for in the first half of each row.
    """
    # A norm with infinity takes three to ten times as long for many rows.
    top = rows.abs().amax(dim=-1, keepdim=True)
    one = torch.add(_LEAST, top, alpha=1 / levels)
    numbers = rows / one
    first = torch.round(numbers)
    # Scalars as tensors: a number of Python's own is copied into one at every call.
    second = numbers.sub_(first).mul_(_SECOND[levels])
    return torch.cat((first, second)), one


def onednn(whole: Tensor, scale: Tensor, levels: int) -> Callable[[Tensor], Tensor]:
    """See `Kernel`."""
    operations: Any = torch.ops.onednn
    packed = operations.qlinear_prepack(whole, None)
    zeros, one = torch.zeros(len(scale), dtype=torch.int64), torch.ones(1)
    middle = torch.tensor([levels + 1], dtype=torch.int32)
    # Half is added since the conversion to whole numbers cuts off.
    half_up = levels + 1.5
    multiply = operations.qlinear_pointwise.tensor

    def product(numbers: Tensor) -> Tensor:
        shifted = (numbers + half_up).to(torch.uint8)
        found: Tensor = multiply(
            shifted, one, middle, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return found

    return product


def fbgemm(whole: Tensor, scale: Tensor, levels: int) -> Callable[[Tensor], Tensor]:
    """See `Kernel`."""
    operations: Any = torch.ops.quantized
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    engines: Any = torch.backends.quantized
    quantized: Any = torch._make_per_channel_quantized_tensor
    with _PACKING, warnings.catch_warnings():
        # Quantized tensors are to leave PyTorch; oneDNN's operations take none.
        warnings.simplefilter("ignore")
        before = engines.engine
        try:
            engines.engine = "fbgemm"
            packed = operations.linear_prepack(quantized(whole, scale.double(), zeros, 0), None)
        finally:
            engines.engine = before
    multiply = operations.linear_with_input_q_dq_qweight_dq_output_fp32.default

    def product(numbers: Tensor) -> Tensor:
        found: Tensor = multiply(numbers, 1.0, levels + 1, packed)
        return found

    return product


def _laid(weight: Tensor, bias: Tensor | None, *, kernel: Kernel, levels: int) -> Laid:
    # (O,) what 1 stands for.
    scale = weight.abs().amax(dim=1).clamp_min(1e-20) / _TOP
    whole = torch.round(weight / scale[:, None]).to(torch.int8)
    multiply, shares = kernel(whole, scale, levels), torch.tensor([[1.0, 1 / (2 * levels)]])

    def product(rows: Tensor) -> Tensor:
        numbers, one = halves(rows, levels)
        found = torch.mm(shares, multiply(numbers).view(2, -1)).view(len(rows), -1).mul_(one)
        return found if bias is None else found.add_(bias)

    return Laid(product, whole.nbytes)


def _exact(kernel: Kernel, levels: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    # Random ones, and the largest sums there are.
    pairs = [(torch.randn(32, 64, generator=generator), torch.randn(3, 64, generator=generator))]
    pairs.append((torch.ones(32, 64), torch.ones(3, 64)))
    for weight, rows in pairs:
        found = _laid(weight, None, kernel=kernel, levels=levels).multiply(rows)
        wanted = functional.linear(rows, weight)
        if not torch.dist(found, wanted) <= 0.03 * wanted.norm():
            return False
    return True


def _seconds(kernel: Kernel, levels: int) -> float:
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(count, 512, generator=generator) for count in (2048, 1))
    multiply = _laid(weight, None, kernel=kernel, levels=levels).multiply
    taken = []
    for _ in range(9):
        begin = time.perf_counter()
        multiply(rows)
        taken.append(time.perf_counter() - begin)
    return min(taken)
