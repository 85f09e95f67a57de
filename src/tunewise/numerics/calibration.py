"""Calibration of label scores: a bias per label that undoes the model's own preference.

Batch calibration (Zhou et al. 2023, section 3.2) subtracts the mean probability the model gives
each label over a batch of unlabelled rows. It assumes equally frequent labels; where they are not,
the training frequencies are added back. Contextual calibration (Zhao et al. 2021, section 5) asks
instead what the model would say where there is nothing to read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def softmax(scores: Floats) -> Floats:
    """Probabilities of scores (n, L), by row."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def batch_bias(scores: Floats, target: Floats | None = None, *, rounds: int = 50) -> Floats:
    """Bias that makes the mean probability of every label meet a target.

    One round is batch calibration as published; repeating it makes the mean meet the target
    exactly, which matters where the model's preference is strong.

    Args:
        scores: (n, L) log-probabilities.
        target: (L,) frequencies that sum to 1; None for equal ones.
        rounds: fixed-point rounds.

    Returns:
        (L,) to be added to the scores; its mean is 0.
    """
    labels = scores.shape[1]
    wanted = np.full(labels, 1.0 / labels) if target is None else np.asarray(target, float)
    wanted = np.clip(wanted, 1e-6, None)
    bias = np.zeros(labels)
    for _ in range(rounds):
        mean = softmax(scores + bias).mean(axis=0)
        bias = bias + np.log(wanted) - np.log(np.clip(mean, 1e-12, None))
        bias = bias - bias.mean()
    return bias


def content_free_bias(scores: Floats) -> Floats:
    """Bias that takes away what each label gets behind inputs without content.

    Args:
        scores: (m, L) log-probabilities behind such inputs.

    Returns:
        (L,) to be added to the scores, the negative logarithm of the mean probability; its mean
        is 0.
    """
    bias = -np.log(np.clip(softmax(scores).mean(axis=0), 1e-12, None))
    return np.asarray(bias - bias.mean())


def row_cross_entropies(scores: Floats, gold: NDArray[np.int64]) -> Floats:
    """(n,) -log p(gold label) of every row, p by softmax over the labels."""
    probability = softmax(scores)[np.arange(len(gold)), gold]
    return np.asarray(-np.log(np.clip(probability, 1e-12, None)))


def cross_entropy(scores: Floats, gold: NDArray[np.int64]) -> float:
    """Mean of `row_cross_entropies`."""
    return float(row_cross_entropies(scores, gold).mean())
