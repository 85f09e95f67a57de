"""Going on with new rows and a new label: what is fitted on what, what it costs, what it brings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.planted import short_answers, write_rows
from tests.questions.running import Run, run_on

from tunewise.asking import Asked
from tunewise.errors import BudgetTooSmallError
from tunewise.measure.evidence import Evidence, Measurement
from tunewise.measure.questions._contract import QuestionContext, Refitted
from tunewise.measure.questions.update import Update, UpdateSettings, _entries

WORDS = {"refund": "money back", "delay": "late again", "praise": "thank you"}


def rows(count: int) -> list[dict[str, Any]]:
    """Three labels, each with its words."""
    numbers = np.random.default_rng(0)
    made = []
    for number in range(count):
        label = sorted(WORDS)[number % 3]
        text = f"{WORDS[label]} number {int(numbers.integers(10_000))} of {number}"
        made.append({"text": text, "label": label})
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """A linear model, a prompt and a soft prompt on three labels."""
    folder = tmp_path_factory.mktemp("update")
    data = write_rows(folder / "rows.jsonl", rows(160))
    methods = ("tfidf", "zero_shot", "soft_prompt")
    return run_on(data, folder / "run", tiny_folder, methods, budget=40_000)


def context_of(run: Run, out: Path, calls: list[dict[str, Any]]) -> QuestionContext:
    """A context whose fits are written down; a given method may be refused."""
    asked = Asked(Update(), UpdateSettings())
    context = run.asking(out)._context(asked, limit=10**9)
    real = context.refit

    def refit(method: str, seed: int, view: Any, **more: Any) -> Refitted:
        calls.append({"method": method, "view": view, **more})
        return real(method, seed, view, **more)

    return replace(context, refit=refit)


def find(found: tuple[Measurement, ...], name: str, about: str, **part: Any) -> Measurement:
    """The one measurement."""
    (each,) = [
        one
        for one in found
        if (one.name, one.about) == (name, about) and part.items() <= dict(one.part).items()
    ]
    return each


def test_rows_come_one_after_another_and_each_fit_goes_on(run: Run, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    context = context_of(run, tmp_path, calls)
    settings = UpdateSettings(added=(10, 1000), kinds=("shallow_model",))
    found = Update().measure(context, settings).measurements
    train = context.view.train
    most = len(train) // 2  # of 1,000 new rows there are only so many
    before, small, large, *_ = calls
    assert len(before["view"].train) == len(train) - most
    assert len(small["view"].train) == len(train) - most + 10
    assert set(large["view"].train) == set(train)
    assert set(before["view"].train) < set(small["view"].train)
    assert before["start"] is None
    assert small["start"] is not None
    assert large["start"] is small["start"]
    assert before["budget"] == context.fit_budget
    assert small["budget"] == round(0.125 * context.fit_budget)
    assert large["budget"] == round(most / len(train) * context.fit_budget)
    scores = {each.part["way"]: each.value for each in found if each.name == "score"}
    assert set(scores) == {"before", "continued", "fitted_anew"}
    gain = find(found, "gain", "tfidf", added=most)
    ends = find(found, "score", "tfidf", way="continued", added=most)
    assert gain.value is not None
    assert ends.value is not None
    assert scores["before"] is not None
    assert gain.value == pytest.approx(ends.value - scores["before"])


def test_a_new_label_is_never_seen_before_it_comes(run: Run, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    context = context_of(run, tmp_path, calls)
    settings = UpdateSettings(
        added=(10,), kinds=("shallow_model",), new_label="refund", label_rows=12
    )
    answered = Update().measure(context, settings)
    before, after = calls[-2:]
    assert before["view"].spec.labels == ("delay", "praise")
    assert all(row.output != "refund" for row in before["view"].train)
    assert all(row.output != "refund" for row in before["view"].validation)
    assert sum(row.output == "refund" for row in after["view"].train) == 12
    assert after["view"].spec == context.spec
    told = find(answered.measurements, "new_label_score", "tfidf", label="refund")
    assert told.value is not None
    assert told.value > 0.8  # two words of its own tell it
    others = find(answered.measurements, "change_of_others", "tfidf", label="refund")
    assert others.value is not None
    assert abs(others.value) < 0.2
    assert told.n + others.n == len(context.test)
    assert any("rows of the new label 'refund'" in text for text in answered.findings)
    took = find(answered.measurements, "new_label_seconds", "tfidf", label="refund")
    assert took.value is not None
    assert took.value > 0
    passes = find(answered.measurements, "new_label_token_passes", "tfidf", label="refund")
    assert passes.value == 0


def test_the_best_of_every_kind_is_asked(run: Run, tmp_path: Path) -> None:
    found = run.ask("update", tmp_path)
    assert found.absent == ""
    assert _about(found) == {"zero_shot", "soft_prompt"}
    spent = found.work["forward_tokens"] + found.work["backward_tokens"]
    assert 0 < spent <= 1.25 * found.planned_passes
    cost = find(found.answered.measurements, "token_passes", "soft_prompt", way="continued")
    anew = find(found.answered.measurements, "token_passes", "soft_prompt", way="fitted_anew")
    assert cost.value is not None
    assert anew.value is not None
    assert cost.value < anew.value
    groups = {point.group for point in found.answered.pictures[0].points}
    assert {"before, 0 added"} < groups


def test_a_searched_prompt_is_asked_before_the_plain_one(small_run: Run, tmp_path: Path) -> None:
    kinds = ("prompt_text",)
    context = context_of(small_run, tmp_path, [])
    assert list(_entries(context, UpdateSettings(kinds=kinds))) == ["few_shot"]
    alone = {"zero_shot": context.subjects["zero_shot"]}
    only = replace(context, subjects=alone)
    assert list(_entries(only, UpdateSettings(kinds=kinds))) == ["zero_shot"]


def _about(found: Evidence) -> set[str]:
    return {each.about for each in found.answered.measurements if each.about}


def test_what_cannot_go_on_is_told(run: Run, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    context = context_of(run, tmp_path, calls)
    real = context.refit

    def refit(method: str, seed: int, view: Any, **more: Any) -> Refitted:
        if more["start"] is not None:
            raise BudgetTooSmallError("the budget does not pay for one step", found="3")
        return real(method, seed, view, **more)

    settings = UpdateSettings(added=(10, 20), kinds=("shallow_model",))
    found = Update().measure(replace(context, refit=refit), settings).measurements
    assert find(found, "score", "tfidf", way="before").value is not None
    for added in (10, 20):
        assert "does not pay" in find(found, "gain", "tfidf", added=added).absent
    assert "does not pay" in find(found, "behind_new_fit", "tfidf", added=20).absent

    def never(method: str, seed: int, view: Any, **more: Any) -> Refitted:
        raise BudgetTooSmallError("the budget does not pay for one step", found="3")

    other = context_of(run, tmp_path / "other", calls)
    found = Update().measure(replace(other, refit=never), settings).measurements
    assert "does not pay" in find(found, "score", "tfidf", way="before").absent
    assert find(found, "score", "tfidf", way="fitted_anew").value is not None


@pytest.mark.parametrize(
    ("label", "words"), [("unheard", "no label 'unheard'"), (None, "of 2 labels none")]
)
def test_labels_that_cannot_be_held_back(
    label: str | None, words: str, run: Run, small_run: Run, tmp_path: Path
) -> None:
    which = small_run if label is None else run
    found = which.ask("update", tmp_path, kinds=("shallow_model",), added=(10,), new_label=label)
    told = found.find("new_label_score")
    assert told is not None
    assert words in told.absent


def test_tasks_without_labels_still_take_new_rows(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", short_answers(80))
    run = run_on(data, tmp_path / "run", tiny_folder, ("majority",))
    found = run.ask("update", tmp_path / "asked", kinds=("shallow_model",), added=(10,))
    told = found.find("new_label_score")
    assert told is not None
    assert "no single labels" in told.absent
    assert found.find("gain", "majority", added=10) is not None


def test_too_few_rows_and_no_entry_are_told(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    found = run.ask("update", tmp_path / "a", kinds=("weights",))
    (told,) = found.answered.measurements
    assert "no entry is one of weights alone" in told.absent
    data = write_rows(tmp_path / "rows.jsonl", rows(40))
    few = run_on(data, tmp_path / "run", tiny_folder, ("tfidf",))
    assert "at least 40 training rows" in few.ask("update", tmp_path / "b").absent


def test_a_label_that_a_sample_of_the_test_rows_misses_is_still_asked_about(
    run: Run, tmp_path: Path
) -> None:
    context = context_of(run, tmp_path, [])
    (first, *_) = (row for row in context.test if row.output == "refund")
    others = tuple(
        replace(first, id=f"more {n}", output="delay", references=("delay",)) for n in range(3000)
    )
    record = context.subjects["tfidf"][0].record
    answers = {one.id: one for one in record.test}
    results = (*record.test, *(replace(answers[first.id], id=row.id) for row in others))
    subject = replace(context.subjects["tfidf"][0], record=replace(record, test=results))
    grown = replace(context, test=(*context.test, *others), subjects={"tfidf": (subject,)})
    settings = UpdateSettings(
        added=(10,), kinds=("shallow_model",), new_label="refund", label_rows=12, rows=20
    )
    found = Update().measure(grown, settings).measurements
    told = find(found, "new_label_score", "tfidf", label="refund")
    change = find(found, "change_of_others", "tfidf", label="refund")
    assert (told.n, change.n) == (6, 14)
