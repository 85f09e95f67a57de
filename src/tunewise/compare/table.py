"""From fit records to the comparison: one entry per method, pairs on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from tunewise.compare.contract import (
    BaseFacts,
    Comparison,
    Entry,
    Pair,
    ReportDetails,
    RunContext,
)
from tunewise.compare.entries import (
    join_seeds,
    score_matrix,
    table_order,
    unseen_deviation,
    with_roles,
)
from tunewise.compare.priorities import Priorities
from tunewise.compare.recommend import recommend
from tunewise.errors import RunError
from tunewise.measure.evidence import Evidence
from tunewise.measure.records import FitRecord, SkippedMethod
from tunewise.numerics.pairs import holm, paired_difference
from tunewise.task.types import Row, TaskSpec, clusters_of


def build_comparison(
    spec: TaskSpec,
    records: Sequence[FitRecord],
    skipped: Sequence[SkippedMethod],
    context: RunContext,
    rows: Mapping[str, Row],
    priorities: Priorities | None = None,
) -> Comparison:
    """The table, its pairs and the recommendation.

    Args:
        spec: what was asked.
        records: one per method and seed, with the results on the same test rows in each.
        skipped: methods that could not run.
        context: what the run was.
        rows: the test rows by id, for scores per label and per domain.
        priorities: what matters; None for nothing in particular.

    Raises:
        RunError: no record at all, a method's seed twice, or records on different test rows.
    """
    _check(records, skipped, rows)
    by_method: dict[str, list[FitRecord]] = {}
    for record in records:
        by_method.setdefault(record.method, []).append(record)
    joined = with_roles([join_seeds(spec, fits, rows) for fits in by_method.values()])
    entries = tuple(sorted(joined, key=table_order))
    clusters = clusters_of([rows[result.id] for result in records[0].test])
    pairs = _pairs(entries, by_method, clusters)
    return Comparison(
        task=spec,
        context=context,
        entries=entries,
        pairs=pairs,
        skipped=tuple(skipped),
        recommendation=recommend(entries, pairs, priorities, (), base_bytes(context.base)),
    )


def with_evidence(
    comparison: Comparison, evidence: Sequence[Evidence], priorities: Priorities | None = None
) -> Comparison:
    """The comparison with what was asked afterwards, and the recommendation in its light.

    Args:
        comparison: of the same run.
        evidence: the questions and their answers.
        priorities: what matters; None for nothing in particular.
    """
    size = base_bytes(comparison.context.base)
    advice = recommend(comparison.entries, comparison.pairs, priorities, evidence, size)
    return replace(comparison, evidence=tuple(evidence), recommendation=advice)


def base_bytes(base: BaseFacts) -> int:
    """Bytes of the base's weights in memory, in the dtype they compute in."""
    return base.parameters * (4 if base.dtype == "float32" else 2)


def gather_details(
    comparison: Comparison,
    records: Sequence[FitRecord],
    rows: Sequence[Row],
    data_check: Mapping[str, object],
) -> ReportDetails:
    """The answers of each method's chosen seed, beside the rows, for the report.

    Args:
        comparison: made from these records.
        records: as given to `build_comparison`.
        rows: the test rows, in the order in which to show them.
        data_check: what the data check found; JSON values.
    """
    chosen = {entry.method: entry.chosen_seed for entry in comparison.entries}
    answers = {
        record.method: {result.id: result for result in record.test}
        for record in records
        if chosen.get(record.method) == record.seed
    }
    return ReportDetails(tuple(rows), answers, data_check)


def _pairs(
    entries: Sequence[Entry],
    by_method: Mapping[str, Sequence[FitRecord]],
    clusters: Sequence[str] | None,
) -> tuple[Pair, ...]:
    """Every two entries, those with the best first (it leads the table)."""
    scores = {
        method: score_matrix([fit.test for fit in fits], method)
        for method, fits in by_method.items()
    }
    pairs = []
    for a, b in combinations(entries, 2):
        unseen = (unseen_deviation(a), unseen_deviation(b))
        found = paired_difference(
            scores[a.method], scores[b.method], unseen=unseen, clusters=clusters
        )
        pairs.append(
            Pair(
                a=a.method,
                b=b.method,
                difference=found.difference,
                low=found.low,
                high=found.high,
                p_value=found.p_value,
                p_value_holm=None,
                row_deviation=found.row_deviation,
                seed_deviation=found.seed_deviation,
                n=a.test.n,
            )
        )
    with_best = len(entries) - 1
    corrected = holm([pair.p_value for pair in pairs[:with_best]])
    first = [
        replace(pair, p_value_holm=value)
        for pair, value in zip(pairs[:with_best], corrected, strict=True)
    ]
    return (*first, *pairs[with_best:])


def _check(
    records: Sequence[FitRecord], skipped: Sequence[SkippedMethod], rows: Mapping[str, Row]
) -> None:
    """Refuse records that cannot be compared."""
    if not records:
        why = "; ".join(f"{each.method}: {each.reason}" for each in skipped)
        raise RunError("no method could run, so there is nothing to compare", found=why)
    seen: set[tuple[str, int]] = set()
    first = records[0]
    ids = [result.id for result in first.test]
    for record in records:
        key = (record.method, record.seed)
        if key in seen:
            raise RunError(f"two fits of {record.method} with seed {record.seed}")
        seen.add(key)
        found = [result.id for result in record.test]
        if found != ids:
            raise RunError(
                f"{record.method} (seed {record.seed}) and {first.method} (seed {first.seed}) "
                "were measured on different test rows",
                found=f"{len(found)} and {len(ids)} rows, {len(set(found) ^ set(ids))} not in both",
                expected="the same rows in the same order",
            )
    missing = [each for each in ids if each not in rows]
    if not ids or missing:
        what = "a result names a row that is not a test row" if ids else "there are no test rows"
        raise RunError(what, found=", ".join(missing[:3]))
