"""From the fits of one method to its entry: seeds joined, slices scored, its role judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunewise.compare.contract import Entry, FitWork, Role, Score, SliceScore
from tunewise.errors import RunError
from tunewise.measure.records import FitRecord, RowResult
from tunewise.numerics.intervals import mean_interval, rows_worth_one
from tunewise.task.types import Kind, Row, TaskSpec, clusters_of

# From cheapest to keep and run to dearest; a bundle costs as much as its dearest part.
COST_LADDER = (
    "shallow_model",
    "prompt_text",
    "virtual_tokens",
    "kv_prefix",
    "low_rank",
    "weights",
)
SHALLOW_PART = "shallow_model"
PROMPT_PART = "prompt_text"
# How much another seed moves a trained method's score where it has one fit, which cannot tell:
# standard deviation, pooled over eight trained entries of docs/results.md with three seeds each,
# whose fits took so many forward passes and more. Shorter fits differ by more: nine pairs with
# 7,700 by 3.0 points (benchmarks/aa.json), which is the inverse cube root. A prompt is kept as the
# text it is; numbers are trained again whenever the data change.
SEED_DEVIATION, SEED_PASSES = 0.015, 50_000
_MOST_DEVIATION = 0.06
# A row of a slice, and its score under one seed; all rows under the first seed, then the next.
_Slice: TypeAlias = list[tuple[Row, float]]
# Fewer optimizer steps than this end soon after the warm-up.
FEW_STEPS = 16


def rung(parts: Iterable[str]) -> int:
    """How far up the cost ladder these parts stand; without parts, where the plain prompt does."""
    return max((COST_LADDER.index(part) for part in parts), default=COST_LADDER.index(PROMPT_PART))


def cost_order(entry: Entry) -> tuple[int, float, int, float, str]:
    """Sort key from cheapest to dearest to run: ladder, prompt tokens, bytes, fit work, name."""
    return (
        rung(entry.parts),
        entry.prompt_tokens_per_request,
        entry.bytes_on_disk,
        entry.fit.flops,
        entry.method,
    )


def table_order(entry: Entry) -> tuple[float, tuple[int, float, int, float, str]]:
    """Sort key of the table: highest test score first, then cheaper first."""
    return (-entry.test.value, cost_order(entry))


def hardly_trained(entries: Iterable[Entry]) -> dict[str, int]:
    """Optimizer steps of the entries that ended soon after their warm-up, by method."""
    taken = {each.method: each.notes.get("steps") for each in entries if each.role is Role.TRAINED}
    return {name: steps for name, steps in taken.items() if steps is not None and steps < FEW_STEPS}


def unseen_deviation(entry: Entry) -> float:
    """What the run could not see of how the seed moves an entry's score; a standard deviation.

    The entry's own fits count: a climb fits most methods with one of the seeds asked for.
    """
    if len(entry.seeds) > 1 or entry.role is not Role.TRAINED:
        return 0.0
    shorter = max(1.0, SEED_PASSES / max(1.0, entry.fit.forward_tokens))
    return min(SEED_DEVIATION * float(np.cbrt(shorter)), _MOST_DEVIATION)


def score_matrix(results: Sequence[Sequence[RowResult]], what: str) -> NDArray[np.float64]:
    """Scores (S seeds, n rows) of the same rows in the same order.

    Raises:
        RunError: the seeds answered different rows.
    """
    first = [result.id for result in results[0]]
    for line in results[1:]:
        if [result.id for result in line] != first:
            raise RunError(
                f"the seeds of {what} were measured on different rows",
                found=f"{len(first)} and {len(line)} rows",
                expected="the same rows in the same order",
            )
    return np.array([[result.score for result in line] for line in results], dtype=np.float64)


def join_seeds(spec: TaskSpec, records: Sequence[FitRecord], rows: Mapping[str, Row]) -> Entry:
    """One method's entry; its role is judged later, beside the others.

    Args:
        spec: what was asked.
        records: of one method, one per seed, at least one.
        rows: the test rows by id.
    """
    ordered = sorted(records, key=lambda record: record.seed)
    chosen = chosen_first(records)[0]
    tests = [record.test for record in ordered]
    validations = [record.validation for record in ordered if record.validation]
    answers = {result.answer for line in tests for result in line if not result.failure}
    return Entry(
        method=chosen.method,
        parts=chosen.parts,
        role=Role.TRAINED,
        adaptation=chosen.adaptation,
        chosen_seed=chosen.seed,
        settings=chosen.settings,
        notes=chosen.notes,
        seeds=tuple(record.seed for record in ordered),
        test=_score(spec.metric, tests, chosen.method, clusters_of([rows[r.id] for r in tests[0]])),
        validation=_validation(spec.metric, validations, chosen.method),
        fit=_work(ordered),
        bytes_on_disk=chosen.bytes_on_disk,
        prompt_tokens_per_request=float(chosen.prompt_tokens_per_request),
        milliseconds_per_row=float(np.mean([record.milliseconds_per_row for record in ordered])),
        seed_values=tuple(_mean(line) for line in tests),
        distinct_answers=len(answers),
        extra=_extra_means(tests),
        by_label=_by_label(spec, tests, rows),
        by_domain=_by_domain(tests, rows),
        curve={str(record.seed): record.curve for record in ordered if record.curve},
    )


def chosen_first(records: Sequence[FitRecord]) -> list[FitRecord]:
    """The fits of one method, the one that is kept first: best on validation rows, ties to the
    lowest seed; then the others by seed.
    """
    ordered = sorted(records, key=lambda record: record.seed)
    chosen = max(ordered, key=lambda record: (_mean(record.validation), -record.seed))
    return [chosen, *(record for record in ordered if record is not chosen)]


def with_roles(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with their roles, in the same order.

    The untouched base is the prompt-only entry that cost least to find (none of the others that
    show no examples cost less), where it changed no number.
    """
    plain = [entry for entry in entries if _only_prompt(entry) and not _shows_examples(entry)]
    untouched = min(
        plain,
        key=lambda entry: (entry.fit.forward_tokens, entry.prompt_tokens_per_request),
        default=None,
    )
    return [replace(entry, role=_role(entry, entry is untouched)) for entry in entries]


def _role(entry: Entry, untouched: bool) -> Role:
    """What one entry stands for."""
    if SHALLOW_PART in entry.parts:
        alone = entry.distinct_answers <= 1 and entry.test.n > 1
        return Role.CONSTANT if alone else Role.SHALLOW
    if not _only_prompt(entry):
        return Role.TRAINED
    return Role.UNTOUCHED if untouched else Role.PROMPT


def _only_prompt(entry: Entry) -> bool:
    """Whether the base was left alone and only text was put before the row."""
    only_text = all(part == PROMPT_PART for part in entry.parts)
    return only_text and entry.fit.trainable_parameters == 0 and entry.fit.backward_tokens == 0


def _shows_examples(entry: Entry) -> bool:
    """Whether the prompt shows demonstrations.

    The fit may tell (`demonstrations` in its notes: a count or a list); where it does not, a
    setting of that name says that showing them is what the method does.
    """
    told = entry.notes.get("demonstrations", "demonstrations" in entry.settings)
    return bool(len(told) if isinstance(told, (list, tuple)) else told)


def _mean(results: Sequence[RowResult]) -> float:
    """Mean score; 0 where there are no rows."""
    return float(np.mean([result.score for result in results])) if results else 0.0


def _score(
    metric: str,
    results: Sequence[Sequence[RowResult]],
    method: str,
    clusters: Sequence[str] | None = None,
) -> Score:
    """Mean over seeds and rows with its interval."""
    found = mean_interval(score_matrix(results, method), clusters=clusters)
    failed = sum(bool(result.failure) for line in results for result in line)
    return Score(metric, found.value, found.low, found.high, len(results[0]), failed)


def _validation(metric: str, results: Sequence[Sequence[RowResult]], method: str) -> Score | None:
    """Where validation rows were answered; their groups stand in the results."""
    return _score(metric, results, method, clusters_of(results[0])) if results else None


def _work(records: Sequence[FitRecord]) -> FitWork:
    """Means over the seeds, the maximum for memory."""

    def mean(read: Callable[[FitRecord], float]) -> float:
        return float(np.mean([read(record) for record in records]))

    return FitWork(
        seconds=mean(lambda record: record.seconds),
        forward_tokens=mean(lambda record: record.forward_tokens),
        backward_tokens=mean(lambda record: record.backward_tokens),
        flops=mean(lambda record: record.flops),
        peak_bytes=max(record.peak_bytes for record in records),
        trainable_parameters=max(record.trainable_parameters for record in records),
    )


def _extra_means(results: Sequence[Sequence[RowResult]]) -> dict[str, float]:
    """Mean of every further score over the rows that have it."""
    found: dict[str, list[float]] = {}
    for line in results:
        for result in line:
            for name, value in result.extra.items():
                found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sorted(found.items())}


def _by_label(
    spec: TaskSpec, results: Sequence[Sequence[RowResult]], rows: Mapping[str, Row]
) -> dict[str, SliceScore] | None:
    """Recall per label: of the rows that have it, the share that were answered with it."""
    if spec.kind not in (Kind.CLASSIFICATION, Kind.MULTI_LABEL):
        return None
    hits: dict[str, _Slice] = {label: [] for label in spec.labels}
    for line in results:
        for result in line:
            given, row = _labels(result.answer, spec.kind), rows[result.id]
            for label in _labels(row.output, spec.kind):
                hits.setdefault(label, []).append((row, float(label in given)))
    return _slices(hits, len(results))


def _labels(answer: str | None, kind: Kind) -> set[str]:
    """The labels in an answer, as it was read out."""
    if answer is None:
        return set()
    parts = answer.split(",") if kind is Kind.MULTI_LABEL else [answer]
    return {part.strip() for part in parts if part.strip()}


def _by_domain(
    results: Sequence[Sequence[RowResult]], rows: Mapping[str, Row]
) -> dict[str, SliceScore] | None:
    """Mean score per domain, where rows name one."""
    scores: dict[str, _Slice] = {}
    for line in results:
        for result in line:
            row = rows[result.id]
            if row.domain is not None:
                scores.setdefault(row.domain, []).append((row, result.score))
    return _slices(dict(sorted(scores.items())), len(results)) if scores else None


def _slices(values: Mapping[str, _Slice], seeds: int) -> dict[str, SliceScore]:
    """Means of the slices that have rows."""
    return {name: _slice(each, seeds) for name, each in values.items() if each}


def _slice(told: _Slice, seeds: int) -> SliceScore:
    """The mean over seeds and rows; `n` counts rows, not rows times seeds."""
    values = np.array([value for _, value in told])
    count = len(told) // seeds
    clusters = clusters_of([row for row, _ in told[:count]])
    if clusters is None:
        return SliceScore(float(values.mean()), count)
    worth_one = rows_worth_one(values.reshape(seeds, count).mean(axis=0), clusters)
    return SliceScore(float(values.mean()), count, len(set(clusters)), worth_one)
