"""Records to rows: answers in their one form, ids that are unique, faults with their place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.errors import DataError
from tunewise.task.check import EXAMPLES, Finding
from tunewise.task.columns import ColumnChoice
from tunewise.task.kind import as_text, split_labels
from tunewise.task.metrics import parse_json
from tunewise.task.options import TaskOptions
from tunewise.task.readers import Record
from tunewise.task.types import Kind, Row

_SHOWN = 5


def is_missing(value: Any) -> bool:
    """Whether a cell holds no answer: nothing, white space, or the NaN of a data frame.

    Args:
        value: as it stands in the data.
    """
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def answered_records(
    splits: Mapping[str, Sequence[Record]], columns: ColumnChoice, *, every: bool = False
) -> tuple[list[Record], Finding]:
    """The records that have an answer, and those that have none.

    A few are left out by whoever makes rows of the records. Where most of a split have none, it is
    rather the wrong column, or a test set whose answers are kept secret.

    Args:
        splits: records by split.
        columns: the chosen columns.
        every: whether a single one without an answer is refused.

    Raises:
        DataError: naming the first of them; one is refused, or most of a split have none.
    """
    answered: list[Record] = []
    missing: list[str] = []
    for split, records in splits.items():
        without = [each.origin for each in records if is_missing(each.values.get(columns.output))]
        if without and (every or 2 * len(without) > len(records)):
            raise _without_answers(split, without, len(records), columns.output, every=every)
        missing += without
        answered += [each for each in records if not is_missing(each.values.get(columns.output))]
    return answered, Finding(len(missing), tuple(missing[:EXAMPLES]))


def _without_answers(
    split: str, without: Sequence[str], count: int, column: str, *, every: bool
) -> DataError:
    where = "the data" if split == "all" else f"the {split} split"
    more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
    instead = "or leave out --require-answers, and these rows with it"
    if not every:
        instead = "or name the column that holds the answers with --output"
        if split != "all":
            instead += f", or remove the {split} file: a share of the others then takes its place"
    return DataError(
        f"output missing in {without[0]}"
        if every
        else f"most rows of {where} have no answer, output missing in {without[0]}",
        found=f"no value in column {column!r} in {len(without):,} of {count:,} rows: "
        f"{', '.join(without[:_SHOWN])}{more}",
        expected="an answer in every row" if every else "an answer in at least half of the rows",
        fix=f"fill in the answers, {instead}",
    )


def left_out(unanswered: Finding) -> str:
    """What is said of rows without an answer that are left out; empty where there are none.

    Args:
        unanswered: as `answered_records` finds them.
    """
    if not unanswered.count:
        return ""
    one = unanswered.count == 1
    more = unanswered.count - len(unanswered.examples)
    shown = ", ".join(unanswered.examples) + (f" and {more:,} more" if more else "")
    return (
        f"{unanswered.count:,} row{' has' if one else 's have'} no answer and "
        f"{'is' if one else 'are'} left out: {shown}; if an empty answer means something, write it "
        "as a word such as none"
    )


def make_rows(
    splits: Mapping[str, Sequence[Record]],
    columns: ColumnChoice,
    kind: Kind,
    options: TaskOptions,
    schema: Mapping[str, Any] | None = None,
) -> dict[str, list[Row]]:
    """Rows by split, in the order of the data.

    Args:
        splits: records by split.
        columns: the chosen columns; an empty output column gives rows without answers.
        kind: what an answer is; it gives the one form of answers.
        options: the label separator.
        schema: JSON schema that JSON answers must meet.

    Raises:
        DataError: an answer cannot be read, does not meet the schema, or an id occurs twice.
    """
    validator = _validator(schema) if kind is Kind.JSON else None
    rows: dict[str, list[Row]] = {}
    seen: dict[str, str] = {}
    for split, records in splits.items():
        stem = "row" if split == "all" else split
        rows[split] = []
        for number, record in enumerate(records, start=1):
            value = record.values.get(columns.id) if columns.id else None
            name = f"{stem}-{number}" if value is None else as_text(value)
            if name in seen:
                raise DataError(
                    f"the id {name!r} occurs twice",
                    found=f"in {seen[name]} and {record.origin}",
                    expected=f"a different value of {columns.id!r} in every row",
                    fix="correct the ids, or name no id column",
                )
            seen[name] = record.origin
            rows[split].append(_row(record, name, columns, kind, options, validator))
    return rows


def _row(
    record: Record,
    name: str,
    columns: ColumnChoice,
    kind: Kind,
    options: TaskOptions,
    validator: Any,
) -> Row:
    values = record.values
    output = ""
    references: tuple[str, ...] = ()
    if columns.output:
        raw = values.get(columns.output)
        output = canonical_answer(raw, kind, options.label_separator, record.origin)
        if validator is not None and output:
            _check_schema(validator, output, record.origin)
        others = _references(values.get(columns.references)) if columns.references else []
        further = [
            canonical_answer(o, kind, options.label_separator, record.origin) for o in others
        ]
        references = tuple(dict.fromkeys((output, *(each for each in further if each))))
    text = values.get(columns.input)
    return Row(
        id=name,
        input="" if text is None else as_text(text),
        output=output,
        references=references,
        domain=_optional(values, columns.domain),
        group=_optional(values, columns.group),
        origin=record.origin,
    )


def canonical_answer(value: Any, kind: Kind, separator: str, origin: str) -> str:
    """An answer in its one form.

    Args:
        value: as it stands in the data.
        kind: labels are sorted and joined by ", "; JSON is written with ", " and ": ".
        separator: text between the labels of one answer.
        origin: the place, for messages.

    Raises:
        DataError: JSON that does not parse, or a label that holds a comma.
    """
    if is_missing(value):
        return ""
    if kind is Kind.MULTI_LABEL:
        labels = split_labels(value, separator)
        commas = [label for label in labels if "," in label]
        if commas:
            raise DataError(
                f"a label in {origin} holds a comma",
                found=repr(commas[0]),
                expected="labels without commas: answers join labels by commas",
                fix="write the label without the comma",
            )
        return ", ".join(labels)
    text = as_text(value)
    if kind is not Kind.JSON or not text:
        return text
    valid, parsed = parse_json(text)
    if not valid:
        raise DataError(
            f"the output in {origin} is not JSON",
            found=repr(text if len(text) <= 80 else f"{text[:80]}..."),
            expected="a JSON value in every row of a task of kind json",
            fix="correct this row, or set --kind if the answers are no JSON",
        )
    return json.dumps(parsed, ensure_ascii=False, separators=(", ", ": "))


def _references(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str) and value.strip().startswith("["):
        valid, parsed = parse_json(value)
        value = parsed if valid else value
    return list(value) if isinstance(value, list) else [value]


def _optional(values: Mapping[str, Any], column: str | None) -> str | None:
    value = values.get(column) if column else None
    return None if value is None else as_text(value)


def _validator(schema: Mapping[str, Any] | None) -> Any:
    if schema is None:
        return None
    from jsonschema.validators import validator_for

    return validator_for(dict(schema))(dict(schema))


def _check_schema(validator: Any, output: str, origin: str) -> None:
    fault = next(iter(validator.iter_errors(json.loads(output))), None)
    if fault is not None:
        raise DataError(
            f"the output in {origin} does not meet the JSON schema",
            found=f"at {fault.json_path}: {fault.message}",
            expected=f"what the schema says at {'/'.join(map(str, fault.absolute_schema_path))}",
            fix="correct this row or the schema",
        )
