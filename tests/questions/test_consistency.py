"""Consistency: exact where labels are scored, drawn where texts are, seeds by counting pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.planted import short_answers, write_rows
from tests.conftest import build_model, build_tokenizer
from tests.questions.running import Run, planted_context, run_on

from tunewise.measure.questions._figures import sampled
from tunewise.measure.questions.consistency import _over_rewordings, _over_seeds
from tunewise.model.base import Base
from tunewise.model.decode import decode, drawn_at
from tunewise.model.prefix import EMPTY_PREFIX


def test_repeats_of_scored_labels_are_what_drawing_gives(small_run: Run, tmp_path: Path) -> None:
    from tunewise.adaptation.predict import BasePredictor, predictor_for
    from tunewise.adaptation.readout import adjusted_scores
    from tunewise.adaptation.store import load

    evidence = small_run.ask("consistency", tmp_path, rows=5, temperature=0.7, power=3)
    assert not evidence.absent, evidence.absent
    rows = sampled(small_run.rows, 5)
    adaptation = load(small_run.jobs.out / "adaptations" / "zero_shot-seed0")
    with predictor_for(small_run.jobs.ground.base, adaptation) as predictor:
        assert isinstance(predictor, BasePredictor)
        scores = predictor.readout.label_scores([row.input for row in rows])
        adjusted = adjusted_scores(scores, predictor.readout.renderer, adaptation.decoding)
    random = np.random.default_rng(0)
    agreed, right = [], []
    for line, row in zip(adjusted, rows, strict=True):
        weights = np.exp(line / 0.7)
        drawn = random.choice(len(line), size=(20_000, 3), p=weights / weights.sum())
        gold = adaptation.spec.labels.index(row.output)
        agreed.append((drawn[:, 0] == drawn[:, 1]).mean())
        right.append((drawn == gold).all(axis=1).mean())
    found = evidence.find("repeat_agreement", "zero_shot")
    power = evidence.find("all_repeats_right", "zero_shot")
    assert found is not None
    assert power is not None
    assert found.value == pytest.approx(np.mean(agreed), abs=0.01)
    assert power.value == pytest.approx(np.mean(right), abs=0.01)
    work = evidence.work["forward_tokens"]
    assert 0.8 * evidence.planned_passes <= work <= 1.25 * evidence.planned_passes
    shallow = evidence.find("all_repeats_right", "tfidf")
    assert shallow is not None
    assert "the same every time" in shallow.absent


def test_drawn_tokens_follow_the_softmax_and_the_row_s_own_seed() -> None:
    base = Base.from_model(build_model("llama"), build_tokenizer())
    row = [65, 66, 67]
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([row])).logits[0, -1]
    wanted = (logits / 2.0).softmax(dim=-1).numpy()
    drawn = Counter[int]()
    for seed in range(600):
        (answer,) = decode(
            base, EMPTY_PREFIX, [row], end_token=256, max_new_tokens=1,
            choose=drawn_at(2.0, seed=seed),
        )  # fmt: skip
        drawn.update(answer.tokens or [256])
    seen = np.array([drawn[token] for token in range(len(wanted))]) / 600
    # 261 tokens share 600 drawings; all of them together must lie close.
    assert np.abs(seen - wanted).sum() < 0.6
    common = np.argsort(-wanted)[:100]
    assert seen[common].sum() == pytest.approx(wanted[common].sum(), abs=0.07)


def test_what_a_row_draws_does_not_depend_on_its_neighbours() -> None:
    base = Base.from_model(build_model("llama"), build_tokenizer())
    rows = [[65, 66, 67], [70] * 9, [80, 81]]
    draw = drawn_at(1.5, seed=4)
    together = decode(base, EMPTY_PREFIX, rows, end_token=256, max_new_tokens=6, choose=draw)
    for row, one in zip(rows, together, strict=True):
        (alone,) = decode(base, EMPTY_PREFIX, [row], end_token=256, max_new_tokens=6, choose=draw)
        assert alone.tokens == one.tokens
    again = decode(
        base, EMPTY_PREFIX, rows, end_token=256, max_new_tokens=6, choose=drawn_at(1.5, seed=5)
    )
    assert [each.tokens for each in again] != [each.tokens for each in together]


def test_a_low_temperature_is_greedy() -> None:
    base = Base.from_model(build_model("llama"), build_tokenizer())
    rows = [[65, 66, 67], [70] * 9]
    greedy = decode(base, EMPTY_PREFIX, rows, end_token=256, max_new_tokens=6)
    cold = decode(
        base, EMPTY_PREFIX, rows, end_token=256, max_new_tokens=6, choose=drawn_at(1e-4, seed=0)
    )
    assert [each.tokens for each in cold] == [each.tokens for each in greedy]


def test_seeds_by_counting_pairs() -> None:
    scores = {0: [1.0, 1.0, 0.0, 0.0], 1: [1.0, 0.0, 0.0, 0.0], 2: [1.0, 1.0, 1.0, 0.0]}
    context = planted_context(["a", "b", "a", "b"], {"lora": scores})
    same, deviation = _over_seeds("lora", context.subjects["lora"], context.test)
    # Rows of three answers: all alike, two alike (a third of the pairs) twice, all alike.
    assert same.value == pytest.approx((1 + 1 / 3 + 1 / 3 + 1) / 4)
    assert deviation.value == pytest.approx(np.std([0.5, 0.25, 0.75], ddof=1))
    assert same.seeds == deviation.seeds == (0, 1, 2)
    one = planted_context(["a", "b"], {"zero_shot": {0: [1.0, 0.0]}})
    assert all(
        each.absent for each in _over_seeds("zero_shot", one.subjects["zero_shot"], one.test)
    )


def test_rewordings_by_counting() -> None:
    inputs = ["It does not come.", "It came."]
    context = planted_context(["a", "b"], {"lora": {0: [1.0, 1.0]}}, inputs=inputs)
    (subject,) = context.subjects["lora"]
    # Only the first row can be contracted; the second's answer to the same text says nothing.
    answers = {"framed": ["a", "a"], "contracted": [None, "b"]}
    found = _over_rewordings("lora", subject, context.test, ["a", "b"], answers)
    assert (found.value, found.n, found.n_failed) == ((1 + 0) / 2 / 2, 2, 1)
    assert _over_rewordings("lora", subject, context.test, ["a"], {}).absent


def test_generated_answers_are_drawn(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", short_answers(60))
    run = run_on(data, tmp_path / "run", tiny_folder, ["zero_shot"], input="question")
    evidence = run.ask("consistency", tmp_path / "asked", rows=3, repeats=3, power=2)
    assert not evidence.absent, evidence.absent
    found = evidence.find("repeat_agreement", "zero_shot")
    assert found is not None
    assert 0 <= found.number <= 1
    assert evidence.find("all_repeats_right", "zero_shot") is not None
