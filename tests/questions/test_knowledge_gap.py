"""Surprise against plain passes, planted words, and a planted link to the prompt's mistakes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from tests.laws.fitting import plain_answer_loss
from tests.questions.running import Run

from tunewise.adaptation.readout import label_sequences
from tunewise.measure.questions._surprise import Surprise
from tunewise.measure.questions._task_words import terms_of
from tunewise.measure.questions.knowledge_gap import information
from tunewise.model.ledger import Ledger


@pytest.fixture(scope="module")
def surprise(small_run: Run) -> Surprise:
    """Of the small run's base and task."""
    ground = small_run.jobs.ground
    return Surprise.of(ground.base, ground.task.spec)


def _ledger(run: Run) -> Ledger:
    base = run.jobs.ground.base
    return Ledger(base.body_parameters, base.head_parameters)


def test_bits_are_those_of_plain_passes(small_run: Run, surprise: Surprise) -> None:
    base, rows = small_run.jobs.ground.base, small_run.rows[:5]
    ledger = _ledger(small_run)
    shared = surprise.renderer.shared_tokens
    for with_row in (True, False):
        asked = [surprise.answer(row, with_row=with_row) for row in rows]
        examples = [each for each in asked if each is not None]
        told = surprise.bits(examples, ledger, prompted=True)
        slow = [
            float(plain_answer_loss(base, shared + each.row, each.answer)) / math.log(2)
            for each in examples
        ]
        assert told == pytest.approx(slow, rel=1e-4)
    texts = [each for row in rows if (each := surprise.text(row.input)) is not None]
    told = surprise.bits(texts, ledger, prompted=False)
    slow = [float(plain_answer_loss(base, each.row, each.answer)) / math.log(2) for each in texts]
    assert told == pytest.approx(slow, rel=1e-4)


def test_labels_are_surprising_among_the_labels(small_run: Run, surprise: Surprise) -> None:
    base, rows = small_run.jobs.ground.base, small_run.rows
    shares = [0.3, 0.7]
    ledger = _ledger(small_run)
    told = surprise.label_bits(rows, shares, ledger)
    assert ledger.spent == surprise.label_positions(rows)
    shared, sequences = surprise.renderer.shared_tokens, label_sequences(surprise.renderer)
    scores = np.array(
        [
            [
                -float(
                    plain_answer_loss(base, shared + surprise.renderer.row_tokens(row.input), each)
                )
                for each in sequences
            ]
            for row in rows
        ]
    )
    # Solved for the one number that matters with two labels, instead of round by round.
    ahead = scores[:, 1] - scores[:, 0]
    shift = brentq(lambda bias: expit(ahead + bias).mean() - 0.7, -50, 50)
    second = expit(ahead + shift)
    gold = [surprise.renderer.spec.labels.index(row.output) for row in rows]
    slow = [-math.log2(p if label else 1 - p) for p, label in zip(second, gold, strict=True)]
    assert told == pytest.approx(slow, abs=2e-3)
    assert surprise.label_bits([], shares, ledger) == []
    assert surprise.label_positions([]) == 0


def test_planned_positions_are_those_computed(small_run: Run, surprise: Surprise) -> None:
    for prompted in (True, False):
        ledger = _ledger(small_run)
        asked = [surprise.answer(row, with_row=True) for row in small_run.rows]
        examples = [each for each in asked if each is not None]
        surprise.bits(examples, ledger, prompted=prompted)
        assert ledger.spent == surprise.positions(examples, prompted=prompted)
    assert surprise.bits([], ledger, prompted=True) == []
    assert surprise.positions([], prompted=True) == 0


def test_a_term_is_asked_behind_what_stands_before_it(surprise: Surprise) -> None:
    tokenizer = surprise.base.tokenizer
    texts = ["a frobnic here", "the frobnic there", "frobnic first"]
    (own, _) = terms_of(surprise.base, texts, most=5, occurrences=2)
    assert [(term.word, term.rows, term.places) for term in own] == [
        ("frobnic", 3, ((0, 2), (1, 4)))
    ]
    example = surprise.word(own[0].word, texts[0], 2)
    assert example is not None
    assert tokenizer.decode(example.answer) == " frobnic"
    assert tokenizer.decode(example.row[1:]) == "a"
    first = surprise.word(own[0].word, texts[2], 0)
    assert first is not None
    assert tokenizer.decode(first.answer) == "frobnic"
    assert len(first.row) == 1


def test_words_with_a_token_of_their_own_are_ordinary(surprise: Surprise) -> None:
    class Tokenizer:
        """Knows one word."""

        def encode(self, text: str, **more: Any) -> list[int]:
            return [1] if text == " common" else [1, 2]

    base = replace(surprise.base, tokenizer=Tokenizer())
    texts = ["common frobnic about", "common frobnic about", "common frobnic about x12 abc"]
    own, ordinary = terms_of(base, texts, most=9, occurrences=1)
    assert [term.word for term in own] == ["frobnic"]  # stop words and short ones are left out
    assert [term.word for term in ordinary] == ["common"]
    assert own[0].pieces == 2


def test_the_whole_question(small_run: Run, tmp_path: Path) -> None:
    found = small_run.ask("knowledge_gap", tmp_path)
    assert found.absent == ""
    told = found.find("answer_information")
    shown = found.find("answer_surprise", row="shown")
    hidden = found.find("answer_surprise", row="hidden")
    assert told is not None
    assert shown is not None
    assert hidden is not None
    assert told.value is not None
    assert told.n == len(small_run.rows)
    own = found.find("word_surprise", words="own", where="in text")
    assert own is not None
    assert own.value is not None
    assert own.value > 0
    ordinary = found.find("word_surprise", words="ordinary", where="alone")
    assert ordinary is not None
    assert "no ordinary word" in ordinary.absent  # a byte is a token, a word is none
    (table,) = found.answered.tables
    assert table.lines
    spent = found.work["forward_tokens"]
    assert spent == pytest.approx(found.planned_passes, rel=0.01)
    assert found.work["backward_tokens"] == 0


def test_a_row_that_does_not_fit_is_left_out() -> None:
    read = {"with": [1.0, None, 3.0], "without": [4.0, 2.0, None]}
    assert information(read) == [3.0, None, None]


def _with_answers(run: Run, right: dict[str, list[bool]]) -> Run:
    """The run with planted scores on its test rows."""
    records = [
        replace(
            record,
            test=tuple(
                replace(one, score=float(hit))
                for one, hit in zip(record.test, right[record.method], strict=True)
            ),
        )
        if record.method in right
        else record
        for record in run.records
    ]
    return replace(run, records=tuple(records))


def test_a_planted_link_between_surprise_and_mistakes_is_found(
    small_run: Run, tmp_path: Path, surprise: Surprise
) -> None:
    train = [row.output for row in small_run.jobs.ground.task.fit_view.train]
    labels = surprise.renderer.spec.labels
    shares = {label: (train.count(label) + 1) / (len(train) + len(labels)) for label in labels}
    told = surprise.label_bits(
        small_run.rows, [shares[label] for label in labels], _ledger(small_run)
    )
    hidden = [-math.log2(shares[row.output]) for row in small_run.rows]
    bits = np.array(hidden) - np.array(told)
    knows = (bits > np.median(bits)).tolist()
    prompts = dict.fromkeys(("zero_shot", "few_shot"), knows)
    trained = dict.fromkeys(("soft_prompt", "prefix", "lora", "full"), [True] * len(knows))
    found = _with_answers(small_run, prompts | trained).ask("knowledge_gap", tmp_path)
    for name in ("mistakes_foretold", "gains_foretold"):
        (told,) = [each for each in found.answered.measurements if each.name == name]
        assert told.value == 1.0
        assert told.low is not None
        assert told.low > 0.6
    assert any("foretells which rows" in text for text in found.answered.findings)
    picture = found.answered.pictures[0]
    lowest, _, highest = [each for each in picture.points if each.series in prompts]
    assert lowest.value == 0.0
    assert highest.value == 100.0


def test_no_link_is_told_as_none(small_run: Run, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    luck = (numbers.uniform(size=len(small_run.rows)) < 0.5).tolist()
    run = _with_answers(small_run, dict.fromkeys(("zero_shot", "few_shot"), luck))
    found = run.ask("knowledge_gap", tmp_path)
    assert any("does not foretell which rows" in text for text in found.answered.findings)


def test_prompts_without_a_mistake_foretell_nothing(small_run: Run, tmp_path: Path) -> None:
    right = [True] * len(small_run.rows)
    run = _with_answers(small_run, dict.fromkeys(("zero_shot", "few_shot"), right))
    found = run.ask("knowledge_gap", tmp_path)
    absent = {each.name: each.absent for each in found.answered.measurements if each.absent}
    assert "rows are of that sort" in absent["mistakes_foretold"]


def test_without_a_prompt_it_says_so(small_run: Run, tmp_path: Path) -> None:
    run = replace(
        small_run,
        records=tuple(each for each in small_run.records if each.method in ("tfidf", "lora")),
    )
    found = run.ask("knowledge_gap", tmp_path)
    absent = {each.name: each.absent for each in found.answered.measurements if each.absent}
    assert absent["mistakes_foretold"] == "no entry of the run is a prompt alone"
