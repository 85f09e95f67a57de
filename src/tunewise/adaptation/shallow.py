"""Answers without the base: a constant, the first words, or a linear model on TF-IDF features.

The linear rule is scikit-learn's TfidfVectorizer and LogisticRegression rebuilt from stored
numbers: terms, inverse document frequencies, coefficients and intercepts. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import hstack
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tunewise.adaptation.parts import ShallowModelPart
from tunewise.errors import AdaptationError
from tunewise.task.types import TaskSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ShallowAnswer:
    """One answer; its probability where the rule has one."""

    answer: str
    probability: float | None = None


def vectorizer_of(block: Mapping[str, Any], terms: Sequence[str] | None = None) -> Any:
    """A TF-IDF vectorizer from its stored settings.

    Args:
        block: `analyzer` ("word" or "char_wb") and `ngrams` ([least, most]).
        terms: its vocabulary in column order; None for one that is still to be fitted.
    """
    least, most = block["ngrams"]
    return TfidfVectorizer(
        analyzer=block["analyzer"],
        ngram_range=(least, most),
        # Words of one character count too: "I", "5", and whole words of some scripts.
        token_pattern=r"(?u)\b\w+\b" if block["analyzer"] == "word" else None,
        sublinear_tf=True,
        dtype=np.float64,
        vocabulary=None if terms is None else list(terms),
    )


def linear_part(
    blocks: Sequence[Mapping[str, Any]], vectorizers: Sequence[Any], classifier: LogisticRegression
) -> ShallowModelPart:
    """The part of a fitted linear model.

    Args:
        blocks: settings of each vectorizer, as for `vectorizer_of`.
        vectorizers: fitted; their columns stand side by side, in this order.
        classifier: fitted on those columns; two classes or more.

    Returns:
        A part of the rule "linear". Two classes, for which scikit-learn keeps one row of
        coefficients z, are stored as the rows 0 and z: softmax over them is the same function.
    """
    columns = [vectorizer.get_feature_names_out().tolist() for vectorizer in vectorizers]
    coefficients, intercepts = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:
        coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    config = {
        "labels": [str(label) for label in classifier.classes_],
        "terms": [term for block in columns for term in block],
        "blocks": [
            {
                "analyzer": block["analyzer"],
                "ngrams": list(block["ngrams"]),
                "terms": len(terms),
            }
            for block, terms in zip(blocks, columns, strict=True)
        ],
    }
    numbers = {
        "idf": np.concatenate([vectorizer.idf_ for vectorizer in vectorizers]),
        "coefficients": coefficients,
        "intercepts": intercepts,
    }
    tensors = {
        name: torch.from_numpy(np.array(value, dtype=np.float64)) for name, value in numbers.items()
    }
    return ShallowModelPart("linear", config, tensors)


class ShallowPredictor:
    """Answers by a stored shallow model.

    Args:
        part: the model.
        spec: the task; `scores` come in the order of its labels.

    Raises:
        AdaptationError: the stored model does not fit together.
    """

    def __init__(self, part: ShallowModelPart, spec: TaskSpec) -> None:
        self._rule, self._config, self._spec = part.rule, part.config, spec
        if part.rule == "linear":
            self._labels: tuple[str, ...] = tuple(part.config["labels"])
            numbers = {name: tensor.numpy() for name, tensor in part.tensors.items()}
            self._vectorizers = _rebuilt(part.config, numbers["idf"])
            self._coefficients: Floats = numbers["coefficients"]
            self._intercepts: Floats = numbers["intercepts"]

    def predict(self, inputs: Sequence[str]) -> list[ShallowAnswer]:
        """One answer per input, in order.

        The probability is the model's for "linear", the answer's share of the training rows for
        "constant" where it was stored, and None for "lead".
        """
        if self._rule == "constant":
            answer = ShallowAnswer(self._config["answer"], self._config.get("share"))
            return [answer] * len(inputs)
        if self._rule == "lead":
            return [ShallowAnswer(first_words(text, self._config["words"])) for text in inputs]
        scores = self._log_probabilities(inputs)
        best = scores.argmax(axis=1)
        return [
            ShallowAnswer(self._labels[label], float(np.exp(row[label])))
            for row, label in zip(scores, best, strict=True)
        ]

    def scores(self, inputs: Sequence[str]) -> Floats:
        """Log-probabilities of the labels, for the rule "linear".

        Returns:
            (n, L) in the order of the task's labels; minus infinity for a label that no training
            row had.

        Raises:
            AdaptationError: the rule has no scores.
        """
        if self._rule != "linear":
            raise AdaptationError(
                "this shallow model has no scores", found=self._rule, expected="the rule 'linear'"
            )
        own = self._log_probabilities(inputs)
        scores = np.full((len(inputs), len(self._spec.labels)), -np.inf)
        for column, label in enumerate(self._spec.labels):
            if label in self._labels:
                scores[:, column] = own[:, self._labels.index(label)]
        return scores

    def _log_probabilities(self, inputs: Sequence[str]) -> Floats:
        """(n, own labels)."""
        if not inputs:
            return np.zeros((0, len(self._labels)))
        features = hstack([each.transform(inputs) for each in self._vectorizers], format="csr")
        logits = features @ self._coefficients.T + self._intercepts
        return np.asarray(log_softmax(logits, axis=1))


def first_words(text: str, count: int) -> str:
    """The first `count` words of a text, one space between them."""
    return " ".join(text.split()[:count])


def _rebuilt(config: Mapping[str, Any], idf: Floats) -> list[Any]:
    """The fitted vectorizers, each with its slice of the terms."""
    sizes = [block["terms"] for block in config["blocks"]]
    if sum(sizes) != len(config["terms"]):
        raise AdaptationError(
            "the terms of a linear shallow model do not fit its vectorizers",
            found=f"{len(config['terms'])} terms",
            expected=f"{' + '.join(map(str, sizes))}",
        )
    vectorizers = []
    begin = 0
    for block, size in zip(config["blocks"], sizes, strict=True):
        vectorizer = vectorizer_of(block, config["terms"][begin : begin + size])
        vectorizer.idf_ = idf[begin : begin + size]
        vectorizers.append(vectorizer)
        begin += size
    return vectorizers
