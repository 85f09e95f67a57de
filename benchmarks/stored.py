"""Runs that lie in a folder, read back: the answers to every row, so that any table can be made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunewise.compare.contract import (
    BaseFacts,
    BudgetFacts,
    Comparison,
    DataFacts,
    MachineFacts,
    RunContext,
)
from tunewise.compare.priorities import Priorities
from tunewise.compare.table import build_comparison
from tunewise.measure.files import read_record
from tunewise.measure.records import FitRecord
from tunewise.task.types import Kind, Row, TaskSpec


@dataclass(frozen=True, slots=True)
class Stored:
    """A finished run.

    Attributes:
        folder: where it lies.
        told: its `comparison.json`.
        spec, context: as of the run.
        records: every fit, with its answers to the test rows.
        rows: the test rows by id, as far as scores need them.
    """

    folder: Path
    told: Mapping[str, Any]
    spec: TaskSpec
    context: RunContext
    records: tuple[FitRecord, ...]
    rows: Mapping[str, Row]

    def comparison(
        self, ids: Sequence[str] | None = None, priorities: Priorities | None = None
    ) -> Comparison:
        """The table on some of the test rows.

        Args:
            ids: of the rows; None for all.
            priorities: what matters.
        """
        return compare(self, self.records, ids, priorities)


def read(folder: Path) -> Stored | None:
    """The run in a folder, or None where it is not finished."""
    path = folder / "comparison.json"
    if not path.exists():
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    records = tuple(
        record
        for each in sorted((folder / "records").glob("*.json"))
        if (record := read_record(each)) is not None
    )
    task = told["task"]
    spec = TaskSpec(
        task["name"],
        Kind(task["kind"]),
        task["instruction"],
        tuple(task["labels"]),
        task["metric"],
        task["schema"],
    )
    context = RunContext(
        base=BaseFacts(**told["base"]),
        budget=BudgetFacts(**told["budget"]),
        data=DataFacts(**told["data"]),
        machine=MachineFacts(**told["machine"]),
        seeds=tuple(told["seeds"]),
        command=told["command"],
        version=told["version"],
        started=told["started"],
        versions=told["versions"],
    )
    # Scores are in the records; the rows' own texts decide nothing here.
    ids = [result.id for result in records[0].test] if records else []
    rows = {each: Row(each, "", "", ("",)) for each in ids}
    return Stored(folder, told, spec, context, records, rows)


def compare(
    run: Stored,
    records: Sequence[FitRecord],
    ids: Sequence[str] | None = None,
    priorities: Priorities | None = None,
) -> Comparison:
    """The table of some records of a run on some of its test rows."""
    if ids is not None:
        kept = set(ids)
        records = [
            replace(each, test=tuple(result for result in each.test if result.id in kept))
            for each in records
        ]
    seeds = tuple(sorted({record.seed for record in records}))
    # Without labels no recall is computed, for which the rows' answers would be needed.
    spec = replace(run.spec, kind=Kind.SHORT_ANSWER, labels=())
    context = replace(run.context, seeds=seeds)
    return build_comparison(spec, records, [], context, run.rows, priorities)
