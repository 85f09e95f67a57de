"""Cross-entropy of answer tokens, summed in float32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over N positions of -log p(target).

    Args:
        logits: (N, V), any floating dtype; taken to float32.
        targets: (N,) token ids.

    Returns:
        A scalar, float32.
    """
    return functional.cross_entropy(logits.float(), targets, reduction="sum")
