"""Bad input by the dozen: the right class, the place, and how to fix it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.task.samples import phrase, records, write_jsonl

from tunewise.errors import ConfigError, DataError, TunewiseError
from tunewise.task.options import TaskOptions
from tunewise.task.task import load_task, rows_from

Make = Callable[[Path], Path]


def raw(name: str, content: str | bytes) -> Make:
    """A file with exactly this content."""

    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(rows: list[dict[str, Any]], name: str = "d.jsonl") -> Make:
    """A JSONL file with these rows."""
    return lambda folder: write_jsonl(folder / name, rows)


def files(**parts: Any) -> Make:
    """A folder with one JSONL file a split."""

    def write(folder: Path) -> Path:
        for name, rows in parts.items():
            write_jsonl(folder / f"{name}.jsonl", rows)
        return folder

    return write


def _with(change: dict[str, Any], at: int = 2, count: int = 12) -> list[dict[str, Any]]:
    rows = records(count)
    rows[at] = {**rows[at], **change}
    return rows


def _without(key: str, at: int) -> list[dict[str, Any]]:
    rows = records(12)
    del rows[at][key]
    return rows


GOOD = "".join(json.dumps(row) + "\n" for row in records(10))
TABLE = "text,label\n" + "".join(f"{phrase(i)},{'ab'[i % 2]}\n" for i in range(10))
OBJECTS = [
    {"text": phrase(i), "output": json.dumps({"n": i % 3, "w": phrase(i)})} for i in range(12)
]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 1}}}

CASES: dict[str, tuple[Make, TaskOptions, tuple[str, ...]]] = {}


def case(name: str, make: Make, *needles: str, **options: Any) -> None:
    """Add a case: the words that the message must hold."""
    CASES[name] = (make, TaskOptions(**options), needles)


def _beside(folder: Path) -> Path:
    write_jsonl(folder / "tickets.jsonl", records(9))
    return folder / "tickts.jsonl"


case("missing file", _beside, "no file or folder", "did you mean tickets.jsonl")
case("missing folder", lambda p: p / "no" / "d.csv", "no folder")
case("empty file", raw("d.csv", ""), "has no rows", "0 bytes")
case("file of blank lines", raw("d.jsonl", "\n\n \n"), "has no rows")
case("header alone", raw("d.csv", "text,label\n"), "has no rows")
case("empty list", raw("d.json", "[]"), "has no rows")
case(
    "latin 1",
    raw("d.csv", TABLE.encode() + b"caf\xe9,a\n"),
    "not UTF-8",
    "0xe9",
    "line 12",
    "iconv",
)
case("utf 16", raw("d.csv", TABLE.encode("utf-16")), "not UTF-8", "offset 0", "UTF-16")
case("bad byte behind a mark", raw("d.csv", b"\xef\xbb\xbfa\xff"), "offset 4")
case("broken JSON line", raw("d.jsonl", GOOD + '{"text": "x",\n'), "d.jsonl line 11", "broken JSON")
case("line that is a list", raw("d.jsonl", GOOD + "[1]\n"), "line 11", "not a JSON object")
case("line that is text", raw("d.jsonl", '"x"\n' + GOOD), "line 1 ", "not a JSON object")
case("broken JSON", raw("d.json", '[\n{"a": 1},\n{"a" 2}]'), "d.json line 3")
case("JSON without rows", raw("d.json", '{"rows": []}'), "no list of rows", "rows")
case("JSON row that is a number", raw("d.json", "[1, 2]"), "row 1", "not a JSON object")
case(
    "row too wide", raw("d.csv", TABLE + "a,b,c\n"), "row 11 (line 12)", "3 columns", "header has 2"
)
case("row too narrow", raw("d.csv", TABLE + "a\n"), "row 11", "1 columns")
case("quote left open", raw("d.csv", TABLE + '"a,b\n'), "line 12", "quotes")
case("duplicate header", raw("d.csv", "text,text\na,b\n"), "twice", "text")
case("no header", raw("d.csv", TABLE.split("\n", 1)[1]), "no header")
case("number as header", raw("d.csv", "good film,1\nbad film,0\n"), "no header")
case("column without a name", raw("d.csv", "text,\na,b\n"), "without a name")
case("unknown extension", raw("d.docx", "x"), ".docx", ".csv")
case(
    "spreadsheet", raw("d.xlsx", "x"), "is a spreadsheet", ".csv", "save the sheet as CSV in UTF-8"
)
case("no extension", raw("data", "x"), "no extension")
case("parquet that is none", raw("d.parquet", "text,label\n"), "not a Parquet file")
case("folder without data", lambda p: p, "no files named train")
case(
    "two train files",
    lambda p: [raw("train.csv", TABLE)(p), raw("train.jsonl", GOOD)(p), p][-1],
    "more than one file",
    "train.csv, train.jsonl",
)
case("test rows alone", files(test=records(12)), "no rows to fit on", "test")
case("seven rows", lines(records(7)), "fewer than 8 rows", "7 rows")
case("one row", lines(records(1)), "1 row")
case("eight rows, one twice", lines([*records(7), records(7)[0]]), "fewer than 8", "repeated")
case("one class", lines(records(12, ["good"])), "one class only", "'good'")
case(
    "one class and an empty row",
    lines([*records(12, ["a"]), {"text": "", "label": "b"}]),
    "one class",
)
STRICT = {"require_answers": True}
case(
    "output key absent",
    lines(_without("label", 4)),
    "output missing in d.jsonl line 5",
    "'label'",
    **STRICT,
)
case("output null", lines(_with({"label": None})), "output missing in d.jsonl line 3", **STRICT)
case("output blank", lines(_with({"label": " "})), "output missing in d.jsonl line 3", **STRICT)
case(
    "output cell empty",
    raw("d.csv", TABLE + "words,\n"),
    "output missing in d.csv row 11",
    "--require-answers",
    **STRICT,
)
case(
    "most rows without an answer",
    raw("d.csv", TABLE + "".join(f"words {n},\n" for n in range(11))),
    "most rows of the data have no answer",
    "11 of 21 rows: d.csv row 11 (line 12)",
    "and 6 more",
    "--output",
)
case(
    "a test split whose answers are kept secret",
    files(train=records(12), test=[{"text": phrase(n + 50), "label": ""} for n in range(3)]),
    "most rows of the test split",
    "3 of 3 rows",
    "remove the test file",
)
case("column missing", lines(records(9)), "no column 'txt'", "did you mean 'text'", input="txt")
case("column missing, far", lines(records(9)), "columns: text, label", output="zzz")
case("group missing", lines(records(9)), "--group", group="customer")
case("same column twice", lines(records(9)), "same column", input="text", output="text")
case(
    "columns not certain",
    lines([{"a": phrase(i), "b": phrase(i + 50), "c": i % 2} for i in range(12)]),
    "not certain",
    "--input COLUMN and --output COLUMN",
    "amber",
)
case(
    "two columns, both distinct",
    lines([{"left": phrase(i), "right": phrase(i + 50)} for i in range(12)]),
    "not certain",
)
case(
    "two candidates for the input",
    lines([{"text": phrase(i), "question": phrase(i), "label": "ab"[i % 2]} for i in range(12)]),
    "not certain",
)
case(
    "label only in test",
    files(train=records(12), test=[*records(3), {"text": "new", "label": "ugly"}]),
    "labels in test that train never has",
    "'ugly' in test.jsonl line 4",
)
case(
    "id twice",
    lines([{**r, "id": i // 2} for i, r in enumerate(records(9))]),
    "twice",
    "line 2",
    id="id",
)
case(
    "JSON output broken", lines([*OBJECTS, {"text": "x", "output": "{oops"}]), "line 13", "not JSON"
)
case("JSON schema not met", lines(OBJECTS), "line 3", "$.n", "maximum", json_schema=SCHEMA)
case("metric unknown", lines(records(9)), "unknown metric", "accuracy", metric="acuracy")
case("metric for another kind", lines(records(9)), "does not fit", "accuracy", metric="rouge_l")
case("one group", lines([{**r, "g": 1} for r in records(9)]), "one group", group="g")
case(
    "comma in a label",
    lines([{"text": phrase(i), "labels": ["a, b", "c"][: 1 + i % 2]} for i in range(12)]),
    "comma",
    kind="multi_label",
)
case(
    "train repeats test",
    files(train=records(12), test=[{**r, "text": r["text"].upper()} for r in records(12)]),
    "no train rows are left",
    "near-duplicates",
)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(tmp_path: Path, name: str) -> None:
    make, options, needles = CASES[name]
    with pytest.raises((DataError, ConfigError)) as caught:
        load_task(str(make(tmp_path)), options)
    message = str(caught.value)
    assert all(needle in message for needle in needles), message
    assert caught.value.exit_code == 2
    assert caught.value.fix
    assert caught.value.expected


def test_rows_for_measuring_with_an_unknown_label(tmp_path: Path) -> None:
    task = load_task(str(write_jsonl(tmp_path / "a.jsonl", records(12))), TaskOptions())
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "x", "label": "ugly"}])
    with pytest.raises(TunewiseError, match=r"b\.jsonl line 1 has a label"):
        rows_from(str(other), TaskOptions(), task.spec)
