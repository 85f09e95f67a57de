"""Overfitting: gaps by hand, and a base that was taught some rows is found to know them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model, build_tokenizer
from tests.questions.running import Run

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.predict import BasePredictor
from tunewise.adaptation.readout import Readout
from tunewise.measure.questions._recall import begin_rows, by_heart, recalled
from tunewise.measure.questions.overfitting import _findings, _gap
from tunewise.measure.records import RowResult
from tunewise.model.base import Base
from tunewise.model.prefix import EMPTY_PREFIX, compute_prefix, token_embeddings
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Kind, Row, TaskSpec

SPEC = TaskSpec("t", Kind.CLASSIFICATION, "Say.", ("no", "yes"), "accuracy")


def rows_of(texts: list[str]) -> list[Row]:
    """Rows with these inputs."""
    return [Row(f"r{n}", text, "no", ("no",)) for n, text in enumerate(texts)]


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("shown", [0, 2])
def test_rows_are_cut_in_the_middle_of_their_input(chat: bool, shown: int) -> None:
    tokenizer = build_tokenizer(chat=chat)
    pool = tuple(Demonstration(f"some text {n}", "yes") for n in range(4))
    renderer = Renderer(
        tokenizer, SPEC, PromptText("Say.", pool=pool if shown else (), nearest=shown)
    )
    text = "a row whose input is long enough to be cut in two"
    (begun,) = begin_rows(renderer, rows_of([text, "short"]), tokens=8)
    given = tokenizer.decode(begun.given)
    half = (len(text) + 1) // 2
    assert given.endswith(text[:half])
    assert tokenizer.decode(begun.next) == text[half : half + 8]
    assert renderer.row_tokens(text)[: len(begun.given)] == begun.given


def test_rows_that_were_learned_are_known_by_heart_and_others_are_not() -> None:
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdefgh"), 24)) for _ in range(8)]
    model = build_model("llama").train()
    tokenizer = build_tokenizer()
    renderer = Renderer(tokenizer, SPEC, PromptText("Say."))
    learned = [(*renderer.shared_tokens, *renderer.row_tokens(text)) for text in texts[:4]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.tensor(learned)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(250):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    base = Base.from_model(model, tokenizer)
    with torch.no_grad():
        prefix = compute_prefix(base, token_embeddings(base, renderer.shared_tokens))
    predictor = BasePredictor(Readout(base, renderer, prefix), Decoding("score"))
    begun = begin_rows(renderer, rows_of(texts), tokens=8)
    assert by_heart(predictor, begun) == [True] * 4 + [False] * 4
    assert (
        by_heart(BasePredictor(Readout(base, renderer, EMPTY_PREFIX), Decoding("score")), []) == []
    )
    # Behind another prompt alone they do not come out; behind either of the two they do.
    with torch.no_grad():
        noise = compute_prefix(base, torch.randn(1, 12, base.width))
    other = Readout(base, renderer, noise)
    alone = BasePredictor(other, Decoding("score"))
    both = BasePredictor(replace(other, others=(predictor.readout,)), Decoding("score"))
    assert sum(yes for _, yes in recalled(alone, rows_of(texts), tokens=8)) < 4
    known = recalled(both, rows_of(texts), tokens=8)
    assert [(each.row.id, yes) for each, yes in known] == [(f"r{n}", n < 4) for n in range(8)]


class _Subject:
    """A kept fit with these test scores."""

    def __init__(self, scores: list[float]) -> None:
        self.record: Any = type("Record", (), {})()
        self.record.seed, self.record.curve = 3, ()
        self.record.test = results(scores)


def results(scores: list[float]) -> tuple[RowResult, ...]:
    """Answers with these scores."""
    return tuple(RowResult(f"r{n}", "x", score) for n, score in enumerate(scores))


def test_the_gap_is_the_difference_and_a_large_one_is_named() -> None:
    test = [1.0] * 60 + [0.0] * 40
    rows = [Row(f"r{n}", "text", "x", ("x",)) for n in range(100)]
    subject: Any = _Subject(test)
    train, gap = _gap("full", subject, results([1.0] * 95 + [0.0] * 5), rows, rows)
    assert (train.value, train.n, train.seeds) == (0.95, 100, (3,))
    assert gap.value == pytest.approx(0.35)
    assert gap.low is not None
    assert gap.high is not None
    assert 0.2 < gap.low < 0.35 < gap.high < 0.5
    assert "full scores 35.0" in _findings([train, gap])[0]
    even = _gap("full", subject, results(test), rows, rows)
    assert _findings(even) == (
        "No entry is clearly better on the rows it was fitted on (200 rows in all).",
    )


def test_on_a_run(small_run: Run, tmp_path: Path) -> None:
    evidence = small_run.ask("overfitting", tmp_path, train_rows=10, begun_rows=12, next_tokens=4)
    assert not evidence.absent, evidence.absent
    for record in small_run.records:
        gap = evidence.find("train_test_gap", record.method)
        train = evidence.find("train_score", record.method)
        assert gap is not None
        assert train is not None
        shallow = record.parts == ("shallow_model",)
        assert train.n == (len(small_run.jobs.ground.task.fit_view.train) if shallow else 10)
    heart = evidence.find("inputs_by_heart", "lora")
    assert heart is not None
    assert heart.value is not None
    no_base = evidence.find("inputs_by_heart", "tfidf")
    assert no_base is not None
    assert "without the base" in no_base.absent
    rise = evidence.find("validation_rise", "lora")
    assert rise is not None
    assert rise.number >= 0
    none = evidence.find("validation_rise", "zero_shot")
    assert none is not None
    assert none.absent
    work = evidence.work["forward_tokens"]
    assert 0.8 * evidence.planned_passes <= work <= 1.25 * evidence.planned_passes


def test_short_rows_cannot_be_begun_and_it_is_said(small_run: Run, tmp_path: Path) -> None:
    evidence = small_run.ask("overfitting", tmp_path, train_rows=4, begun_rows=12, next_tokens=60)
    heart = evidence.find("inputs_by_heart", "zero_shot")
    assert heart is not None
    assert "long enough" in heart.absent
