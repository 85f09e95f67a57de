"""Answers given again and again: do they agree, and are they right every time?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from tunewise.numerics.intervals import Floats


def agreement(answers: Sequence[Hashable]) -> float:
    """The share of pairs of answers that are the same: an unbiased estimate of the chance that two
    further ones are.

    Args:
        answers: to one row, at least two.

    Raises:
        ValueError: fewer than two.
    """
    count = len(answers)
    if count < 2:
        raise ValueError("at least two answers are needed")
    same = sum(comb(each, 2) for each in Counter(answers).values())
    return same / comb(count, 2)


def all_right(right: int, repeats: int, power: int) -> float:
    """The chance that `power` answers in a row are right, from how many of `repeats` were.

    Unbiased, as pass^k of Yao et al. 2024 (section 4): of all choices of `power` answers, the share
    that are all right.

    Args:
        right: how many were right.
        repeats: how many answers there are.
        power: how many in a row.

    Raises:
        ValueError: the numbers do not fit together.
    """
    if not 0 <= right <= repeats or not 1 <= power <= repeats:
        raise ValueError(f"{right} of {repeats} answers, {power} in a row")
    return comb(right, power) / comb(repeats, power)


def at_temperature(scores: ArrayLike, temperature: float) -> Floats:
    """Probabilities of drawing each label at a temperature.

    Args:
        scores: (n, L) log-probabilities.
        temperature: divides them; above 0.

    Returns:
        (n, L); each row sums up to 1.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, found {temperature}")
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
