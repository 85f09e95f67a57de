"""Data that cannot be used: exit 2, four parts to the message, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.planted import SCHEMA, objects, several_labels, two_labels, write_rows
from tests.cli.terminal import Done, tunewise

Maker = Callable[[Path], list[object]]
ROWS = two_labels(40)


def refused(done: Done, out: Path, *words: str) -> None:
    """Exit 2 with what, found, expected and fix, these words among them, and no folder."""
    assert done.code == 2, done.err
    told = done.json
    assert f"tunewise: {told['what'].splitlines()[0]}" in done.err.splitlines()
    for part in ("error", "what", "found", "expected", "fix"):
        assert told[part], f"{part} is missing: {told}"
    assert "Traceback" not in done.err
    text = json.dumps(told, ensure_ascii=False).lower()
    for word in words:
        assert word.lower() in text, told
    assert not out.exists()
    assert not list(out.parent.glob(f"{out.name}*"))


def file(name: str, content: str | bytes, *flags: object) -> Maker:
    """A data file with this content, and flags."""

    def make(folder: Path) -> list[object]:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [path, *flags]

    return make


def lines(rows: list[dict[str, object]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def splits(train: list[dict[str, object]], test: list[dict[str, object]]) -> Maker:
    """A folder with a train and a test file."""

    def make(folder: Path) -> list[object]:
        (folder / "set").mkdir()
        write_rows(folder / "set" / "train.jsonl", train)
        write_rows(folder / "set" / "test.jsonl", test)
        return [folder / "set"]

    return make


def changed(number: int, **values: object) -> str:
    """Rows of which one is changed."""
    rows: list[dict[str, object]] = [dict(row) for row in ROWS]
    rows[number] |= values
    return lines(rows)


TEXT = lines([dict(row) for row in ROWS])
CASES: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "missing file": (lambda folder: [folder / "nothing.jsonl"], ("nothing.jsonl",)),
    "close name": (
        lambda folder: [write_rows(folder / "tickets.jsonl", ROWS).with_name("tikets.jsonl")],
        ("tickets.jsonl",),
    ),
    "empty file": (file("rows.jsonl", ""), ("rows.jsonl", "no rows", "0 bytes")),
    "only blank lines": (file("rows.jsonl", "\n \n\n"), ("rows.jsonl",)),
    "empty csv": (file("rows.csv", ""), ("rows.csv",)),
    "csv with titles only": (file("rows.csv", "text,label\n"), ("rows.csv",)),
    "not UTF-8": (file("rows.jsonl", TEXT.encode() + b'{"text": "\xff\xfe"}\n'), ("utf-8",)),
    "csv not UTF-8": (file("rows.csv", b"text,label\ncaf\xe9,a\n"), ("utf-8",)),
    "broken JSON": (file("rows.jsonl", TEXT + '{"text": "x", \n'), ("41",)),
    "no object": (file("rows.jsonl", TEXT + "[1, 2]\n"), ("41",)),
    "broken JSON document": (file("rows.json", '[{"text": "a"'), ("rows.json",)),
    "broken Parquet": (file("rows.parquet", b"PAR1 nonsense"), ("rows.parquet",)),
    "unknown ending": (file("rows.docx", "x"), ("docx",)),
    "column missing": (file("rows.jsonl", TEXT, "--output", "lable"), ("lable", "label")),
    "input column missing": (file("rows.jsonl", TEXT, "--input", "txt"), ("txt", "text")),
    "columns cannot be guessed": (
        file("rows.jsonl", lines([{"a": str(n), "b": str(n), "c": str(n)} for n in range(20)])),
        ("a", "b", "c"),
    ),
    "same column twice": (
        file("rows.jsonl", TEXT, "--input", "text", "--output", "text"),
        ("text",),
    ),
    "output missing": (
        file("rows.jsonl", changed(16, label=None), "--require-answers"),
        ("line 17",),
    ),
    "one class": (
        file(
            "rows.jsonl", lines([{**row, "label": "a"} for row in ROWS]), "--kind", "classification"
        ),
        ("one class",),
    ),
    "seven rows": (file("rows.jsonl", lines([dict(row) for row in ROWS[:7]])), ("7 row",)),
    "eight rows, all the same": (
        file("rows.jsonl", lines([{"text": "same", "label": "a"}] * 8)),
        ("repeated",),
    ),
    "test label that train never has": (
        splits([dict(row) for row in ROWS], [{"text": "The moon is far", "label": "neutral"}]),
        ("neutral", "train never has"),
    ),
    "longer than the context": (
        file("rows.jsonl", changed(3, text="word " * 200)),
        ("line 4", "context", "512"),
    ),
    "answer longer than the context": (
        file("rows.jsonl", changed(3, label="word " * 200), "--kind", "short_answer"),
        ("context",),
    ),
    "answer that misses the schema": (
        file(
            "rows.jsonl",
            lines([*objects(20), {"text": "x", "facts": '{"item": "moon"}'}]),
            "--schema",
            "SCHEMA",
        ),
        ("21",),
    ),
    "answer that is no JSON": (
        file(
            "rows.jsonl", lines([*objects(20), {"text": "x", "facts": '{"item'}]), "--kind", "json"
        ),
        ("21",),
    ),
    "ids twice": (
        file("rows.jsonl", lines([{**row, "id": "x"} for row in ROWS]), "--id", "id"),
        ("id",),
    ),
    "no data at all": (lambda folder: [], ("no data",)),
    "folder without data": (
        lambda folder: [_folder(folder / "set")],
        ("set",),
    ),
    "unknown metric": (file("rows.jsonl", TEXT, "--metric", "acuracy"), ("accuracy",)),
    "metric of another kind": (file("rows.jsonl", TEXT, "--metric", "rouge_l"), ("rouge",)),
    "unknown kind": (file("rows.jsonl", TEXT, "--kind", "clasification"), ("classification",)),
    "fraction": (file("rows.jsonl", TEXT, "--test-fraction", "1.5"), ("test_fraction", "1.5")),
    "fraction in words": (file("rows.jsonl", TEXT, "--test-fraction", "half"), ("half",)),
    "multi-label separator": (
        file(
            "rows.jsonl", lines([dict(row) for row in several_labels(40)]), "--label-separator", ""
        ),
        ("label_separator",),
    ),
    "task file missing": (file("rows.jsonl", TEXT, "--task", "no.toml"), ("no.toml",)),
    "schema file missing": (file("rows.jsonl", TEXT, "--schema", "no.json"), ("no.json",)),
}


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "notes.txt").write_text("nothing", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["compare", "fit"])
def test_bad_data_is_refused(command: str, name: str, tmp_path: Path, tiny_folder: Path) -> None:
    make, words = CASES[name]
    arguments = make(tmp_path)
    if "SCHEMA" in arguments:
        schema = tmp_path / "schema.json"
        schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
        arguments[arguments.index("SCHEMA")] = schema
    out = tmp_path / "run"
    start = ("compare",) if command == "compare" else ("fit", "zero_shot")
    done = tunewise(*start, *arguments, "--base", tiny_folder, "--out", out, "--json")
    refused(done, out, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('kind = "clasification"\nmetrik = "f1"\n', ("clasification", "metrik", "2 faults")),
        ("kind = \n", ("toml",)),
        ('schema = "nothing.json"\n', ("nothing.json",)),
        ("data = 3\n", ("data",)),
        ("test_fraction = 2.0\nsplit_seed = -1\n", ("test_fraction", "split_seed")),
        ('json_schema = {type = "objekt"}\n', ("objekt",)),
    ],
)
def test_faults_of_a_task_file_are_told_at_once(
    content: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    task = tmp_path / "task.toml"
    task.write_text(content, encoding="utf-8")
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    out = tmp_path / "run"
    done = tunewise("compare", data, "--task", task, "--out", out, "--json")
    refused(done, out, *words)


def test_a_task_file_alone_is_enough(tmp_path: Path, tiny_folder: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    task = tmp_path / "task.toml"
    task.write_text('data = "rows.jsonl"\ninput = "text"\noutput = "label"\n', encoding="utf-8")
    done = tunewise(
        "fit", "majority", "--task", task, "--base", tiny_folder, "--out", tmp_path / "a"
    )
    assert done.code == 0, done.err
