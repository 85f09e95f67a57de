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


def token_cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """(N,) -log p(target) of every position, float32; arguments as of `summed_cross_entropy`."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")
