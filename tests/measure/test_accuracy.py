"""Accuracy against counting by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.readout import Answer
from tunewise.measure.accuracy import measure_rows
from tunewise.task.types import Kind, Row, TaskSpec

SPEC = TaskSpec("t", Kind.CLASSIFICATION, "Say.", ("no", "yes"), "accuracy")
GIVEN = ("yes", "no", "no", "yes", None, "yes")
RIGHT = ("yes", "no", "yes", "no", "no", "yes")


class Told:
    """Answers what it was told, in order; free answers may differ."""

    def __init__(self, answers: Sequence[Answer], free: Sequence[Answer] = ()) -> None:
        self.told, self.free, self.asked = list(answers), list(free), 0

    def answers(self, inputs: Sequence[str], decoding: Decoding | None = None) -> list[Answer]:
        """The answers, and how many inputs were asked."""
        self.asked += len(inputs)
        return self.told if decoding is None else self.free

    def prompt_tokens(self, inputs: Sequence[str]) -> float:
        """As many as inputs are shown."""
        return float(len(inputs))


def rows(outputs: Sequence[str]) -> list[Row]:
    """Rows with these answers."""
    return [Row(f"r{n}", f"text {n}", out, (out,)) for n, out in enumerate(outputs)]


def test_accuracy_is_what_counting_gives() -> None:
    answers = [
        Answer(None, failure="too long") if text is None else Answer(text, 0.75) for text in GIVEN
    ]
    predictor = Told(answers)
    measured = measure_rows(predictor, rows(RIGHT), SPEC, Decoding("score"))
    assert [result.score for result in measured.results] == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert [result.id for result in measured.results] == [f"r{n}" for n in range(6)]
    assert [result.answer for result in measured.results] == list(GIVEN)
    failed = measured.results[4]
    assert (failed.failure, failed.probability) == ("too long", None)
    assert measured.results[0].probability == 0.75
    assert predictor.asked == 6  # once
    assert measured.milliseconds_per_row >= 0
    assert measured.prompt_tokens_per_request == 6


def test_results_carry_the_group_of_their_row() -> None:
    some = [replace(row, group=f"text {at}") for at, row in enumerate(rows(RIGHT))]
    some[1] = replace(some[1], group=None)
    answers = [Answer(None, failure="too long") if text is None else Answer(text) for text in GIVEN]
    measured = measure_rows(Told(answers), some, SPEC, Decoding("score"))
    assert [result.group for result in measured.results] == [row.group for row in some]


def test_json_is_scored_with_and_without_its_grammar() -> None:
    spec = TaskSpec("t", Kind.JSON, "Say.", (), "json_exact", None)
    constrained = [Answer('{"a": 1}'), Answer('{"a": 1}')]
    free = [Answer('{"a": 1}'), Answer("a is one")]
    measured = measure_rows(
        Told(constrained, free), rows(['{"a": 1}', '{"a": 2}']), spec, Decoding("json")
    )
    first, second = measured.results
    assert (first.score, second.score) == (1.0, 0.0)
    assert (first.extra["free_score"], second.extra["free_score"]) == (1.0, 0.0)
    assert (first.extra["free_valid_json"], second.extra["free_valid_json"]) == (1.0, 0.0)
    assert (first.extra["valid_json"], second.extra["valid_json"]) == (1.0, 1.0)


@pytest.mark.parametrize("count", [2, 5])
def test_another_number_of_answers_is_no_measurement(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        measure_rows(Told([Answer("yes")] * count), rows(RIGHT[:3]), SPEC, Decoding("score"))


def test_rows_are_asked_for_in_pieces_and_every_piece_is_told() -> None:
    outputs = ["yes" if n % 3 else "no" for n in range(150)]
    asked = [Row(f"r{n}", "x" * (n % 40), out, (out,)) for n, out in enumerate(outputs)]
    pieces: list[int] = []

    class Echo:
        """Answers with the length of the input."""

        def answers(self, inputs: Sequence[str], decoding: Decoding | None = None) -> list[Answer]:
            pieces.append(len(inputs))
            return [Answer(str(len(text))) for text in inputs]

        def prompt_tokens(self, inputs: Sequence[str]) -> float:
            return 0.0

    told: list[tuple[int, int]] = []
    measured = measure_rows(
        Echo(), asked, SPEC, Decoding("score"), lambda done, total: told.append((done, total))
    )
    assert [result.answer for result in measured.results] == [str(n % 40) for n in range(150)]
    assert pieces == [64, 64, 22]
    assert told == [(64, 150), (128, 150), (150, 150)]
