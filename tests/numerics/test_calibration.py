"""Calibration against plain loops, and against planted biases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunewise.numerics.calibration import batch_bias, content_free_bias, cross_entropy, softmax


def scores_of(rows: int, labels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, labels)) * 3


def test_softmax_by_hand() -> None:
    scores = scores_of(6, 4)
    for row, got in zip(scores.tolist(), softmax(scores).tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        assert got == pytest.approx([math.exp(value) / total for value in row])


def test_softmax_of_far_scores() -> None:
    assert softmax(np.array([[-1e5, -1e5 + 1.0]])).tolist() == [
        pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    ]


def test_what_nothing_is_given_is_taken_off() -> None:
    scores = scores_of(3, 4)
    bias = content_free_bias(scores)
    assert bias.mean() == pytest.approx(0)
    mean = softmax(scores).mean(axis=0)
    odds = mean * np.exp(bias)
    assert odds / odds.sum() == pytest.approx([0.25] * 4)


def test_cross_entropy_by_hand() -> None:
    scores, gold = scores_of(5, 3), np.array([0, 2, 1, 1, 0])
    by_hand = [-math.log(row[label]) for row, label in zip(softmax(scores), gold, strict=True)]
    assert cross_entropy(scores, gold) == pytest.approx(sum(by_hand) / 5)


def test_cross_entropy_of_an_impossible_label_is_finite() -> None:
    assert cross_entropy(np.array([[0.0, -1e9]]), np.array([1])) == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize("target", [None, [0.7, 0.2, 0.1]])
def test_mean_probability_meets_the_target(target: list[float] | None) -> None:
    scores = scores_of(40, 3) + np.array([4.0, 0.0, -4.0])
    bias = batch_bias(scores, None if target is None else np.array(target))
    mean = softmax(scores + bias).mean(axis=0)
    np.testing.assert_allclose(mean, [1 / 3] * 3 if target is None else target, atol=1e-3)
    assert bias.mean() == pytest.approx(0, abs=1e-12)


def test_one_round_is_the_published_formula() -> None:
    scores = scores_of(10, 3)
    plain = -np.log(softmax(scores).mean(axis=0))
    np.testing.assert_allclose(batch_bias(scores, rounds=1), plain - plain.mean())


def test_undoes_a_planted_preference() -> None:
    """Both halves of the rows say another label; a constant hides it, calibration finds it."""
    clean = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
    shifted = clean + np.array([5.0, 0.0])
    assert set(shifted.argmax(axis=1)) == {0}
    adjusted = shifted + batch_bias(shifted)
    assert (adjusted.argmax(axis=1) == clean.argmax(axis=1)).all()


def test_a_label_that_never_occurs_keeps_the_bias_finite() -> None:
    bias = batch_bias(scores_of(10, 3), np.array([0.5, 0.5, 0.0]))
    assert np.isfinite(bias).all()
