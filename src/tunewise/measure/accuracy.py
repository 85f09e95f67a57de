"""How often is it right? Every row answered, scored by the task's metric, kept one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.predict import Predictor
from tunewise.adaptation.readout import Answer
from tunewise.measure.records import RowResult
from tunewise.task.score import extra_scores, score_row
from tunewise.task.types import Row, TaskSpec

FREE = "free_"
# Rows between two reports of progress.
PIECE_ROWS = 64
Report: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """Results in the rows' order, and how long answering took.

    Attributes:
        results: one per row.
        milliseconds_per_row: wall-clock, batched, on this machine.
        prompt_tokens_per_request: positions and tokens put around a row's own text, mean.
    """

    results: tuple[RowResult, ...]
    milliseconds_per_row: float
    prompt_tokens_per_request: float


def measure_rows(
    predictor: Predictor,
    rows: Sequence[Row],
    spec: TaskSpec,
    decoding: Decoding,
    report: Report | None = None,
    *,
    free_too: bool = True,
) -> Measured:
    """Answer and score rows.

    Answers under a JSON grammar are measured a second time without it; those scores stand among
    the extra ones, their names beginning with "free_".

    Args:
        predictor: answers.
        rows: at least one.
        spec: gives the metric.
        decoding: the adaptation's own readout.
        report: called as report(rows answered, rows to be answered), or None.
        free_too: whether that second time is wanted.
    """
    inputs = [row.input for row in rows]
    free_too = free_too and decoding.mode == "json"
    told = _Told(report, len(rows) * (2 if free_too else 1))
    began = time.perf_counter()
    answers = _answers(predictor, inputs, None, told)
    seconds = time.perf_counter() - began
    results = [_result(answer, row, spec) for answer, row in zip(answers, rows, strict=True)]
    if free_too:
        free = _answers(predictor, inputs, replace(decoding, mode="free"), told)
        results = [
            _with_free(result, _result(answer, row, spec))
            for result, answer, row in zip(results, free, rows, strict=True)
        ]
    some = inputs[:200]
    return Measured(tuple(results), 1000 * seconds / len(rows), predictor.prompt_tokens(some))


@dataclass(slots=True)
class _Told:
    """How many rows are answered, and who is told."""

    report: Report | None
    total: int
    done: int = 0

    def add(self, rows: int) -> None:
        self.done += rows
        if self.report is not None:
            self.report(self.done, self.total)


def _answers(
    predictor: Predictor, inputs: Sequence[str], decoding: Decoding | None, told: _Told
) -> list[Answer]:
    """Answers in the inputs' order, asked for piece by piece, long inputs first."""
    # Pieces of like lengths, so that cutting pads no more than asking for all at once would.
    order = sorted(range(len(inputs)), key=lambda index: -len(inputs[index]))
    found: dict[int, Answer] = {}
    for begin in range(0, len(order), PIECE_ROWS):
        piece = order[begin : begin + PIECE_ROWS]
        answers = predictor.answers([inputs[index] for index in piece], decoding)
        found.update(zip(piece, answers, strict=True))
        told.add(len(piece))
    return [found[index] for index in range(len(inputs))]


def _result(answer: Answer, row: Row, spec: TaskSpec) -> RowResult:
    if answer.text is None:
        return RowResult(row.id, None, 0.0, failure=answer.failure, group=row.group)
    return RowResult(
        row.id,
        answer.text,
        score_row(spec.metric, answer.text, row, spec),
        probability=answer.probability,
        extra=extra_scores(answer.text, row, spec),
        group=row.group,
    )


def _with_free(result: RowResult, free: RowResult) -> RowResult:
    extra = {f"{FREE}{name}": value for name, value in free.extra.items()}
    return replace(result, extra={**result.extra, f"{FREE}score": free.score, **extra})
