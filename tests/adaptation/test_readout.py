"""Reading answers out: alone as among others, always a label, and failures as records."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.laws.fitting import (
    base_of,
    generation_view,
    plain_answer_loss,
    planted_view,
    with_spec,
)

from tunewise.adaptation.attach import lower_parts
from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.readout import (
    Readout,
    adjusted_scores,
    choose_decoding,
    default_decoding,
    label_sequences,
)
from tunewise.model.base import Base
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import FitView, Kind

INPUTS = ["abc0", "a longer row of text 1", "", "é日本 0"]


def readout_of(base: Base, view: FitView, instruction: str = "Do.") -> Readout:
    renderer = Renderer(base.tokenizer, view.spec, PromptText(instruction))
    return Readout(base, renderer, lower_parts(base, renderer, ()))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("labels", [("no", "yes"), ("a", "ab", "abc"), ("1", "22", "4444")])
def test_scores_are_those_of_plain_passes(labels: tuple[str, ...], chat: bool) -> None:
    base = base_of(chat=chat)
    readout = readout_of(base, with_spec(planted_view(), labels=labels))
    renderer = readout.renderer
    got = readout.label_scores(INPUTS)
    sequences = label_sequences(renderer)
    with torch.no_grad():
        for row, text in zip(got, INPUTS, strict=True):
            before = renderer.shared_tokens + renderer.row_tokens(text)
            slow = [-float(plain_answer_loss(base, before, tokens)) for tokens in sequences]
            assert row.tolist() == pytest.approx(slow, abs=1e-3)
    answers = readout.answers(INPUTS, Decoding("score"))
    for answer, row in zip(answers, got, strict=True):
        assert answer.text == labels[int(row.argmax())]
        assert answer.probability == pytest.approx(max(np.exp(row)) / sum(np.exp(row)), rel=1e-5)


def test_the_end_token_only_where_one_label_begins_another() -> None:
    base = base_of()
    apart = Renderer(base.tokenizer, planted_view().spec, PromptText(""))
    assert all(apart.end_token_id not in tokens for tokens in label_sequences(apart))
    spec = replace(planted_view().spec, labels=("a", "ab"))
    nested = Renderer(base.tokenizer, spec, PromptText(""))
    assert label_sequences(nested) == nested.label_tokens()


@pytest.mark.parametrize("mode", ["score", "trie"])
@pytest.mark.parametrize("count", [2, 30])
def test_an_answer_is_always_a_label_and_the_same_alone(mode: str, count: int) -> None:
    labels = tuple(sorted(f"label {index * 7 % 31}" for index in range(count)))
    readout = readout_of(base_of(), with_spec(planted_view(), labels=labels))
    decoding = Decoding(mode)
    together = readout.answers(INPUTS, decoding)
    assert {answer.text for answer in together} <= set(labels)
    for text, answer in zip(INPUTS, together, strict=True):
        alone = readout.answers([text], decoding)[0]
        assert alone.text == answer.text
        assert alone.probability == pytest.approx(answer.probability, rel=1e-4)


@pytest.mark.parametrize(
    "decoding", [Decoding("score"), Decoding("trie"), Decoding("free", max_new_tokens=6)], ids=str
)
def test_a_row_that_does_not_fit_is_a_failure_of_that_row(decoding: Decoding) -> None:
    base = base_of()
    view = generation_view() if decoding.mode == "free" else planted_view()
    readout = readout_of(base, view)
    inputs = ["abc", "x" * 600, "de"]
    answers = readout.answers(inputs, decoding)
    assert answers[1].text is None
    assert "tokens, and the model's context leaves" in answers[1].failure
    for index in (0, 2):
        alone = readout.answers([inputs[index]], decoding)[0]
        assert answers[index].text == alone.text
        assert answers[index].failure == ""
    assert readout.answers([], decoding) == []


def test_a_long_neighbour_does_not_shorten_an_answer() -> None:
    """A row near the context's end leaves itself few new tokens, and only itself."""
    base = base_of()
    readout = readout_of(base, generation_view())
    decoding = Decoding("free", max_new_tokens=20)
    space = base.context_length - readout.prefix.length
    around = len(readout.renderer.row_tokens(""))
    inputs = ["ab", "y" * (space - around - 3), "cd", "z" * (space - around - 1)]
    together = readout.answers(inputs, decoding)
    for text, answer in zip(inputs, together, strict=True):
        assert answer.failure == ""
        assert readout.answers([text], decoding)[0].text == answer.text


def test_the_default_readout_of_each_kind() -> None:
    base, view = base_of(), planted_view()
    renderer = Renderer(base.tokenizer, view.spec, PromptText(""))
    assert default_decoding(view.spec, renderer, view.train).mode == "score"
    many = replace(view.spec, labels=tuple(f"{index:02d}" for index in range(13)))
    assert default_decoding(many, renderer, view.train).mode == "trie"
    free = generation_view()
    longest = max(len(renderer.answer_tokens(row.output)) for row in free.train)
    decoding = default_decoding(free.spec, renderer, free.train)
    assert decoding == Decoding("free", max_new_tokens=max(8, math.ceil(1.25 * longest)))
    as_json = replace(free.spec, kind=Kind.JSON)
    assert default_decoding(as_json, renderer, free.train).mode == "json"


def renderer_with(labels: tuple[str, ...]) -> Renderer:
    spec = replace(planted_view().spec, labels=labels)
    return Renderer(base_of().tokenizer, spec, PromptText(""))


def test_a_planted_preference_is_calibrated_away() -> None:
    renderer = renderer_with(("n1", "y1"))
    gold = np.array([0, 1] * 20)
    scores = np.where(np.arange(2) == gold[:, None], 1.0, 0.0) + np.array([6.0, 0.0])
    chosen = choose_decoding(scores, gold.tolist(), renderer, [0.5, 0.5])
    assert chosen.label_bias
    assert (adjusted_scores(scores, renderer, chosen).argmax(axis=1) == gold).all()


def test_scores_that_are_right_already_stay() -> None:
    renderer = renderer_with(("n1", "y1"))
    gold = np.array([0, 1] * 20)
    scores = np.where(np.arange(2) == gold[:, None], 5.0, 0.0)
    assert choose_decoding(scores, gold.tolist(), renderer, [0.5, 0.5]) == Decoding("score")


def test_long_labels_are_normalised_where_it_helps() -> None:
    renderer = renderer_with(("n", "yyyyyyyyyy"))
    gold = np.array([0, 1] * 20)
    per_token = np.where(np.arange(2) == gold[:, None], -1.0, -2.0)
    scores = per_token * np.array([1, 10])
    assert set(scores.argmax(axis=1)) == {0}
    chosen = choose_decoding(scores, gold.tolist(), renderer, [0.5, 0.5])
    adjusted = adjusted_scores(scores, renderer, chosen)
    assert (adjusted.argmax(axis=1) == gold).all()
    assert adjusted_scores(scores, renderer, Decoding("score", True)).tolist() == per_token.tolist()


def test_contextual_calibration_is_taken_where_the_batch_says_nothing() -> None:
    """Four of five rows have one label, and the training rows say it is one of five."""
    renderer = renderer_with(("n1", "y1"))
    gold = np.array([0] * 32 + [1] * 8)
    known = np.concatenate([np.linspace(0.1, 1.0, 32), np.linspace(-1.0, -0.1, 8)])
    scores = np.stack([known + 6.0, np.zeros(40)], axis=1)
    assert choose_decoding(scores, gold.tolist(), renderer, [0.2, 0.8]) == Decoding("score")
    nothing = np.array([[6.1, 0.0], [5.9, 0.0], [6.0, 0.0]])
    chosen = choose_decoding(scores, gold.tolist(), renderer, [0.2, 0.8], content_free=nothing)
    assert chosen.label_bias == pytest.approx((-3.0, 3.0), abs=0.01)
    assert (adjusted_scores(scores, renderer, chosen).argmax(axis=1) == gold).all()
    silent = np.zeros((3, 2))
    told = choose_decoding(scores, gold.tolist(), renderer, [0.2, 0.8], content_free=silent)
    assert told == Decoding("score")


def test_copies_of_rows_prove_no_change() -> None:
    """A bias wins two of six rows and loses one; ten times over, that is still within the noise."""
    renderer = renderer_with(("n1", "y1"))
    gold = np.array([0, 0, 0, 0, 0, 1])
    # By how much the wrong label is ahead: a bias of one or so for label 0 turns what is near 0.
    ahead = np.array([0.5, 0.5, -9.0, -9.0, -9.0, -0.5])
    scores = np.where(np.arange(2) == gold[:, None], 0.0, ahead[:, None])
    frequencies = [5 / 6, 1 / 6]
    assert choose_decoding(scores, gold.tolist(), renderer, frequencies) == Decoding("score")
    copies, golds = np.repeat(scores, 10, axis=0), np.repeat(gold, 10).tolist()
    groups = [f"text {row}" for row in range(6) for _ in range(10)]
    told = choose_decoding(copies, golds, renderer, frequencies, groups)
    assert told == Decoding("score")
    assert choose_decoding(copies, golds, renderer, frequencies).label_bias
