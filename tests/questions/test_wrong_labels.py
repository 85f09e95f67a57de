"""Wrong labels: spoiled as said, and found to hurt what believes its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.planted import two_labels, write_rows
from tests.questions.running import Run, run_on

from tunewise.measure.questions.wrong_labels import spoil
from tunewise.task.types import Kind, Row


def rows_of(outputs: list[str]) -> list[Row]:
    """Rows with these answers."""
    return [Row(f"r{n}", f"text {n}", each, (each,)) for n, each in enumerate(outputs)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.GENERATION])
def test_so_many_rows_are_spoiled_and_no_more(share: float, kind: Kind) -> None:
    rows = rows_of(["a", "b", "c", "d"] * 20)
    spoiled = spoil(rows, share, kind, seed=3)
    differ = [a.output != b.output for a, b in zip(rows, spoiled, strict=True)]
    assert sum(differ) == round(80 * share)
    assert all(row.references == (row.output,) for row in spoiled)
    assert [row.input for row in spoiled] == [row.input for row in rows]
    assert spoiled == spoil(rows, share, kind, seed=3)
    assert {row.output for row in spoiled} <= {"a", "b", "c", "d"}


def test_a_single_label_s_others_are_as_likely_each() -> None:
    rows = rows_of(["a"] * 900 + ["b"] * 60 + ["c"] * 30 + ["d"] * 10)
    spoiled = spoil(rows, 1.0, Kind.CLASSIFICATION, seed=0)[:900]
    counts = [sum(row.output == label for row in spoiled) for label in "bcd"]
    assert np.allclose(counts, 300, atol=60)


def test_a_model_that_believes_its_rows_loses(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(300))
    run = run_on(data, tmp_path / "run", tiny_folder, ["majority", "tfidf"])
    evidence = run.ask("wrong_labels", tmp_path / "asked", shares=(0.45,))
    assert not evidence.absent, evidence.absent
    found = evidence.find("change", "tfidf", wrong=0.45)
    score = evidence.find("score", "tfidf", wrong=0.45)
    assert found is not None
    assert score is not None
    (record,) = [each for each in run.records if each.method == "tfidf"]
    clean = np.mean([one.score for one in record.test])
    assert found.value == pytest.approx(score.number - clean)
    assert found.high is not None
    assert found.high < 0
    assert evidence.find("change", "majority", wrong=0.45) is None
    assert evidence.answered.findings[0].startswith(
        f"With 45% of the answers wrong, tfidf loses {-100 * found.value:.1f} ("
    )


def test_on_a_run_with_a_base(small_run: Run, tmp_path: Path) -> None:
    evidence = small_run.ask("wrong_labels", tmp_path, entries=("lora",), shares=(0.1, 0.2))
    assert not evidence.absent, evidence.absent
    for share in (0.1, 0.2):
        found = evidence.find("score", "lora", wrong=share)
        assert found is not None
        assert found.n == len(small_run.rows)
        assert found.seeds == (0,)
    work = evidence.work["forward_tokens"] + evidence.work["backward_tokens"]
    assert work <= 1.25 * evidence.planned_passes
