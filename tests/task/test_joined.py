"""Several columns as one input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.terminal import tunewise

from tunewise.errors import DataError
from tunewise.task.joined import with_joined_input
from tunewise.task.options import TaskOptions
from tunewise.task.readers import Record
from tunewise.task.task import load_task

TICKET = {"Subject": "Card", "Body": "It never\narrived. ", "Queue": "cards", "n": 7}


def told(values: dict[str, Any], **options: Any) -> dict[str, Any]:
    splits = {"all": [Record(values, "row 1")]}
    (record,) = with_joined_input(splits, TaskOptions(**options))["all"]
    assert record.origin == "row 1"
    return record.values


def test_each_stands_on_a_line_of_its_own_with_its_name() -> None:
    assert told(TICKET, input="Subject, Body") == {
        "Subject, Body": "Subject: Card\nBody: It never\narrived.",
        "Queue": "cards",
        "n": 7,
    }
    # In the order that is named; what is no text as it stands in other columns.
    assert told(TICKET, input="n,Subject,n")["n,Subject,n"] == "n: 7\nSubject: Card"


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_what_has_no_value_is_left_out(empty: str | None) -> None:
    assert told({**TICKET, "Body": empty}, input="Subject,Body")["Subject,Body"] == "Subject: Card"
    both = {**TICKET, "Body": empty, "Subject": empty}
    assert told(both, input="Subject,Body")["Subject,Body"] is None


def test_one_column_or_none_is_as_it_was() -> None:
    assert told(TICKET) == told(TICKET, input="Body") == TICKET
    # A comma too many, or the same name twice, makes one column no several.
    for name in ("Body,", ",Body", "Body, ", "Body,Body"):
        assert told(TICKET, input=name)[name] == "It never\narrived."
    odd = {"Subject,Body": "one", "Subject": "two", "Body": "three"}
    assert told(odd, input="Subject,Body") == odd


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"input": "Subject,Bdy"}, "no column 'Bdy'"),
        ({"input": "Subject,Body,"}, ""),
        ({"input": ",", "output": "Queue"}, "no column ','"),
        ({"input": "Subject,Queue", "output": "Queue"}, "among the columns of the input"),
        ({"input": "subject,body", "output": "Queue"}, "did you mean 'Subject'"),
    ],
)
def test_names_that_are_none(options: dict[str, str], say: str, tmp_path: Path) -> None:
    file = tmp_path / "tickets.jsonl"
    rows = [
        {**TICKET, "Subject": f"Card {n}", "Queue": ("cards", "loans")[n % 2]} for n in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if not say:
        assert load_task(str(file), TaskOptions(**options, output="Queue")).fit_view.train
        return
    with pytest.raises(DataError, match=say):
        load_task(str(file), TaskOptions(**options))


def test_a_run_and_its_answers_read_them_alike(tmp_path: Path, tiny_folder: Path) -> None:
    file = tmp_path / "tickets.jsonl"
    rows = [
        {
            "Subject": f"Ticket {n * 37 % 101}",
            "Body": f"about {('a card', 'a loan')[n % 2]}, {n * 53 % 89} days",
            "Queue": ("cards", "loans")[n % 2],
        }
        for n in range(60)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = ("--input", "Subject,Body", "--output", "Queue")
    flags = (*names, "--methods", "tfidf", "--questions", "none", "--base", tiny_folder)
    done = tunewise("compare", file, "--out", tmp_path / "run", *flags)
    assert done.code == 0, done.err
    found = tmp_path / "run" / "adaptations" / "tfidf-seed0"
    answers = tunewise("predict", found, "--file", file, "--input", "Subject,Body", "--json")
    assert answers.code == 0, answers.err
    first = answers.json[0]["input"]
    assert first == f"Subject: {rows[0]['Subject']}\nBody: {rows[0]['Body']}"
    by_hand = tunewise("predict", found, first, "--json").json
    assert by_hand[0]["answer"] == answers.json[0]["answer"]
