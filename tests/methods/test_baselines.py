"""The baselines: what they choose, counted by hand, and that they leave the base alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tests.conftest import build_tokenizer

from tunewise.adaptation import store
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import ShallowModelPart
from tunewise.adaptation.shallow import ShallowPredictor
from tunewise.errors import DataError
from tunewise.methods._registry import discover_methods
from tunewise.methods._settings.tfidf import TfidfSettings
from tunewise.methods.lead import METHOD as LEAD
from tunewise.methods.majority import METHOD as MAJORITY
from tunewise.methods.tfidf import METHOD as TFIDF
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.task.score import score_row
from tunewise.task.types import FitView, Kind, Row, TaskSpec

TOPICS = {"card": "the card is lost", "rate": "what rate today", "cash": "no cash at the machine"}


class BaseWithoutModel:
    """Has a name and a hash; touching the model fails."""

    name, fingerprint, dtype_name = "tiny", "f" * 8, "float32"
    tokenizer = build_tokenizer()

    @property
    def model(self) -> Any:
        raise AssertionError("a baseline touched the base model")


def rows_of(pairs: list[tuple[str, str]], prefix: str = "r") -> tuple[Row, ...]:
    return tuple(Row(f"{prefix}{i}", x, y, (y,)) for i, (x, y) in enumerate(pairs))


def context_of(
    train: tuple[Row, ...],
    validation: tuple[Row, ...] = (),
    kind: Kind = Kind.CLASSIFICATION,
    metric: str = "accuracy",
) -> FitContext:
    has_labels = kind in (Kind.CLASSIFICATION, Kind.MULTI_LABEL)
    labels = tuple(sorted({row.output for row in (*train, *validation)})) if has_labels else ()
    view = FitView(TaskSpec("t", kind, "Do.", labels, metric), train, validation)
    base: Any = BaseWithoutModel()
    return FitContext(base, view, Ledger(1, 1, limit=0), 0, FitLog(), "d")


def topics(count: int, prefix: str) -> tuple[Row, ...]:
    generator = np.random.default_rng(len(prefix))
    names = [sorted(TOPICS)[i % 3] for i in range(count)]
    return rows_of(
        [(f"{TOPICS[n]} {' '.join(generator.choice(list('abcdef'), 4))}", n) for n in names], prefix
    )


def rule_of(adaptation: Adaptation) -> ShallowModelPart:
    part = adaptation.part(ShallowModelPart)
    assert part is not None
    assert adaptation.kinds == ("shallow_model",)
    assert adaptation.decoding.mode == "free"
    return part


def test_all_three_are_found_and_need_no_base() -> None:
    found = discover_methods()
    for name in ("majority", "tfidf", "lead"):
        assert not found[name].needs.base
        assert not found[name].needs.gradients
        assert found[name].produces == ("shallow_model",)
        assert all(field.description for field in found[name].Settings.model_fields.values())
    assert found["tfidf"].needs.kinds == {Kind.CLASSIFICATION}
    assert found["lead"].needs.kinds == {Kind.GENERATION}
    assert found["majority"].needs.kinds == set(Kind)


@pytest.mark.parametrize(
    ("answers", "expected"), [("aabbb", "b"), ("ba", "b"), ("abab", "a"), ("x", "x")]
)
@pytest.mark.parametrize("kind", Kind)
def test_majority(answers: str, expected: str, kind: Kind) -> None:
    context = context_of(rows_of([("", a) for a in answers]), kind=kind)
    part = rule_of(MAJORITY.fit(context, MAJORITY.Settings()))
    assert part.rule == "constant"
    assert part.config == {"answer": expected, "share": answers.count(expected) / len(answers)}


def test_tfidf_equals_scikit_learn_with_the_best_strength() -> None:
    train, validation = topics(30, "t"), topics(12, "va")
    adaptation = TFIDF.fit(context_of(train, validation), TfidfSettings())
    strength = adaptation.provenance.notes["inverse_regularization"]
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True
    )
    classifier = LogisticRegression(C=strength, max_iter=2000)
    classifier.fit(vectorizer.fit_transform([r.input for r in train]), [r.output for r in train])
    inputs = [row.input for row in validation]
    predictor = ShallowPredictor(rule_of(adaptation), adaptation.spec)
    np.testing.assert_allclose(
        np.exp(predictor.scores(inputs)),
        classifier.predict_proba(vectorizer.transform(inputs)),
        atol=1e-12,
    )
    right = np.mean(
        [a.answer == r.output for a, r in zip(predictor.predict(inputs), validation, strict=True)]
    )
    assert adaptation.provenance.notes["validation_score"] == right == 1.0


def test_tfidf_takes_the_most_regularised_of_equals_and_the_strength_given() -> None:
    train = topics(30, "t")
    notes = TFIDF.fit(context_of(train, train), TfidfSettings()).provenance.notes
    assert notes["inverse_regularization"] == 0.1
    given = TfidfSettings(inverse_regularization=7.0)
    assert TFIDF.fit(context_of(train), given).provenance.notes["inverse_regularization"] == 7.0
    without = TFIDF.fit(context_of(train), TfidfSettings()).provenance.notes
    assert without == {"inverse_regularization": 10.0, "terms": without["terms"]}


def test_balanced_weights_and_characters_take_effect() -> None:
    rows = rows_of([("good a", "y")] * 20 + [("good b", "n")] * 2)
    probabilities = {}
    for weight in ("none", "balanced"):
        settings = TfidfSettings(class_weight=weight, inverse_regularization=0.1)
        adaptation = TFIDF.fit(context_of(rows), settings)
        predictor = ShallowPredictor(rule_of(adaptation), adaptation.spec)
        probabilities[weight] = float(np.exp(predictor.scores(["good"]))[0, 0])
    assert probabilities["none"] < 0.2 < 0.4 < probabilities["balanced"]
    part = rule_of(TFIDF.fit(context_of(rows), TfidfSettings(char_ngrams=3)))
    assert [block["analyzer"] for block in part.config["blocks"]] == ["word", "char_wb"]


def test_tfidf_on_one_label_and_on_no_words() -> None:
    part = rule_of(TFIDF.fit(context_of(rows_of([("a", "x"), ("b", "x")])), TfidfSettings()))
    assert part.rule == "constant"
    with pytest.raises(DataError, match="holds a word"):
        TFIDF.fit(context_of(rows_of([("!!", "x"), ("?", "y")])), TfidfSettings())


def test_lead_chooses_the_length_by_the_metric() -> None:
    text = "one two three four five six seven eight nine ten"
    rows = rows_of([(text, "one two three four five")] * 3)
    context = context_of(rows, rows, Kind.GENERATION, "rouge_l")
    part = rule_of(LEAD.fit(context, LEAD.Settings()))
    by_hand = {
        k: score_row("rouge_l", " ".join(text.split()[:k]), rows[0], context.view.spec)
        for k in range(1, 11)
    }
    assert part.config["words"] == max(by_hand, key=lambda k: by_hand[k]) == 5
    assert rule_of(LEAD.fit(context, LEAD.Settings(words=3))).config["words"] == 3
    alone = context_of(rows_of([("a b c", "a b c")]), (), Kind.GENERATION, "rouge_l")
    assert rule_of(LEAD.fit(alone, LEAD.Settings())).config["words"] == 3


@pytest.mark.parametrize("method", [MAJORITY, TFIDF, LEAD], ids=lambda method: method.name)
def test_the_same_fit_gives_the_same_bytes(method: Any, tmp_path: Path) -> None:
    kind = Kind.GENERATION if method is LEAD else Kind.CLASSIFICATION
    metric = "rouge_l" if method is LEAD else "accuracy"
    fits = []
    for name in "ab":
        context = context_of(topics(30, "t"), topics(9, "v"), kind, metric)
        adaptation = method.fit(context, method.Settings())
        assert context.ledger.spent == 0
        store.save(adaptation, tmp_path / name)
        store.load(tmp_path / name)
        fits.append(store.fingerprint_of_folder(tmp_path / name))
    assert fits[0] == fits[1]
