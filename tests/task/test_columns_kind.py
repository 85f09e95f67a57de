"""Columns and kinds: detected when certain, explained, and overridable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.task.samples import phrase, records, write_jsonl

from tunewise.errors import DataError
from tunewise.task.columns import choose_columns
from tunewise.task.kind import default_instruction, detect_kind, split_labels
from tunewise.task.options import TaskOptions
from tunewise.task.readers import Record
from tunewise.task.task import load_task
from tunewise.task.types import Kind


def rows(**columns: list[Any]) -> list[Record]:
    """Records from columns."""
    return [
        Record(dict(zip(columns, values, strict=True)), f"row {n}")
        for n, values in enumerate(zip(*columns.values(), strict=True), start=1)
    ]


TEXTS = [phrase(i) for i in range(12)]
OTHERS = [phrase(i + 40) for i in range(12)]
LABELS = ["ab"[i % 2] for i in range(12)]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"text": TEXTS, "label": LABELS}, ("text", "label")),
        ({"label": LABELS, "text": TEXTS}, ("text", "label")),
        ({"Review": TEXTS, "Sentiment": LABELS, "stars": LABELS}, ("Review", "Sentiment")),
        ({"prompt": TEXTS, "completion": OTHERS}, ("prompt", "completion")),
        ({"dialogue": TEXTS, "summary": OTHERS, "id": TEXTS}, ("dialogue", "summary")),
        ({"text": TEXTS, "input": OTHERS, "output": LABELS}, ("input", "output")),
        ({"words": TEXTS, "sort": LABELS}, ("words", "sort")),
        ({"sort": LABELS, "words": TEXTS}, ("words", "sort")),
        ({"words": TEXTS, "label": OTHERS}, ("words", "label")),
        ({"text": TEXTS, "words": OTHERS}, ("text", "words")),
        ({"text": TEXTS, "sort": LABELS, "idx": list(range(12))}, ("text", "sort")),
    ],
)
def test_certain_guesses(columns: dict[str, list[Any]], wanted: tuple[str, str]) -> None:
    choice = choose_columns(rows(**columns), TaskOptions())
    assert (choice.input, choice.output) == wanted
    assert any(repr(wanted[0]) in each for each in choice.explanation)


def test_half_named() -> None:
    table = rows(a=TEXTS, b=OTHERS, label=LABELS)
    assert choose_columns(table, TaskOptions(input="b")).output == "label"
    assert choose_columns(rows(a=TEXTS, b=OTHERS), TaskOptions(output="a")).input == "b"
    with pytest.raises(DataError, match="--input COLUMN") as caught:
        choose_columns(table, TaskOptions(output="label"))
    assert "--output" not in caught.value.fix


def test_side_columns() -> None:
    table = rows(
        id=list(range(12)), text=TEXTS, label=LABELS, domain=LABELS, group=OTHERS, references=LABELS
    )
    choice = choose_columns(table, TaskOptions())
    assert (choice.id, choice.domain, choice.group) == ("id", "domain", "group")
    assert choice.references is None  # texts, not lists
    repeated = rows(id=[1] * 12, text=TEXTS, label=LABELS)
    assert choose_columns(repeated, TaskOptions()).id is None
    chosen = choose_columns(table, TaskOptions(input="text", output="domain"))
    assert chosen.domain is None


def test_only_the_input_is_asked_for_where_rows_are_answered() -> None:
    with pytest.raises(DataError, match="which column is the input is not certain") as told:
        choose_columns(rows(a=TEXTS, b=TEXTS), TaskOptions(), need_output=False)
    assert told.value.fix == "name it with --input COLUMN"


def test_no_output_needed() -> None:
    choice = choose_columns(rows(text=TEXTS), TaskOptions(), need_output=False)
    assert (choice.input, choice.output) == ("text", "")


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (["yes", "no"] * 6, Kind.CLASSIFICATION),
        ([1, 0] * 6, Kind.CLASSIFICATION),
        ([True, False] * 6, Kind.CLASSIFICATION),
        ([f"label_{i % 151}" for i in range(755)], Kind.CLASSIFICATION),
        ([f"label_{i % 77}" for i in range(160)], Kind.CLASSIFICATION),
        (["Loans, cards", "Pay"] * 6, Kind.CLASSIFICATION),
        (["same"] * 12, Kind.CLASSIFICATION),
        ([["a"], ["a", "b"], ["b", "c"], ["c"]] * 3, Kind.MULTI_LABEL),
        (["a", "a, b", "b,c", "c, a", "a, b, c"] * 3, Kind.MULTI_LABEL),
        ([{"a": i} for i in range(12)], Kind.JSON),
        ([json.dumps({"a": i % 2}) for i in range(12)], Kind.JSON),
        ([json.dumps([i]) for i in range(12)], Kind.JSON),
        ([["x"] * i + [phrase(i)] for i in range(12)], Kind.JSON),
        ([f"{i} apples" for i in range(12)], Kind.SHORT_ANSWER),
        (
            ["one of many words in a long sentence, " + phrase(i) for i in range(12)],
            Kind.GENERATION,
        ),
        ([f"Now your boutique wine number {i}" for i in range(12)], Kind.GENERATION),
    ],
)
def test_kinds(outputs: list[Any], kind: Kind) -> None:
    found, reason = detect_kind(outputs, ["some text"] * len(outputs))
    assert found is kind, reason
    assert reason


def test_answers_inside_the_input_are_short_answers() -> None:
    outputs = [f"the old {phrase(i)}" for i in range(12)]
    inputs = [f"It was {text.upper()} of the town." for text in outputs]
    assert detect_kind(outputs, inputs)[0] is Kind.SHORT_ANSWER


def test_instructions() -> None:
    few = default_instruction(Kind.CLASSIFICATION, ["a", "b"])
    assert few == "Classify the text. Answer with one of: a, b."
    many = default_instruction(Kind.CLASSIFICATION, [str(i) for i in range(21)])
    assert many == "Classify the text. Answer with its category."
    assert "a, b" in default_instruction(Kind.MULTI_LABEL, ["a", "b"])
    answers = ['{"x": 1}', '{"y": 1}']
    assert default_instruction(Kind.JSON, [], answers=answers).endswith("the keys x, y.")
    schema = {"properties": {"z": {}}}
    assert default_instruction(Kind.JSON, [], answers=answers, schema=schema).endswith("keys z.")
    assert "Summarize" in default_instruction(Kind.GENERATION, [], output_column="Summary")
    for kind in Kind:
        assert default_instruction(kind, []).endswith(".")


def test_labels_are_sorted_and_single() -> None:
    assert split_labels("b, a ,b,", ",") == ["a", "b"]
    assert split_labels(["b", "a"], ",") == ["a", "b"]
    assert split_labels('["b", "a"]', ",") == ["a", "b"]
    assert split_labels("b|a", "|") == ["a", "b"]


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", records(12))
    options = TaskOptions(kind=Kind.GENERATION, instruction=" Go. ", metric="chrf", name="mine")
    task = load_task(str(path), options)
    assert (task.spec.kind, task.spec.instruction) == (Kind.GENERATION, "Go.")
    assert (task.spec.metric, task.spec.labels, task.spec.name) == ("chrf", (), "mine")
    assert task.check.kind_explanation == "named by you"
