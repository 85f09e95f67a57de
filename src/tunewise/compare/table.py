"""From fit records to the comparison: one entry per method, pairs on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunewise.compare.contract import Comparison, ReportDetails, RunContext
from tunewise.measure.records import FitRecord, SkippedMethod
from tunewise.task.types import Row, TaskSpec


def build_comparison(
    spec: TaskSpec,
    records: Sequence[FitRecord],
    skipped: Sequence[SkippedMethod],
    context: RunContext,
    rows: Mapping[str, Row],
) -> Comparison:
    """The table, its pairs and the recommendation.

    Args:
        spec: what was asked.
        records: one per method and seed, with the results on the same test rows in each.
        skipped: methods that could not run.
        context: what the run was.
        rows: the test rows by id, for scores per label and per domain.

    Raises:
        RunError: no record at all, a method's seed twice, or records on different test rows.
    """
    raise NotImplementedError


def gather_details(
    comparison: Comparison,
    records: Sequence[FitRecord],
    rows: Sequence[Row],
    data_check: Mapping[str, object],
) -> ReportDetails:
    """The answers of each method's chosen seed, beside the rows, for the report."""
    raise NotImplementedError
