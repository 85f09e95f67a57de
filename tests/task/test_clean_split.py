"""Cleaning and splitting: nothing leaks, nothing goes uncounted, the same every time."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.task.samples import WORDS, phrase, records, row, write_jsonl

from tunewise.task import clean, near
from tunewise.task.near import find_near_duplicates, fold
from tunewise.task.options import TaskOptions
from tunewise.task.split import complete_splits
from tunewise.task.task import LoadedTask, load_task
from tunewise.task.types import Kind, Row


def grams(text: str) -> Counter[str]:
    """Runs of 3 to 5 characters."""
    padded = f" {text} "
    return Counter(padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1))


def cosine(a: dict[str, float], b: dict[str, float]) -> float:
    """Cosine of two sparse vectors, written out."""
    dot = sum(weight * b.get(key, 0.0) for key, weight in a.items())
    norms = (math.sqrt(sum(w * w for w in each.values())) for each in (a, b))
    return dot / math.prod(norms)


def slow_pairs(texts: list[str], similarity: float) -> set[tuple[int, int]]:
    """All pairs, by plain loops over plain dictionaries."""
    counts = [grams(text) for text in texts]
    frequency = Counter(key for each in counts for key in each)
    weighted = [
        {k: c * (math.log((1 + len(texts)) / (1 + frequency[k])) + 1) for k, c in each.items()}
        for each in counts
    ]
    return {
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if min(cosine(weighted[i], weighted[j]), cosine(counts[i], counts[j])) >= similarity
    }


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.9])
def test_near_duplicates_as_by_plain_loops(similarity: float) -> None:
    generator = random.Random(3)
    texts = [" ".join(generator.choices(WORDS[:12], k=generator.randint(3, 9))) for _ in range(40)]
    for text in list(texts):
        words = text.split()
        words[generator.randrange(len(words))] = generator.choice(WORDS)
        texts.append(" ".join(words))
        texts.append(text + generator.choice(["s", " again", ""]))
    texts = list(dict.fromkeys(texts))
    found = find_near_duplicates(texts, similarity)
    assert found.classes == tuple(range(len(texts)))
    pairs = {(i, j) for i, each in found.neighbours.items() for j in each if i < j}
    assert pairs == slow_pairs(texts, similarity)
    assert pairs


def test_the_sketch_of_long_texts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(5)
    words = [f"{a}{b}" for a in WORDS for b in WORDS]
    texts = [" ".join(generator.choices(words, k=60)) for _ in range(60)]
    for text in list(texts):
        changed = text.split()
        for _ in range(generator.randint(1, 20)):
            changed[generator.randrange(60)] = generator.choice(words)
        texts.append(" ".join(changed))
    sketched = find_near_duplicates(texts, 0.9)
    monkeypatch.setattr(near, "_LONG", 10**9)
    assert find_near_duplicates(texts, 0.9) == sketched
    assert 20 < len(sketched.neighbours) < 120


def test_folded_texts_are_one() -> None:
    texts = ["Great phone!", "great  PHONE", "great-phone", "great phones", "!!!", "???"]
    assert [fold(text) for text in texts[:3]] == ["great phone"] * 3
    found = find_near_duplicates(texts, 1.0)
    assert found.classes == (0, 0, 0, 1, 2, 3)
    assert find_near_duplicates([], 0.9).classes == ()
    assert find_near_duplicates(["a", "b", ""], 0.9).neighbours == {}


def test_ten_thousand_rows_in_time() -> None:
    generator = random.Random(0)
    texts = [
        " ".join(generator.choices(WORDS, k=8)) + f" {generator.randrange(10**6)}"
        for _ in range(10_000)
    ]
    start = time.perf_counter()
    find_near_duplicates(texts, 0.9)
    assert time.perf_counter() - start < 20


def test_rows_across_splits_are_removed() -> None:
    long = "the parcel was left in the rain by the side door again"
    splits = {
        "train": [
            row(long + ".", "bad", number=1),
            row(phrase(1), "good", number=2),
            row(phrase(2), "good", number=3),
        ],
        "validation": [
            row(long.upper(), "bad", number=4),
            row(phrase(2) + "!", "good", number=5),
        ],
        "test": [row(long + "!!", "bad", number=6), row(phrase(9), "good", number=7)],
    }
    kept, within, across = clean.remove_near_duplicates(splits, 0.9)
    assert {s: [r.id for r in part] for s, part in kept.items()} == {
        "train": ["toy-2"],
        "validation": ["toy-5"],
        "test": ["toy-6", "toy-7"],
    }
    assert (within.count, across.count) == (0, 3)
    assert any("train toy row 1" in each and "test toy row 6" in each for each in across.examples)


def test_a_removed_row_removes_nothing() -> None:
    """The validation row goes for the test; the train row that is near it alone may stay."""
    chain = [" ".join(WORDS[i : i + 14]) for i in (0, 1, 2)]
    similarity = 0.88
    alike = find_near_duplicates(chain, similarity).neighbours
    assert alike.keys() == {0, 1, 2}
    assert 2 not in alike[0]
    splits = {
        split: [row(text, "a", number=n)]
        for n, (split, text) in enumerate(
            zip(("train", "validation", "test"), chain, strict=True), start=1
        )
    }
    kept, _, across = clean.remove_near_duplicates(splits, similarity)
    assert {s: len(part) for s, part in kept.items()} == {"train": 1, "validation": 0, "test": 1}
    assert across.count == 1


def test_within_a_split_they_are_counted_and_kept() -> None:
    splits = {"train": [row("one two", "a"), row("One, two!", "a"), row("other", "b")], "test": []}
    kept, within, across = clean.remove_near_duplicates(splits, 0.9)
    assert len(kept["train"]) == 3
    assert (within.count, across.count) == (1, 0)


def test_empty_duplicate_and_contradictory(tmp_path: Path) -> None:
    rows = [
        *records(20),
        {"text": "  ", "label": "good"},
        {"text": "some words", "label": " "},
        records(1)[0],
        {"text": phrase(3).upper() + ".", "label": "good"},
    ]
    task = load_task(str(write_jsonl(tmp_path / "d.jsonl", rows)), TaskOptions())
    check = task.check
    assert (check.empty.count, check.duplicates.count, check.contradictory.count) == (1, 1, 1)
    assert (check.unanswered.count, check.unanswered.examples) == (1, ("d.jsonl line 22",))
    assert "d.jsonl line 21: the input is empty" in check.empty.examples
    assert "line 23 repeats d.jsonl line 1" in check.duplicates.examples[0]
    assert "1 input stands with different answers" in check.warnings
    assert "line 4" in check.contradictory.examples[0]
    assert "line 24" in check.contradictory.examples[0]
    assert sum(check.rows_before.values()) == 24
    kept = sum(check.rows_after.values())
    assert kept == 21 - check.near_duplicates_across.count


def _ids(task: LoadedTask) -> list[list[str]]:
    parts = (task.fit_view.train, task.fit_view.validation, task.test.open())
    return [sorted(each.input for each in part) for part in parts]


def test_splits_are_stratified_and_of_the_size_asked(tmp_path: Path) -> None:
    rows = records(200, ["a", "a", "a", "a", "a", "a", "a", "b", "b", "c"])
    task = load_task(str(write_jsonl(tmp_path / "d.jsonl", rows)), TaskOptions())
    balance = task.check.class_balance
    assert balance["test"] == {"a": 42, "b": 12, "c": 6}
    assert sum(balance["validation"].values()) == round(0.15 * 140)
    for split in ("train", "validation"):
        total = sum(balance[split].values())
        assert balance[split]["a"] == pytest.approx(0.7 * total, abs=1)
        assert balance[split]["c"] == pytest.approx(0.1 * total, abs=1)
    everything = sorted(text for part in _ids(task) for text in part)
    assert everything == sorted(each["text"] for each in rows)


def test_splits_depend_on_content_and_seed_alone(tmp_path: Path) -> None:
    rows = records(60)
    first = load_task(str(write_jsonl(tmp_path / "a.jsonl", rows)), TaskOptions())
    again = load_task(str(write_jsonl(tmp_path / "a.jsonl", rows)), TaskOptions())
    shuffled = random.Random(1).sample(rows, len(rows))
    moved = load_task(str(write_jsonl(tmp_path / "b.jsonl", shuffled)), TaskOptions())
    other = load_task(str(tmp_path / "a.jsonl"), TaskOptions(split_seed=0))
    assert _ids(first) == _ids(again) == _ids(moved)
    assert first.data_hash == again.data_hash
    assert _ids(first) != _ids(other)
    assert first.data_hash != other.data_hash


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = [{**each, "group": f"g{i // 4}"} for i, each in enumerate(records(120))]
    task = load_task(str(write_jsonl(tmp_path / "d.jsonl", rows)), TaskOptions())
    parts: list[tuple[Row, ...]] = [task.fit_view.train, task.fit_view.validation, task.test.open()]
    groups = [{each.group for each in part} for part in parts]
    assert all(groups)
    assert len(groups[0] | groups[1] | groups[2]) == sum(map(len, groups))
    assert len(parts[2]) == pytest.approx(36, abs=8)
    assert "groups kept together" in " ".join(task.check.split_explanations)
    again = load_task(str(tmp_path / "d.jsonl"), TaskOptions())
    assert _ids(task) == _ids(again)


@pytest.mark.parametrize("given", [("train",), ("train", "test"), ("train", "validation")])
def test_missing_splits_are_carved_from_train(given: tuple[str, ...]) -> None:
    splits = {
        split: [row(phrase(100 * k + i), "ab"[i % 2], number=100 * k + i) for i in range(40)]
        for k, split in enumerate(given)
    }
    full, said = complete_splits(splits, Kind.CLASSIFICATION, TaskOptions())
    assert all(full[split] for split in ("train", "validation", "test"))
    for split in given[1:]:
        assert full[split] == splits[split]
        assert f"{split}: as given" in said
    assert sum(map(len, full.values())) == 40 * len(given)


def test_every_label_keeps_a_train_row() -> None:
    labels = ["a"] * 20 + ["b", "c", "d", "e"] + ["f", "f"]
    rows = [row(phrase(i), label, number=i) for i, label in enumerate(labels)]
    full, _ = complete_splits({"all": rows}, Kind.CLASSIFICATION, TaskOptions(test_fraction=0.6))
    assert {each.output for each in full["train"]} == set("abcdef")
