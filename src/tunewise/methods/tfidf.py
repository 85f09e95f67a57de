"""TF-IDF and logistic regression: how far counting words gets, in a second and without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import hstack
from sklearn.linear_model import LogisticRegression

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import ShallowModelPart
from tunewise.adaptation.shallow import ShallowPredictor, linear_part, vectorizer_of
from tunewise.errors import DataError
from tunewise.methods._contract import MethodSettings, Needs
from tunewise.methods._settings.tfidf import TfidfSettings
from tunewise.task.score import score_row
from tunewise.task.types import FitView, Kind

GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
WITHOUT_VALIDATION = 10.0


class Tfidf:
    """Logistic regression on TF-IDF features (Spärck Jones 1972 for the weights)."""

    name = "tfidf"
    summary = "TF-IDF features and logistic regression; no base model"
    produces: tuple[str, ...] = (ShallowModelPart.kind,)
    needs = Needs(minimum_rows=2, kinds=frozenset({Kind.CLASSIFICATION}), base=False, seeds=False)
    Settings: type[MethodSettings] = TfidfSettings

    def fit(self, context: FitContext, settings: TfidfSettings) -> Adaptation:
        """Fit for each strength of regularisation; keep the best on validation rows.

        Raises:
            DataError: no training row holds anything that can be a feature.
        """
        view = context.view
        answers = [row.output for row in view.train]
        if len(set(answers)) == 1:
            # A small slice of the data may hold one label only; there is nothing to regress on.
            part = ShallowModelPart("constant", {"answer": answers[0], "share": 1.0})
            return context.finish(self.name, settings, (part,), Decoding(mode="free"), labels=1)
        blocks, vectorizers, features = _features([row.input for row in view.train], settings)
        grid = GRID if view.validation else (WITHOUT_VALIDATION,)
        if settings.inverse_regularization is not None:
            grid = (settings.inverse_regularization,)
        weight = None if settings.class_weight == "none" else settings.class_weight
        tried = []
        for strength in grid:
            classifier = LogisticRegression(C=strength, class_weight=weight, max_iter=2000)
            tried.append(linear_part(blocks, vectorizers, classifier.fit(features, answers)))
        scores = [_validation_score(each, view) for each in tried]
        # Of equal scores the first wins, the most regularised one.
        best = int(np.argmax(scores))
        part = tried[best]
        context.log.trainable_parameters = sum(
            part.tensors[name].numel() for name in ("coefficients", "intercepts")
        )
        notes: dict[str, Any] = {"inverse_regularization": grid[best], "terms": features.shape[1]}
        if view.validation:
            notes["validation_score"] = scores[best]
        return context.finish(self.name, settings, (part,), Decoding(mode="free"), **notes)


def _features(
    inputs: Sequence[str], settings: TfidfSettings
) -> tuple[list[dict[str, Any]], list[Any], Any]:
    """Settings of the vectorizers, the fitted vectorizers, and the (n, terms) matrix."""
    blocks: list[dict[str, Any]] = [{"analyzer": "word", "ngrams": [1, settings.word_ngrams]}]
    if settings.char_ngrams > 0:
        least = min(2, settings.char_ngrams)
        blocks.append({"analyzer": "char_wb", "ngrams": [least, settings.char_ngrams]})
    vectorizers = [vectorizer_of(block) for block in blocks]
    try:
        columns = [vectorizer.fit_transform(inputs) for vectorizer in vectorizers]
    except ValueError as error:  # scikit-learn's "empty vocabulary"
        raise DataError(
            "no training row holds a word",
            found=f"{len(inputs)} inputs, the first {inputs[0][:60]!r}",
            expected="words in at least one input",
            fix="leave out the method tfidf, or check the input column",
        ) from error
    return blocks, vectorizers, hstack(columns, format="csr")


def _validation_score(part: ShallowModelPart, view: FitView) -> float:
    """Mean of the task's metric over validation rows; 0 where there are none."""
    if not view.validation:
        return 0.0
    answers = ShallowPredictor(part, view.spec).predict([row.input for row in view.validation])
    return float(
        np.mean(
            [
                score_row(view.spec.metric, each.answer, row, view.spec)
                for each, row in zip(answers, view.validation, strict=True)
            ]
        )
    )


METHOD = Tfidf()
