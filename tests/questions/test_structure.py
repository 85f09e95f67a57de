"""Structure against counting by hand: JSON with and without a grammar, fields, SQL that runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.compare.planted import make_record
from tests.questions.running import Run

from tunewise.errors import ConfigError
from tunewise.measure.evidence import Answered, Measurement
from tunewise.measure.questions._contract import Subject
from tunewise.measure.questions._sql import ScriptDatabase, looks_like_sql
from tunewise.measure.questions.structure import Structure, StructureSettings
from tunewise.measure.records import FitRecord, RowResult
from tunewise.numerics.counts import f1_interval
from tunewise.task.types import Kind, Row, TaskSpec

SCRIPT = """
CREATE TABLE rooms (number INTEGER, beds INTEGER);
INSERT INTO rooms VALUES (1, 2), (2, 1), (3, 2);
"""


def asked(
    kind: Kind, outputs: Sequence[str], answers: Sequence[RowResult], **settings: Any
) -> Answered:
    """Ask about one entry's answers."""
    rows = tuple(Row(f"r{n}", f"text {n}", out, (out,)) for n, out in enumerate(outputs))
    record: FitRecord = make_record("lora", [1.0], {"r0": Row("r0", "x", "neutral", ("neutral",))})

    def load() -> Any:
        raise AssertionError("nothing is loaded")

    subject = Subject(replace(record, test=tuple(answers)), load)
    context: Any = SimpleNamespace(
        spec=TaskSpec("t", kind, "Say.", (), "field_f1"),
        test=rows,
        chosen=lambda: {"lora": subject},
    )
    assert Structure().inapplicable(context) == ""
    assert Structure().cost(context, StructureSettings()) == 0
    return Structure().measure(context, StructureSettings(**settings))


def value(answered: Answered, name: str, **part: Any) -> Measurement:
    """The one measurement of that name and part."""
    (found,) = [
        each for each in answered.measurements if each.name == name and dict(each.part) == part
    ]
    return found


def result(number: int, answer: str | None, **extra: float) -> RowResult:
    """An answer with its scores."""
    return RowResult(f"r{number}", answer, 0.0, extra=extra)


def test_json_is_counted_with_and_without_the_grammar() -> None:
    outputs = [json.dumps({"item": "bed", "tags": ["a", "b"]})] * 4
    answers = [
        result(0, outputs[0], valid_json=1, exact=1, free_valid_json=1, free_exact=1),
        result(1, '{"item": "lamp", "tags": ["a"]}', valid_json=1, exact=0, free_valid_json=0,
               free_exact=0),
        result(2, '{"item": "bed", "tags": ["c"]}', valid_json=1, exact=0, free_valid_json=0,
               free_exact=0),
        result(3, None),
    ]  # fmt: skip
    found = asked(Kind.JSON, outputs, answers)
    assert value(found, "valid_json", decoding="grammar").value == 0.75
    assert value(found, "valid_json", decoding="grammar").n_failed == 1
    assert value(found, "valid_json", decoding="free").value == 0.25
    assert value(found, "exact", decoding="free").value == 0.25
    # item: 2 right of 3 given and 4 wanted. tags: 2 + 1 + 0 right of 4 given and 8 wanted.
    assert value(found, "field_f1", field="item").value == pytest.approx(2 * 2 / 7)
    assert value(found, "field_f1", field="tags[]").value == pytest.approx(2 * 3 / 12)
    assert any("75.0" in text and "25.0" in text for text in found.findings)
    assert found.pictures[0].points


def test_no_valid_json_at_all_is_told_as_none_not_left_out() -> None:
    outputs = ['{"a": 1}'] * 30
    answers = [result(n, "a is one", valid_json=0, free_valid_json=0) for n in range(30)]
    found = asked(Kind.JSON, outputs, answers)
    assert value(found, "valid_json", decoding="free").value == 0.0
    assert any(text.startswith("lora: of 100 answers 0.0") for text in found.findings)


def test_what_was_not_checked_is_absent_not_zero() -> None:
    found = asked(Kind.JSON, ['{"a": 1}'], [result(0, '{"a": 1}', valid_json=1)])
    assert value(found, "schema_valid", decoding="free").value is None
    assert value(found, "valid_json", decoding="free").absent == "no answer was read this way"


def test_the_weakest_field_is_named() -> None:
    outputs = [json.dumps({"city": "Oslo", "day": n % 7}) for n in range(20)]
    answers = [result(n, json.dumps({"city": "Oslo", "day": 9})) for n in range(20)]
    found = asked(Kind.JSON, outputs, answers)
    assert any("weakest at the field day: F1 0.0" in text for text in found.findings)


def sql(answers: Sequence[str | None], tmp_path: Path, **settings: Any) -> Answered:
    """Ask about queries whose reference counts the rooms with two beds."""
    script = tmp_path / "rooms.sql"
    script.write_text(SCRIPT, encoding="utf-8")
    outputs = ["SELECT number FROM rooms WHERE beds = 2"] * len(answers)
    results = [result(n, answer) for n, answer in enumerate(answers)]
    return asked(Kind.GENERATION, outputs, results, sql_script=str(script), **settings)


def test_sql_is_run_and_its_rows_are_compared(tmp_path: Path) -> None:
    answers = [
        "SELECT number FROM rooms WHERE beds = 2",
        "select number from rooms where beds > 1 order by number desc",  # same rows
        "SELECT number FROM rooms",  # runs, other rows
        "SELECT numbers FROM rooms",  # no such column
        "There are two such rooms.",
        None,
    ]
    found = sql(answers, tmp_path)
    assert value(found, "runs").value == pytest.approx(3 / 6)
    assert value(found, "same_rows").value == pytest.approx(2 / 6)
    assert value(found, "runs").n_failed == 1
    assert "of 100 queries 50.0" in found.findings[0]


def test_sql_without_a_script_is_not_run(tmp_path: Path) -> None:
    outputs = ["SELECT 1"]
    found = asked(Kind.GENERATION, outputs, [result(0, "SELECT 1")])
    assert all("no script" in each.absent for each in found.measurements)


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE rooms",
        "DELETE FROM rooms",
        "INSERT INTO rooms VALUES (4, 4)",
        "UPDATE rooms SET beds = 9",
        "ATTACH DATABASE '/tmp/other.db' AS other",
        "PRAGMA writable_schema = 1",
        "CREATE TABLE t (a)",
        "SELECT 1; DROP TABLE rooms",
        "VACUUM",
        "",
        "\x00",
    ],
)
def test_queries_only_read(query: str) -> None:
    database = ScriptDatabase(SCRIPT, 2.0)
    assert database.rows_of(query).error != ""
    assert database.rows_of("SELECT count(*) FROM rooms").rows == ((3,),)


def test_a_query_without_end_is_stopped() -> None:
    database = ScriptDatabase(SCRIPT, 0.1)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    assert "took over 0.1 s" in database.rows_of(endless).error


def test_the_order_counts_where_the_reference_says_one() -> None:
    database = ScriptDatabase(SCRIPT, 2.0)
    up, down = (
        database.rows_of(f"SELECT number FROM rooms ORDER BY number {way}") for way in ("", "DESC")
    )
    plain = database.rows_of("SELECT number FROM rooms")
    assert not down.same_as(up)
    assert plain.same_as(up)
    assert down.same_as(plain)


@pytest.mark.parametrize(
    ("text", "is_sql"),
    [("SELECT 1", True), (" with a as (x)", True), ("selected", False), ("I select", False)],
)
def test_what_looks_like_sql(text: str, is_sql: bool) -> None:
    assert looks_like_sql(text) is is_sql


@pytest.mark.parametrize("script", ["CREATE", "SELECT * FROM nowhere;"])
def test_a_script_that_does_not_run_is_refused(script: str) -> None:
    with pytest.raises(ConfigError, match="does not run"):
        ScriptDatabase(script, 1.0)


def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        asked(Kind.GENERATION, ["SELECT 1"], [result(0, "SELECT 1")],
              sql_script=str(tmp_path / "none.sql"))  # fmt: skip


def test_other_tasks_are_told(small_run: Run, tmp_path: Path) -> None:
    found = small_run.ask("structure", tmp_path)
    assert "neither JSON nor SQL" in found.absent


def test_f1_against_counting() -> None:
    interval = f1_interval([(1, 1, 1), (0, 1, 2), (2, 2, 3)])
    assert interval.value == pytest.approx(2 * 3 / 10)
    assert interval.low < interval.value < interval.high
    with pytest.raises(ValueError, match="no values"):
        f1_interval([])
    with pytest.raises(ValueError, match="no values"):
        f1_interval([(0, 0, 0)])


def test_f1_covers_in_simulation() -> None:
    numbers = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        hits = numbers.binomial(2, 0.7, size=60)
        interval = f1_interval([(int(hit), 2, 2) for hit in hits], seed=seed, resamples=1000)
        inside += interval.low <= 0.7 <= interval.high
    assert 0.91 <= inside / 200 <= 0.99
