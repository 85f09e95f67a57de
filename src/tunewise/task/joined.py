"""Several columns as one input: `--input Subject,Body` puts them below one another, each named.

    Subject: My card never arrived
    Body: I ordered it three weeks ago.

What has no value is left out. Whoever sends texts to an adaptation that was fitted so writes them
so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunewise.errors import DataError
from tunewise.task.columns import check_column
from tunewise.task.kind import as_text
from tunewise.task.options import TaskOptions
from tunewise.task.readers import Record


def with_joined_input(
    splits: Mapping[str, list[Record]], options: TaskOptions
) -> dict[str, list[Record]]:
    """The same records; where several columns are named as the input, with one in their place.

    Args:
        splits: records by split.
        options: what the user named. A column whose own name has commas is that column.

    Raises:
        DataError: one of several named columns does not exist, or is the output too.
    """
    columns = list(
        dict.fromkeys(name for part in splits.values() for record in part for name in record.values)
    )
    named = options.input
    pieces = [] if named is None or named in columns else named.split(",")
    parts = list(dict.fromkeys(name.strip() for name in pieces if name.strip()))
    if named is None or len(pieces) < 2 or not parts:
        return dict(splits)
    for part in parts:
        check_column(part, "input", columns)
    if options.output in parts:
        raise DataError(
            "the output is among the columns of the input",
            found=f"--input {named} --output {options.output}",
            expected="different columns",
            fix="leave it out of --input",
        )
    return {
        split: [replace(each, values=_joined(each.values, parts, named)) for each in records]
        for split, records in splits.items()
    }


def _joined(values: Mapping[str, Any], parts: Sequence[str], name: str) -> dict[str, Any]:
    texts = {part: as_text(values[part]) for part in parts if values.get(part) is not None}
    # A single one, as of `--input Body,`, is the text itself.
    lines = [f"{part}: {text}" if len(parts) > 1 else text for part, text in texts.items() if text]
    text = "\n".join(lines)
    rest = {column: value for column, value in values.items() if column not in parts}
    return {name: text or None, **rest}
