"""Every format gives the same rows, whatever harmless habits the file has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.task.samples import records, write_jsonl

from tunewise.errors import UnavailableError
from tunewise.task import hub
from tunewise.task.load import read_source

ROWS = [{"text": "one, two", "label": "a"}, {"text": 'say "hi"\nthere', "label": "b"}]
CSV = 'text,label\n"one, two",a\n"say ""hi""\nthere",b\n'


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "jsonl": lambda p: write_jsonl(p / "d.jsonl", ROWS),
    "ndjson": lambda p: write_jsonl(p / "d.ndjson", ROWS),
    "jsonl with a byte order mark, CRLF and blank lines": lambda p: _write(
        p / "d.jsonl",
        b"\xef\xbb\xbf" + "\r\n".join(json.dumps(r) for r in ROWS).encode() + b"\r\n\r\n\n",
    ),
    "json list": lambda p: _write(p / "d.json", json.dumps(ROWS, indent=1)),
    "json object with data": lambda p: _write(p / "d.json", json.dumps({"data": ROWS})),
    "json lines named json": lambda p: write_jsonl(p / "d.json", ROWS),
    "csv": lambda p: _write(p / "d.csv", CSV),
    "csv with a byte order mark": lambda p: _write(p / "d.csv", b"\xef\xbb\xbf" + CSV.encode()),
    "csv with blank lines at the end": lambda p: _write(p / "d.csv", CSV + "\n\n \n"),
    "csv with semicolons": lambda p: _write(
        p / "d.csv", 'text;label\none, two;a\n"say ""hi""\nthere";b\n'
    ),
    "csv with the row numbers of a data frame": lambda p: _write(
        p / "d.csv", ',text,label\n0,"one, two",a\n1,"say ""hi""\nthere",b\n'
    ),
    "tsv": lambda p: _write(p / "d.tsv", 'text\tlabel\none, two\ta\n"say ""hi""\nthere"\tb\n'),
    "upper case extension": lambda p: _write(p / "d.CSV", CSV),
}


@pytest.mark.parametrize("name", WRITERS)
def test_same_rows_from_every_format(tmp_path: Path, name: str) -> None:
    found = read_source(str(WRITERS[name](tmp_path)))
    assert list(found) == ["all"]
    assert [record.values for record in found["all"]] == ROWS


def test_crlf_inside_csv(tmp_path: Path) -> None:
    path = _write(tmp_path / "d.csv", "text,label\r\none,a\r\ntwo,b\r\n")
    assert [r.values for r in read_source(str(path))["all"]] == [
        {"text": "one", "label": "a"},
        {"text": "two", "label": "b"},
    ]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    found = read_source(str(tmp_path / "d.parquet"))["all"]
    assert [r.values for r in found] == ROWS
    assert found[1].origin == "d.parquet row 2"


def test_a_csv_row_is_named_by_row_and_first_line(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.csv", 'text,label\n"a\nb",x\nc,y\n')
    assert [r.origin for r in read_source(str(path))["all"]] == [
        "t.csv row 1 (line 2)",
        "t.csv row 2 (line 4)",
    ]


def test_very_long_csv_cell(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.csv", "text,label\n" + "x" * 300_000 + ",a\n")
    assert len(read_source(str(path))["all"][0].values["text"]) == 300_000


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_folder_with_splits_of_different_types(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", records(3))
    _write(tmp_path / f"{name}.csv", CSV)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "test.parquet")
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "labels.json").write_text("[]")
    found = read_source(str(tmp_path))
    assert {split: len(part) for split, part in found.items()} == {
        "train": 3,
        "validation": 2,
        "test": 2,
    }


def test_folder_with_shards_under_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part in range(2):
        table = pa.Table.from_pylist(records(4))
        pq.write_table(table, tmp_path / "data" / f"train-0000{part}-of-00002.parquet")
    assert {k: len(v) for k, v in read_source(str(tmp_path)).items()} == {"train": 8}


def test_saved_dataset_with_class_numbers(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    part = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features)
    part.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "two"))
    labels = [r.values["label"] for r in read_source(str(tmp_path / "one"))["all"]]
    assert labels == ["pos", "neg", None]
    assert set(read_source(str(tmp_path / "two"))) == {"train", "test"}


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: object) -> None:
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UnavailableError, match="cannot be fetched") as caught:
        read_source("someone/something")
    assert "someone/something" in caught.value.fix
    assert hub.__doc__
