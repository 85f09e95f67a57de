"""Metrics against slow hand computing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from tests.task.samples import row

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.task.score import DEFAULT_METRIC, METRICS, extra_scores, metric_for, score_row
from tunewise.task.types import Kind, TaskSpec


def spec(kind: Kind, **more: Any) -> TaskSpec:
    """A spec of that kind."""
    return TaskSpec("toy", kind, "", (), DEFAULT_METRIC[kind], **more)


def slow_f1(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """F1 by striking out matches one by one."""
    left = list(wanted)
    common = 0
    for each in found:
        if each in left:
            left.remove(each)
            common += 1
    if not found and not wanted:
        return 1.0
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def slow_lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Longest common subsequence by plain recursion."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return slow_lcs(a[:-1], b[:-1]) + 1
    return max(slow_lcs(a[:-1], b), slow_lcs(a, b[:-1]))


@pytest.mark.parametrize(
    ("answer", "label", "score"),
    [
        ("good", "good", 1),
        ("  GOOD ", "good", 1),
        ("goo", "good", 0),
        ("", "good", 0),
        ("a  b", "A b", 1),
    ],
)
def test_accuracy(answer: str, label: str, score: float) -> None:
    assert score_row("accuracy", answer, row("x", label), spec(Kind.CLASSIFICATION)) == score


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("a, b", "a, b"),
        ("b,a", "a, b"),
        ("a", "a, b"),
        ("a, c, d", "a, b"),
        ("", "a"),
        ("A, a", "a"),
    ],
)
def test_label_f1(answer: str, labels: str) -> None:
    found = sorted({part.strip().lower() for part in answer.split(",") if part.strip()})
    wanted = labels.split(", ")
    example = row("x", labels)
    score = score_row("label_f1", answer, example, spec(Kind.MULTI_LABEL))
    assert score == pytest.approx(slow_f1(found, wanted))
    assert extra_scores(answer, example, spec(Kind.MULTI_LABEL)) == {
        "exact": float(found == wanted)
    }


@pytest.mark.parametrize(
    ("answer", "references", "words"),
    [
        ("The Eiffel Tower!", ["Eiffel Tower"], (["eiffel", "tower"], [["eiffel", "tower"]])),
        (
            "a tower in Paris",
            ["Eiffel tower", "in Paris"],
            (["tower", "in", "paris"], [["eiffel", "tower"], ["in", "paris"]]),
        ),
        ("", ["x"], ([], [["x"]])),
        ("x x y", ["x y y"], (["x", "x", "y"], [["x", "y", "y"]])),
        ("308", ["308 points"], (["308"], [["308", "points"]])),
    ],
)
def test_token_f1(
    answer: str, references: list[str], words: tuple[list[str], list[list[str]]]
) -> None:
    example = row("x", references[0], references=tuple(references))
    found, wanted = words
    score = score_row("token_f1", answer, example, spec(Kind.SHORT_ANSWER))
    assert score == pytest.approx(max(slow_f1(found, each) for each in wanted))
    exact = extra_scores(answer, example, spec(Kind.SHORT_ANSWER))["exact_match"]
    assert exact == float(found in wanted)


@pytest.mark.parametrize(
    ("answer", "references"),
    [
        ("the cat sat", ["the cat sat"]),
        ("cat the sat on", ["the cat sat on the mat", "a dog"]),
        ("", ["the cat"]),
        ("nothing shared", ["quite other words"]),
    ],
)
def test_rouge_l(answer: str, references: list[str]) -> None:
    def slow(reference: str) -> float:
        a, b = re.findall(r"\w+", answer), re.findall(r"\w+", reference)
        common = slow_lcs(a, b)
        return 0.0 if common == 0 else 2 * common / (len(a) + len(b))

    example = row("x", references[0], references=tuple(references))
    score = score_row("rouge_l", answer, example, spec(Kind.GENERATION))
    assert score == pytest.approx(max(map(slow, references)))
    chrf = extra_scores(answer, example, spec(Kind.GENERATION))["chrf"]
    assert 0.0 <= chrf <= 1.0
    assert (chrf == pytest.approx(1.0)) == (answer in references)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"a": {"b": 1}, "c": ["x", "y"]}', [("a.b", 1), ("c", "x"), ("c", "y")]),
        ('{"c":["y","x"],"a":{"b":1}}', [("a.b", 1), ("c", "x"), ("c", "y")]),
        ('{"a": {"b": 2}, "c": ["x"]}', [("a.b", 2), ("c", "x")]),
        ('{"a": {"b": "1"}}', [("a.b", "1")]),
        ('{"a": 1, "c": []}', [("a", 1), ("c-empty", 0)]),
        ("[]", [("empty", 0)]),
    ],
)
def test_field_f1(answer: str, found: list[Any]) -> None:
    wanted = [("a.b", 1), ("c", "x"), ("c", "y")]
    output = '{"a": {"b": 1}, "c": ["x", "y"]}'
    score = score_row("field_f1", answer, row("x", output), spec(Kind.JSON))
    assert score == pytest.approx(slow_f1(found, wanted))


@pytest.mark.parametrize("answer", ["", "{", "a", '{"a": }', '{"a": {"b": 1}', "Sure: {}"])
def test_invalid_json_scores_nothing(answer: str) -> None:
    schema = {"type": "object"}
    example = row("x", '{"a": 1}')
    assert score_row("field_f1", answer, example, spec(Kind.JSON)) == 0.0
    extra = extra_scores(answer, example, spec(Kind.JSON, schema=schema))
    assert extra == {"valid_json": 0.0, "schema_valid": 0.0, "exact": 0.0}


def test_json_extras() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    example = row("x", '{"a": 1, "b": 2}')
    with_schema = spec(Kind.JSON, schema=schema)
    good = extra_scores('{"b": 2,"a": 1}', example, with_schema)
    assert good == {"valid_json": 1.0, "schema_valid": 1.0, "exact": 1.0}
    bad = extra_scores('{"a": "1", "b": 2}', example, with_schema)
    assert bad == {"valid_json": 1.0, "schema_valid": 0.0, "exact": 0.0}
    assert "schema_valid" not in extra_scores("{}", example, spec(Kind.JSON))


def test_every_metric_is_one_for_the_answer_itself() -> None:
    outputs = {Kind.JSON: json.dumps({"a": [1, {"b": None}]}), Kind.MULTI_LABEL: "a, b"}
    for metric in METRICS.values():
        for kind in metric.kinds:
            output = outputs.get(kind, "some words here")
            example = row("x", output)
            assert score_row(metric.name, output, example, spec(kind)) == pytest.approx(1.0)
            assert score_row(metric.name, "zzz", example, spec(kind)) < 0.2
            assert all(0 <= v <= 1 for v in extra_scores("zzz", example, spec(kind)).values())


def test_default_metrics_fit_their_kinds() -> None:
    assert set(DEFAULT_METRIC) == set(Kind)
    for kind, name in DEFAULT_METRIC.items():
        assert metric_for(name, kind).name == name


def test_metrics_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="does not fit") as caught:
        score_row("accuracy", "x", row("x", "y"), spec(Kind.GENERATION))
    assert "rouge_l" in caught.value.expected
    with pytest.raises(UnknownNameError, match="rouge_l"):
        score_row("rougeL", "x", row("x", "y"), spec(Kind.GENERATION))
