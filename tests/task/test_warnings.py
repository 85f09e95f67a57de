"""The check where some of the test rows only are answered, beside a check of just those."""

from __future__ import annotations

from pathlib import Path

from tests.cli.planted import write_rows

from tunewise.task.options import TaskOptions
from tunewise.task.task import LoadedTask, load_task
from tunewise.task.types import Kind
from tunewise.task.warnings import with_test


def loaded(tmp_path: Path, labels: int, a_label: int) -> LoadedTask:
    """Splits of their own: one training row of every label, and so many test rows."""
    for split, count in {"train": 5, "validation": 5, "test": a_label}.items():
        rows = [
            {"input": f"{split} words {label} of {number}", "output": f"label {label:02}"}
            for label in range(labels)
            for number in range(count)
        ]
        write_rows(tmp_path / "set" / f"{split}.jsonl", rows)
    options = TaskOptions.model_validate({"kind": Kind.CLASSIFICATION})
    return load_task(str(tmp_path / "set"), options)


def test_labels_that_lose_their_test_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    task = loaded(tmp_path, labels=40, a_label=6)
    assert not any("test row" in each for each in task.check.warnings)
    some = task.test.some(30)
    check = some.checked(lambda rows: with_test(task.check, rows, "30 of 240 are answered"))
    kept = some.open()
    missing = sorted(set(task.spec.labels) - {row.output for row in kept})
    assert len(missing) > 10
    named = ", ".join(map(repr, missing[:10]))
    assert check.warnings == (
        *task.check.warnings,
        f"labels without a test row: {named} and {len(missing) - 10} more",
        "30 test rows: intervals will be wide",
        "30 of 240 are answered",
    )
    assert check.rows_after["test"] == 30
    assert sum(check.class_balance["test"].values()) == 30
    assert check.class_balance["train"] == task.check.class_balance["train"]


def test_what_the_whole_test_had_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    task = loaded(tmp_path, labels=10, a_label=9)
    assert "90 test rows: intervals will be wide" in task.check.warnings
    some = task.test.some(80)
    check = some.checked(lambda rows: with_test(task.check, rows, "some"))
    assert [each for each in check.warnings if "wide" in each] == [
        "80 test rows: intervals will be wide"
    ]
