"""The shallow rules, the linear one against scikit-learn's own fitted objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import hstack
from sklearn.linear_model import LogisticRegression
from tests.adaptation.samples import adaptation_of

from tunewise.adaptation import store
from tunewise.adaptation.parts import ShallowModelPart
from tunewise.adaptation.shallow import ShallowPredictor, first_words, linear_part, vectorizer_of
from tunewise.errors import AdaptationError
from tunewise.task.types import Kind, TaskSpec

TEXTS = (
    "My card never arrived and I am angry",
    "The card arrived, thanks!",
    "Wo ist meine Karte? 我的卡在哪里",
    "refund me now, refund me",
    "a refund of 5 pounds I got",
    "What is the exchange rate today",
    "rate of exchange for the pound",
)
UNSEEN = (*TEXTS, "", "zzz qqq", "CARD card Card refund rate", "我的卡 refund")
LABELS = ("lost", "lost", "lost", "refund", "refund", "rate", "rate")
WORDS = {"analyzer": "word", "ngrams": [1, 2]}
CHARACTERS = {"analyzer": "char_wb", "ngrams": [2, 4]}


def spec(labels: Sequence[str]) -> TaskSpec:
    return TaskSpec("t", Kind.CLASSIFICATION, "", tuple(sorted(labels)), "accuracy")


def fitted(blocks: list[dict[str, Any]], labels: Sequence[str]) -> tuple[ShallowModelPart, Any]:
    """The part, and what scikit-learn itself predicts on UNSEEN."""
    vectorizers = [vectorizer_of(block) for block in blocks]
    train = hstack([each.fit_transform(TEXTS) for each in vectorizers], format="csr")
    classifier = LogisticRegression(C=5.0).fit(train, labels)
    unseen = hstack([each.transform(UNSEEN) for each in vectorizers], format="csr")
    return linear_part(blocks, vectorizers, classifier), classifier.predict_proba(unseen)


@pytest.mark.parametrize(
    "labels", [LABELS, ["yes" if x == "lost" else "no" for x in LABELS]], ids=len
)
@pytest.mark.parametrize("blocks", [[WORDS], [CHARACTERS], [WORDS, CHARACTERS]], ids=len)
def test_the_linear_rule_is_the_fitted_model(
    blocks: list[dict[str, Any]], labels: Sequence[str], tmp_path: Path
) -> None:
    part, expected = fitted(blocks, labels)
    store.save(adaptation_of(part), tmp_path / "ada")
    stored = store.load(tmp_path / "ada").part(ShallowModelPart)
    assert stored is not None
    predictor = ShallowPredictor(stored, spec(set(labels)))
    scores = predictor.scores(UNSEEN)
    np.testing.assert_allclose(np.exp(scores), expected, atol=1e-12, rtol=0)
    answers = predictor.predict(UNSEEN)
    names = sorted(set(labels))
    assert [each.answer for each in answers] == [names[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(
        [each.probability for each in answers], expected.max(axis=1), atol=1e-12
    )


def test_a_label_never_seen_has_no_probability_and_order_is_the_tasks() -> None:
    part, expected = fitted([WORDS], LABELS)
    scores = ShallowPredictor(part, spec({*LABELS, "new"})).scores(UNSEEN)
    assert np.isneginf(scores[:, 1]).all()
    np.testing.assert_allclose(np.exp(np.delete(scores, 1, axis=1)), expected, atol=1e-12)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, atol=1e-12)


def test_no_inputs() -> None:
    part, _ = fitted([WORDS], LABELS)
    predictor = ShallowPredictor(part, spec(set(LABELS)))
    assert predictor.predict([]) == []
    assert predictor.scores([]).shape == (0, 3)


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    part, _ = fitted([WORDS, CHARACTERS], LABELS)
    predictor = ShallowPredictor(part, spec(set(LABELS)))
    alone = [predictor.predict([text])[0] for text in UNSEEN]
    assert alone == predictor.predict(UNSEEN)


def test_constant_and_lead() -> None:
    constant = ShallowPredictor(
        ShallowModelPart("constant", {"answer": "x", "share": 0.5}), spec([])
    )
    assert [(a.answer, a.probability) for a in constant.predict(["", "b"])] == [("x", 0.5)] * 2
    lead = ShallowPredictor(ShallowModelPart("lead", {"words": 2}), spec([]))
    assert [a.answer for a in lead.predict(["", "one", " one\n two\tthree"])] == [
        "",
        "one",
        "one two",
    ]
    assert lead.predict(["a"])[0].probability is None
    assert first_words("a b", 9) == "a b"
    with pytest.raises(AdaptationError, match="lead"):
        lead.scores(["a"])


def test_terms_that_do_not_fit_the_vectorizers_are_refused() -> None:
    part, _ = fitted([WORDS], LABELS)
    blocks = [{**part.config["blocks"][0], "terms": 3}]
    with pytest.raises(AdaptationError, match="expected: 3"):
        ShallowPredictor(replace(part, config={**part.config, "blocks": blocks}), spec([]))
