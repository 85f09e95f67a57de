"""How often is it right? Every row answered, scored by the task's metric, kept one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.predict import Predictor
from tunewise.adaptation.readout import Answer
from tunewise.measure.records import RowResult
from tunewise.task.score import extra_scores, score_row
from tunewise.task.types import Row, TaskSpec

FREE = "free_"


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
    predictor: Predictor, rows: Sequence[Row], spec: TaskSpec, decoding: Decoding
) -> Measured:
    """Answer and score rows.

    Answers under a JSON grammar are measured a second time without it; those scores stand among
    the extra ones, their names beginning with "free_".

    Args:
        predictor: answers.
        rows: at least one.
        spec: gives the metric.
        decoding: the adaptation's own readout.
    """
    inputs = [row.input for row in rows]
    began = time.perf_counter()
    answers = predictor.answers(inputs)
    seconds = time.perf_counter() - began
    results = [_result(answer, row, spec) for answer, row in zip(answers, rows, strict=True)]
    if decoding.mode == "json":
        free = predictor.answers(inputs, replace(decoding, mode="free"))
        results = [
            _with_free(result, _result(answer, row, spec))
            for result, answer, row in zip(results, free, rows, strict=True)
        ]
    some = inputs[:200]
    return Measured(tuple(results), 1000 * seconds / len(rows), predictor.prompt_tokens(some))


def _result(answer: Answer, row: Row, spec: TaskSpec) -> RowResult:
    if answer.text is None:
        return RowResult(row.id, None, 0.0, failure=answer.failure)
    return RowResult(
        row.id,
        answer.text,
        score_row(spec.metric, answer.text, row, spec),
        probability=answer.probability,
        extra=extra_scores(answer.text, row, spec),
    )


def _with_free(result: RowResult, free: RowResult) -> RowResult:
    extra = {f"{FREE}{name}": value for name, value in free.extra.items()}
    return replace(result, extra={**result.extra, f"{FREE}score": free.score, **extra})
