"""What is lost elsewhere: a domain held out, a file of other rows, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.planted import write_rows
from tests.questions.running import Run, run_on

from tunewise.errors import DataError, UnknownNameError
from tunewise.measure.evidence import Measurement
from tunewise.measure.questions.out_of_domain import _findings

COMMON = {"positive": ("good", "great", "fine"), "negative": ("bad", "poor", "sad")}
# In the third domain the same words mean the opposite.
TURNED = {"positive": COMMON["negative"], "negative": COMMON["positive"]}


def rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Rows of three domains; hotels and films agree, irony turns the words around."""
    numbers = np.random.default_rng(start)
    made = []
    for number in range(start, start + count):
        domain = ("hotels", "films", "irony")[number % 3]
        label = "positive" if numbers.uniform() < 0.5 else "negative"
        words = (TURNED if domain == "irony" else COMMON)[label]
        word = words[int(numbers.integers(3))]
        text = f"{word} {domain} number {number * 7919 % 100_003}"
        made.append({"text": text, "label": label, "domain": domain})
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """A linear model that has seen all three domains."""
    folder = tmp_path_factory.mktemp("domains")
    data = write_rows(folder / "rows.jsonl", rows(400))
    return run_on(data, folder / "run", tiny_folder, ("majority", "tfidf"), domain="domain")


def test_a_domain_that_turns_the_words_is_lost_when_held_out(run: Run, tmp_path: Path) -> None:
    found = run.ask("out_of_domain", tmp_path, domain="irony")
    elsewhere = found.find("score_elsewhere", "tfidf", domain="irony")
    loss = found.find("loss_elsewhere", "tfidf", domain="irony")
    assert elsewhere is not None
    assert elsewhere.value is not None
    assert elsewhere.value < 0.3  # worse than guessing: the words say the opposite
    assert loss is not None
    assert loss.value is not None
    assert loss.low is not None
    assert loss.low > 0
    seen = [one for one, row in zip(run.records[1].test, run.rows, strict=True)
            if row.domain == "irony"]  # fmt: skip
    assert loss.value == pytest.approx(np.mean([one.score for one in seen]) - elsewhere.value)
    assert loss.n == len(seen)
    assert any("tfidf loses" in text for text in found.answered.findings)
    constant = found.find("loss_elsewhere", "majority", domain="irony")
    assert constant is not None
    assert len(found.answered.pictures) == 1


def test_without_a_name_the_domain_with_most_test_rows_is_held_out(
    run: Run, tmp_path: Path
) -> None:
    found = run.ask("out_of_domain", tmp_path)
    test = [row.domain for row in run.rows]
    largest = max(sorted({str(name) for name in test}), key=test.count)
    assert {each.part["domain"] for each in found.answered.measurements} == {largest}


def test_no_loss_says_how_much_may_go_unseen(run: Run, tmp_path: Path) -> None:
    found = run.ask("out_of_domain", tmp_path, domain="hotels", entries=("majority",))
    loss = found.find("loss_elsewhere", "majority", domain="hotels")
    assert loss is not None
    assert loss.high is not None
    assert f"may still lose up to {100 * loss.high:.1f} points" in found.answered.findings[-1]


def test_a_file_of_other_rows_needs_no_fit(run: Run, tmp_path: Path) -> None:
    others = [row for row in rows(300, start=5000) if row["domain"] == "irony"]
    turned = [
        {"text": row["text"].replace("irony", "hotels"), "label": row["label"]} for row in others
    ]
    path = write_rows(tmp_path / "others.jsonl", turned)
    found = run.ask("out_of_domain", tmp_path / "asked", file=str(path))
    loss = found.find("loss_elsewhere", "tfidf", file=str(path))
    assert loss is not None
    assert loss.low is not None
    assert loss.low > 0.3
    assert loss.n == len(turned)
    assert found.planned_passes == 0  # a linear model
    assert not any("left out" in each for each in found.answered.findings)


def test_rows_of_the_file_without_an_answer_are_named(run: Run, tmp_path: Path) -> None:
    others = [{"text": f"other {row['text']}", "label": row["label"]} for row in rows(40)]
    path = write_rows(tmp_path / "others.jsonl", [*others, {"text": "nobody said", "label": None}])
    found = run.ask("out_of_domain", tmp_path / "asked", file=str(path))
    loss = found.find("loss_elsewhere", "tfidf", file=str(path))
    assert loss is not None
    assert loss.n == len(others)
    assert any("1 row has no answer" in each for each in found.answered.findings)


def test_rows_of_the_file_that_were_fitted_on_are_passed_over(run: Run, tmp_path: Path) -> None:
    view = run.jobs.ground.task.fit_view
    # Test rows too: they would stand on both sides of a difference of independent means.
    known = [{"text": row.input, "label": row.output} for row in (*view.train[:20], *run.rows[:9])]
    path = write_rows(tmp_path / "known.jsonl", known)
    found = run.ask("out_of_domain", tmp_path / "asked", file=str(path))
    assert all("among the task's own rows" in each.absent for each in found.answered.measurements)


def test_models_answer_through_the_base(small_run: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "o.jsonl", [{"text": r["text"], "label": r["label"]}
                                             for r in rows(24)])  # fmt: skip
    found = small_run.ask("out_of_domain", tmp_path / "asked", file=str(path))
    assert found.absent == ""
    about = {each.about for each in found.answered.measurements}
    assert about == set(small_run.asking(tmp_path / "x")._subjects())
    assert 0 < found.work["forward_tokens"] <= 1.25 * found.planned_passes
    assert found.work["backward_tokens"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "name no domain"), ({"domain": "films"}, "name no domain")],
)
def test_without_domains_it_says_so(
    settings: dict[str, str], words: str, small_run: Run, tmp_path: Path
) -> None:
    found = small_run.ask("out_of_domain", tmp_path, **settings)
    (told,) = found.answered.measurements
    assert words in told.absent


def test_a_domain_that_is_not_there(run: Run, tmp_path: Path) -> None:
    (told,) = run.ask("out_of_domain", tmp_path, domain="books").answered.measurements
    assert "there are films, hotels, irony" in told.absent


def test_labels_that_stand_in_one_domain_only(tmp_path: Path, tiny_folder: Path) -> None:
    made = rows(300)
    for row in made:
        row["label"] = f"{row['domain']} {row['label']}"
    data = write_rows(tmp_path / "rows.jsonl", made)
    run = run_on(data, tmp_path / "run", tiny_folder, ("tfidf",), domain="domain")
    (told,) = run.ask("out_of_domain", tmp_path / "asked").answered.measurements
    assert "none of the 3 domains can be held out" in told.absent


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "others"),
        ([{"text": "good", "label": "unheard"}], "label"),
        ([{"a": 1, "b": 2, "c": 3}], "column"),
    ],
)
def test_bad_files_are_refused(
    content: list[dict[str, Any]] | None, words: str, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "others.jsonl"
    if content is not None:
        path.write_text("".join(json.dumps(each) + "\n" for each in content), encoding="utf-8")
    with pytest.raises(DataError, match=words):
        run.ask("out_of_domain", tmp_path / "asked", file=str(path))


def test_unknown_entries_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tfidf'"):
        run.ask("out_of_domain", tmp_path, domain="irony", entries=("tfid",))


def test_better_without_having_seen_it_is_not_better_than_at_home() -> None:
    losses = [
        Measurement("score_elsewhere", "lora", "score", 0.9, 100, "x", 0.8, 0.95),
        Measurement("loss_elsewhere", "lora", "score", -0.1, 100, "x", -0.15, -0.05),
    ]
    (_, told) = _findings(losses, "rows of irony, which was held out", paired=True)
    assert told == "lora is 10.0 (5.0 to 15.0) points better there without having seen them."
    (_, told) = _findings(losses, "the rows of other.csv", paired=False)
    assert told == "lora is 10.0 (5.0 to 15.0) points better there than at home."
