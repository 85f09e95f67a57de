"""Probabilities of all labels, from whatever answers: a scored, a decoded or a linear readout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.predict import BasePredictor, Predictor, ShallowAnswers
from tunewise.adaptation.readout import adjusted_scores
from tunewise.numerics.calibration import softmax

Floats = NDArray[np.float64]


def label_probabilities(
    predictor: Predictor, adaptation: Adaptation, inputs: Sequence[str]
) -> Floats:
    """Probability of every label for every input.

    Args:
        predictor: answers with the adaptation.
        adaptation: gives labels and readout.
        inputs: texts.

    Returns:
        (n, L), rows sum to 1. Labels decoded through their trie have a probability for the answer
        only; what is left of it is shared by the others. A row that does not fit the context is
        the same for all labels.
    """
    labels = adaptation.spec.labels
    found = np.full((len(inputs), len(labels)), 1.0 / len(labels))
    if isinstance(predictor, ShallowAnswers):
        return softmax(predictor.predictor.scores(inputs)) if inputs else found
    if adaptation.decoding.mode == "score" and isinstance(predictor, BasePredictor):
        long = predictor.readout.too_long(inputs, adaptation.decoding)
        fits = [index for index, why in enumerate(long) if not why]
        if fits:
            found[fits] = _scored(predictor, adaptation.decoding, [inputs[i] for i in fits])
        return found
    for row, answer in zip(found, predictor.answers(inputs), strict=True):
        if answer.text is not None and answer.probability is not None:
            row[:] = (1.0 - answer.probability) / max(1, len(labels) - 1)
            row[labels.index(answer.text)] = answer.probability
    return found


def _scored(predictor: BasePredictor, decoding: Decoding, inputs: Sequence[str]) -> Floats:
    readout = predictor.readout
    return softmax(adjusted_scores(readout.label_scores(inputs), readout.renderer, decoding))
