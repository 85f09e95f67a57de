"""Planted wrong labels are found, their removal is measured, and the data check is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.planted import several_labels, two_labels, write_rows
from tests.questions.running import Run, run_on

from tunewise.adaptation.predict import predictor_for
from tunewise.errors import UnknownNameError
from tunewise.measure.questions._label_noise import candidate_table, label_issues
from tunewise.measure.questions._probabilities import label_probabilities
from tunewise.measure.questions._subsets import dealt
from tunewise.task.types import Row

OTHER = {"positive": "negative", "negative": "positive"}


def noisy(count: int, share: float) -> tuple[list[dict[str, Any]], set[str]]:
    """Rows of which a share has the wrong label, and the texts of those."""
    numbers = np.random.default_rng(1)
    made, wrong = two_labels(count), set()
    for row in made:
        row["text"] = f"{row['text']} and {row['text'].split()[-5]}"
        if numbers.uniform() < share:
            row["label"] = OTHER[row["label"]]
            wrong.add(row["text"])
    return made, wrong


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Run, set[str]]:
    """A linear model on rows of which one in five is labelled wrongly."""
    folder = tmp_path_factory.mktemp("noisy")
    made, wrong = noisy(500, 0.2)
    data = write_rows(folder / "rows.jsonl", made)
    return run_on(data, folder / "run", tiny_folder, ("majority", "tfidf")), wrong


def test_one_in_five_wrong_labels_are_found_and_named(
    planted: tuple[Run, set[str]], tmp_path: Path
) -> None:
    run, wrong = planted
    found = run.ask("data_quality", tmp_path, shown=1000)
    assert found.absent == ""
    share = found.find("label_candidates", "tfidf", split="train")
    assert share is not None
    assert share.value is not None
    assert 0.12 < share.value < 0.3
    agrees = found.find("judge_agrees", "tfidf")
    assert agrees is not None
    assert agrees.value is not None
    assert 0.6 < agrees.value < 0.85  # one in five labels is wrong
    (table,) = found.answered.tables
    by_origin = {row.origin: row for row in (*run.jobs.ground.task.fit_view.train,
                 *run.jobs.ground.task.fit_view.validation, *run.rows)}  # fmt: skip
    listed = [by_origin[line[0]] for line in table.lines]
    hits = [row.input in wrong for row in listed]
    fitted = {row.input for row in by_origin.values()} & wrong
    assert np.mean(hits) > 0.7  # most of what is named is wrong
    assert sum(hits) > 0.7 * len(fitted)  # and most of what is wrong is named
    assert np.mean(hits[:20]) >= 0.85  # the surest first
    assert {line[1] for line in table.lines} == {"train", "validation", "test"}
    assert any("training labels look wrong to tfidf" in text for text in found.answered.findings)


def test_the_gain_is_that_of_fits_without_the_candidates(
    planted: tuple[Run, set[str]], tmp_path: Path
) -> None:
    run, _ = planted
    found = run.ask("data_quality", tmp_path)
    (gain,) = [e for e in found.answered.measurements if e.name == "gain_without_candidates"]
    assert gain.value is not None
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low <= gain.value <= gain.high
    assert gain.part["rows_removed"] > 50  # type: ignore[operator]  # a number
    assert any("changes its score by" in text for text in found.answered.findings)
    (table,) = found.answered.tables
    assert len(table.lines) == 50
    assert "(50 of " in table.title


def test_clean_labels_have_few_candidates(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", noisy(300, 0.0)[0])
    run = run_on(data, tmp_path / "run", tiny_folder, ("tfidf",))
    found = run.ask("data_quality", tmp_path / "asked")
    share = found.find("label_candidates", "tfidf", split="train")
    assert share is not None
    assert share.value is not None
    assert share.value < 0.03


def test_near_duplicates_across_splits_are_named(tmp_path: Path, tiny_folder: Path) -> None:
    made = two_labels(120)
    splits = {"train": made[:80], "test": made[80:]}
    for number in range(12):
        splits["train"].append(
            {"text": f"{made[80 + number]['text']}!", "label": made[80 + number]["label"]}
        )
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in splits.items():
        write_rows(folder / f"{name}.jsonl", rows)
    run = run_on(folder, tmp_path / "run", tiny_folder, ("tfidf",))
    found = run.ask("data_quality", tmp_path / "asked")
    across = found.find("near_duplicates_across")
    assert across is not None
    assert across.value is not None
    assert across.value >= 12
    assert any("Near-duplicates of rows of another split" in t for t in found.answered.findings)


def test_models_judge_through_the_base(small_run: Run, tmp_path: Path) -> None:
    found = small_run.ask("data_quality", tmp_path, entry="soft_prompt", fits=1, folds=2)
    assert found.absent == ""
    share = found.find("label_candidates", "soft_prompt", split="test")
    assert share is not None
    assert share.n == len(small_run.rows)
    spent = found.work["forward_tokens"] + found.work["backward_tokens"]
    assert 0 < spent <= 1.25 * found.planned_passes


@pytest.mark.parametrize("method", ["tfidf", "zero_shot", "lora"])
def test_probabilities_belong_to_the_answers(method: str, small_run: Run, tmp_path: Path) -> None:
    subject = small_run.asking(tmp_path)._subjects()[method][0]
    adaptation = subject.load()
    inputs = [row.input for row in small_run.rows]
    with predictor_for(small_run.jobs.ground.base, adaptation) as predictor:
        found = label_probabilities(predictor, adaptation, inputs)
        assert label_probabilities(predictor, adaptation, []).shape == (0, 2)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(inputs)))
    labels = adaptation.spec.labels
    for row, result in zip(found, subject.record.test, strict=True):
        assert labels[int(row.argmax())] == result.answer
        assert row.max() == pytest.approx(result.probability, abs=1e-5)


def test_folds_are_dealt_evenly_and_groups_stay_whole() -> None:
    rows = [
        Row(f"r{n}", f"t{n}", "ab"[n % 2], ("ab"[n % 2],), group=f"g{n // 4}" if n < 40 else None)
        for n in range(120)
    ]
    folds = dealt(rows, 3, 0)
    assert set(folds) == {row.id for row in rows}
    for group in {row.group for row in rows if row.group}:
        assert len({folds[row.id] for row in rows if row.group == group}) == 1
    counts = [list(folds.values()).count(fold) for fold in range(3)]
    assert max(counts) - min(counts) < 30
    assert dealt(rows, 3, 0) == folds
    assert dealt(rows, 3, 1) != folds


def test_candidates_against_a_case_worked_by_hand() -> None:
    rows = [Row(f"r{n}", "x" * 300, "ab"[n % 2], ("ab"[n % 2],)) for n in range(40)]
    probabilities = np.array([[0.9, 0.1] if n % 2 == 0 else [0.1, 0.9] for n in range(40)])
    probabilities[7] = [0.97, 0.03]  # labelled b
    probabilities[8] = [0.05, 0.95]  # labelled a
    found = label_issues(rows, probabilities, ("a", "b"), {row.id: "train" for row in rows})
    assert sorted(each.row.id for each in found) == ["r7", "r8"]
    table = candidate_table(found, 1)
    assert len(table.lines) == 1
    assert table.lines[0][0] == found[0].row.id
    assert len(table.lines[0][2]) == 160


@pytest.mark.parametrize("kind", ["several labels", "few rows", "a constant"])
def test_what_cannot_be_judged_says_why(kind: str, tmp_path: Path, tiny_folder: Path) -> None:
    made, methods, words = {
        "several labels": (several_labels(80), ("majority",), "single labels"),
        "few rows": (two_labels(30), ("tfidf",), "at least 40 rows"),
        "a constant": (two_labels(80), ("majority",), "one answer to all rows"),
    }[kind]
    data = write_rows(tmp_path / "rows.jsonl", made)
    options = {"kind": "multi_label"} if kind == "several labels" else {}
    run = run_on(data, tmp_path / "run", tiny_folder, methods, **options)
    found = run.ask("data_quality", tmp_path / "asked")
    share = found.find("label_candidates")
    assert share is not None
    assert words in share.absent
    assert found.find("contradictory") is not None


def test_unknown_entries_are_refused(small_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tfidf'"):
        small_run.ask("data_quality", tmp_path, entry="tfid")
