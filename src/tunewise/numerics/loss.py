"""Losses of answer tokens, summed in float32."""

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


def summed_divergence(logits: Tensor, tokens: Tensor, probabilities: Tensor) -> Tensor:
    """Sum over N positions of KL(teacher || softmax(logits)), of a teacher with K tokens each.

    Hinton et al. 2015, section 2, at temperature 1. Zero where both agree on the K tokens and
    nothing is left for others.

    Args:
        logits: (N, V), any floating dtype; taken to float32.
        tokens: (N, K) token ids.
        probabilities: (N, K) of these tokens; each row sums up to 1.

    Returns:
        A scalar, float32.
    """
    found = functional.log_softmax(logits.float(), dim=-1).gather(1, tokens)
    return functional.kl_div(found, probabilities, reduction="sum")
