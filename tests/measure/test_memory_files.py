"""Peak memory sees an allocation; files are written whole or not at all."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewise.errors import StorageError
from tunewise.measure.files import (
    read_json,
    read_record,
    read_results,
    write_json,
    write_record,
    write_results,
)
from tunewise.measure.memory import PeakMemory
from tunewise.measure.records import FitRecord, RowResult

RECORD = FitRecord(
    method="lora",
    seed=0,
    parts=("prompt_text", "low_rank"),
    adaptation="adaptations/lora-seed0",
    settings={"rank": 8},
    notes={},
    test=(RowResult("a", "yes", 1.0, 0.5, "", {"free_score": 0.0}),),
    validation=(RowResult("b", None, 0.0, failure="too long"),),
    seconds=1.5,
    forward_tokens=10,
    backward_tokens=20,
    flops=30,
    peak_bytes=40,
    trainable_parameters=50,
    bytes_on_disk=60,
    prompt_tokens_per_request=7.5,
    milliseconds_per_row=0.25,
    curve=({"step": 0.0, "validation_loss": 2.0},),
)


def test_peak_memory_sees_what_is_gone_again() -> None:
    with PeakMemory() as calm:
        pass
    with PeakMemory() as memory:
        block = np.ones(25_000_000)  # 200 MB
        assert block.sum() == 25_000_000
        memory._look()  # what the watching thread does twenty times a second
        del block
    assert memory.peak_bytes - calm.peak_bytes > 150_000_000


def test_the_watching_thread_ends_after_an_error() -> None:
    memory = PeakMemory()
    with pytest.raises(KeyError), memory:
        raise KeyError("x")
    assert not memory._thread.is_alive()
    assert memory.peak_bytes > 0


def test_records_come_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "records" / "lora.json"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    write_record(path, replace(RECORD, seed=1))
    assert read_record(path) == replace(RECORD, seed=1)
    assert [each.name for each in path.parent.iterdir()] == ["lora.json"]


def test_answered_rows_come_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "fits" / "lora.validation.json"
    assert read_results(path) is None
    given = (*RECORD.test, replace(RECORD.validation[0], group="g"))
    write_results(path, given, 2.5)
    assert read_results(path) == given
    told = read_json(path)
    assert told is not None
    assert told["seconds"] == 2.5
    for other in ({"scores": [1.0]}, {"results": [{"id": "a"}]}, {"results": 3}):
        write_json(path, other)
        assert read_results(path) is None


def test_groups_are_kept_and_records_without_them_are_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "lora.json"
    write_record(path, RECORD)
    told = read_json(path)
    assert told is not None
    # What older versions wrote, and read.
    before = {"id", "answer", "score", "probability", "failure", "extra"}
    assert set(told["test"][0]) == set(told["validation"][0]) == before
    grouped = replace(RECORD, test=(replace(RECORD.test[0], group="text 7"),))
    write_record(path, grouped)
    assert read_record(path) == grouped
    told = read_json(path)
    assert told is not None
    assert told["test"][0]["group"] == "text 7"
    assert set(told["validation"][0]) == before


@pytest.mark.parametrize("text", ["", "[1]", '{"test": []}', '{"te', '{"test": [{"x": 1}]}'])
def test_what_is_no_record_reads_as_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert read_record(path) is None
    path.write_text(text, encoding="utf-8")
    assert read_record(path) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_refused_write_keeps_what_was_there(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=os.strerror(number)):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["facts.json"]
