"""Load a task: from a source to rows for fitting, locked test rows and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewise.errors import DataError
from tunewise.task import clean
from tunewise.task.check import (
    DataCheck,
    Finding,
    check_labels,
    class_balance,
    labels_of,
    majority_share,
)
from tunewise.task.columns import ColumnChoice, choose_columns
from tunewise.task.hints import answer_hints
from tunewise.task.joined import with_joined_input
from tunewise.task.kind import as_text, default_instruction, detect_kind
from tunewise.task.load import read_source
from tunewise.task.options import TaskOptions
from tunewise.task.readers import Record
from tunewise.task.rows import answered_records, left_out, make_rows
from tunewise.task.score import DEFAULT_METRIC, metric_for
from tunewise.task.split import complete_splits
from tunewise.task.types import FitView, Kind, LockedTest, Row, TaskSpec
from tunewise.task.warnings import make_warnings

FEWEST_ROWS = 8
_LABELLED = (Kind.CLASSIFICATION, Kind.MULTI_LABEL)


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task ready to be fitted and measured.

    Attributes:
        spec: what is asked.
        fit_view: rows for fitting and choosing.
        test: the locked test rows.
        check: what was found in the data.
        data_hash: SHA-256 of the fit view's content, in hexadecimal digits.
    """

    spec: TaskSpec
    fit_view: FitView
    test: LockedTest
    check: DataCheck
    data_hash: str


def load_task(source: str, options: TaskOptions) -> LoadedTask:
    """Load, clean and split a task.

    Args:
        source: as `task.load.read_source` takes it.
        options: what the user said about the data.

    Raises:
        DataError: the data cannot be used; row, found and fix are named.
        ConfigError: the metric does not fit the kind.
        UnavailableError: a data set of the Hub cannot be reached.
    """
    splits = with_joined_input(read_source(source), options)
    records = [record for part in splits.values() for record in part]
    _check_count(len(records), "")
    columns = choose_columns(records, options)
    answered, unanswered = answered_records(splits, columns, every=options.require_answers)
    kind, why = _kind(answered, columns, options)
    metric = metric_for(options.metric or DEFAULT_METRIC[kind], kind).name
    rows = make_rows(splits, columns, kind, options, options.json_schema)
    filled, empty = clean.drop_empty(rows)
    single, duplicates = clean.drop_duplicates(filled)
    left = sum(len(part) for part in single.values())
    gone = f"{empty.count + unanswered.count} empty and {duplicates.count} repeated ones"
    _check_count(left, f" after {gone} are gone")
    everything = [row for part in single.values() for row in part]
    contradictory = _contradictions(everything, kind)
    spec = _spec(source, everything, kind, metric, columns, options)
    if kind in _LABELLED and len(spec.labels) < 2:
        check_labels({"train": everything}, spec)
    split, origins = complete_splits(single, kind, options)
    split, within, across = clean.remove_near_duplicates(split, options.near_duplicate_similarity)
    _check_left(split, across)
    check_labels(split, spec)
    balance = class_balance(split, kind)
    after = {name: len(part) for name, part in split.items()}
    share = majority_share(balance, after["train"])
    said = (left_out(unanswered), *answer_hints(spec, everything, columns.output))
    warned = make_warnings(balance, share, after, across, contradictory)
    check = DataCheck(
        source=source,
        kind=kind,
        kind_explanation=why,
        column_explanations=columns.explanation,
        split_explanations=origins,
        rows_before={name: len(part) for name, part in splits.items()},
        rows_after=after,
        empty=empty,
        unanswered=unanswered,
        duplicates=duplicates,
        near_duplicates_within=within,
        near_duplicates_across=across,
        contradictory=contradictory,
        class_balance=balance,
        majority_share=share,
        warnings=tuple(filter(None, (*said, *warned))),
    )
    view = FitView(spec, tuple(split["train"]), tuple(split["validation"]))
    return LoadedTask(spec, view, LockedTest(tuple(split["test"])), check, hash_view(view))


def rows_from(
    source: str,
    options: TaskOptions,
    spec: TaskSpec,
    *,
    need_output: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Row, ...]:
    """Rows for measuring or predicting with an adaptation that exists.

    Args:
        source: as `task.load.read_source` takes it; of several splits the test rows are taken
            where there are any, else all rows.
        options: which columns to read.
        spec: of the adaptation; gives kind, labels and schema.
        need_output: False where the rows are only to be answered; a missing output is then "", and
            a row without input stays, so that answers can be laid beside the rows of the file.
        say: is told which rows are left out for want of an answer, where one is needed.

    Raises:
        DataError: the rows cannot be used, or have a label that the adaptation does not know.
    """
    splits = with_joined_input(read_source(source), options)
    if splits.get("test"):
        splits = {"test": splits["test"]}
    records = [record for part in splits.values() for record in part]
    columns = choose_columns(records, options, need_output=need_output)
    if need_output:
        _, unanswered = answered_records(splits, columns, every=options.require_answers)
        if unanswered.count:
            say(left_out(unanswered))
    made = make_rows(splits, columns, spec.kind, options, spec.schema)
    rows = tuple(
        row
        for part in made.values()
        for row in part
        if not need_output or (row.input and row.output)
    )
    if not any(row.input for row in rows):
        raise DataError(
            f"{source} has no row that can be used",
            found=f"{len(records)} rows, all with an empty input or output",
            expected="at least one row",
            fix="check the columns",
        )
    if need_output and spec.kind in _LABELLED:
        _check_known(rows, spec)
    return rows


def hash_view(view: FitView) -> str:
    """SHA-256 of ids, inputs, answers and the spec, in hexadecimal digits.

    Args:
        view: rows for fitting and choosing.
    """
    spec = view.spec
    content = {
        "spec": {
            "kind": str(spec.kind),
            "instruction": spec.instruction,
            "labels": spec.labels,
            "metric": spec.metric,
            "schema": None if spec.schema is None else dict(spec.schema),
        },
        "train": [[row.id, row.input, row.output, row.references] for row in view.train],
        "validation": [[row.id, row.input, row.output, row.references] for row in view.validation],
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _contradictions(rows: Sequence[Row], kind: Kind) -> Finding:
    # One input may well have several good texts.
    return clean.find_contradictions(rows) if kind in (*_LABELLED, Kind.JSON) else Finding()


def _check_count(count: int, when: str) -> None:
    if count < FEWEST_ROWS:
        raise DataError(
            f"fewer than {FEWEST_ROWS} rows{when}",
            found=f"{count} row{'s' if count != 1 else ''}",
            expected=f"at least {FEWEST_ROWS}",
            fix="add rows",
        )


def _check_left(splits: Mapping[str, Sequence[Row]], across: Finding) -> None:
    for name, rows in splits.items():
        if not rows:
            raise DataError(
                f"no {name} rows are left",
                found=f"{across.count} rows were near-duplicates of rows in other splits, such as "
                f"{across.examples[0] if across.examples else 'none'}",
                expected=f"at least one {name} row that the other splits do not repeat",
                fix="add rows, or raise near_duplicate_similarity if these are no duplicates",
            )


def _kind(
    records: Sequence[Record], columns: ColumnChoice, options: TaskOptions
) -> tuple[Kind, str]:
    if options.kind is not None:
        return options.kind, "named by you"
    if options.json_schema is not None:
        return Kind.JSON, "a JSON schema is given"
    outputs = [record.values[columns.output] for record in records]
    inputs = [as_text(record.values.get(columns.input) or "") for record in records]
    return detect_kind(outputs, inputs, options.label_separator)


def _spec(
    source: str,
    rows: Sequence[Row],
    kind: Kind,
    metric: str,
    columns: ColumnChoice,
    options: TaskOptions,
) -> TaskSpec:
    labels = tuple(sorted({label for row in rows for label in labels_of(row, kind)}))
    labels = labels if kind in _LABELLED else ()
    instruction = options.instruction
    if instruction is None:
        instruction = default_instruction(
            kind,
            labels,
            output_column=columns.output,
            answers=[row.output for row in rows],
            schema=options.json_schema,
        )
    name = options.name or Path(source.split(":")[-1]).stem or "task"
    return TaskSpec(name, kind, instruction.strip(), labels, metric, options.json_schema)


def _check_known(rows: Sequence[Row], spec: TaskSpec) -> None:
    known = set(spec.labels)
    for row in rows:
        unknown = [label for label in labels_of(row, spec.kind) if label not in known]
        if unknown:
            raise DataError(
                f"{row.origin} has a label that the adaptation does not know",
                found=repr(unknown[0]),
                expected=f"one of {', '.join(spec.labels[:20])}",
                fix="correct the label or remove the row",
            )
