"""A quick sum over all weights: was the base left as it was?"""

from __future__ import annotations

import torch

from tunewise.model.base import Base


def weights_checksum(base: Base) -> tuple[int, ...]:
    """One integer per tensor, from its bits; any single changed bit changes it."""
    sums = []
    for tensor in base.model.state_dict().values():
        bits = tensor.detach().contiguous().view(torch.uint8).flatten().to(torch.int64)
        sums.append(int(bits.sum()))
    return tuple(sums)
