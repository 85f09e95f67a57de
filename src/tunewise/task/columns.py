"""Which column is what: named by the user, guessed when certain, refused when not."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunewise.errors import DataError
from tunewise.task.options import TaskOptions
from tunewise.task.readers import Record

# Formatting by hand keeps the names on few lines.
# fmt: off
INPUT_NAMES = frozenset(
    (
        "input", "inputs", "text", "sentence", "review", "question", "prompt", "message",
        "dialogue", "dialog", "document", "article", "content", "utterance", "query", "ticket",
        "comment", "tweet", "email", "body", "description", "source", "feedback", "post",
        "snippet", "passage", "statement", "request", "conversation", "transcript",
    )
)
OUTPUT_NAMES = frozenset(
    (
        "output", "outputs", "label", "labels", "answer", "answers", "category", "categories",
        "intent", "target", "targets", "summary", "completion", "response", "class", "sentiment",
        "topic", "tag", "tags", "highlights", "gold", "reply", "translation",
    )
)
# fmt: on
_ID_NAMES = frozenset(("id", "idx", "index", "uid", "uuid", "guid", "row_id"))
_SIDE_NAMES = ("references", "domain", "group")


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """The columns chosen, and why.

    Attributes:
        input, output: always chosen; `output` is empty only where none is needed.
        references, domain, group, id: None where there is no such column.
        explanation: one sentence for each choice.
    """

    input: str
    output: str
    references: str | None
    domain: str | None
    group: str | None
    id: str | None
    explanation: tuple[str, ...]


def choose_columns(
    records: Sequence[Record], options: TaskOptions, *, need_output: bool = True
) -> ColumnChoice:
    """Choose the columns of a task.

    Args:
        records: all rows.
        options: what the user named.
        need_output: False where the rows are only to be answered.

    Raises:
        DataError: a named column does not exist, or the guess would not be certain.
    """
    columns = list(dict.fromkeys(name for record in records for name in record.values))
    _check_named(columns, options)
    said: list[str] = []
    side = _side_columns(records, columns, options, said)
    taken = {name for name in side.values() if name}
    free = [
        name
        for name in columns
        if name not in taken
        and name.lower() not in _ID_NAMES
        and name not in (options.input, options.output)
    ]
    given_input, given_output = options.input, options.output
    if given_input is not None:
        said.append(f"input is {given_input!r}: named by you")
    if given_output is not None:
        said.append(f"output is {given_output!r}: named by you")
    if given_input is None or (given_output is None and need_output):
        found = _guess(records, free, given_input, given_output, need_output=need_output)
        if found is None:
            raise _uncertain(records, columns, options, need_output=need_output)
        given_input, given_output, why = found
        said.append(why)
    output = given_output or ""
    if given_input == output:
        raise DataError(
            "input and output are the same column",
            found=f"--input {given_input} --output {output}",
            expected="two different columns",
            fix=f"choose among {', '.join(columns)}",
        )
    return ColumnChoice(given_input, output, explanation=tuple(said), **side)


def _check_named(columns: list[str], options: TaskOptions) -> None:
    for role in ("input", "output", "references", "domain", "group", "id"):
        name = getattr(options, role)
        if name is not None:
            check_column(name, role, columns)


def check_column(name: str, role: str, columns: Sequence[str]) -> None:
    """Refuse a name that no column has.

    Args:
        name: as given.
        role: what the column is to be, which is the flag's name.
        columns: that there are.

    Raises:
        DataError: with the names that are close.
    """
    if name in columns:
        return
    folded = {column.lower(): column for column in columns}
    close = difflib.get_close_matches(name.lower(), list(folded), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(folded[match]) for match in close)}?"
    raise DataError(
        f"there is no column {name!r} for --{role}",
        found=f"columns: {', '.join(columns)}",
        expected="the name of a column",
        fix=hint if close else f"use --{role} with one of these columns",
    )


def _side_columns(
    records: Sequence[Record], columns: list[str], options: TaskOptions, said: list[str]
) -> dict[str, str | None]:
    """References, domain, group and id: named, or taken where a column has exactly that name."""
    side: dict[str, str | None] = {}
    for role in _SIDE_NAMES:
        name: str | None = getattr(options, role)
        if name is None and role in columns and role not in (options.input, options.output):
            lists = all(isinstance(r.values.get(role), list | None) for r in records)
            name = role if role != "references" or lists else None
            if name:
                said.append(f"{role} is {role!r}: the column has that name")
        side[role] = name
    side["id"] = options.id
    for name in columns if options.id is None else ():
        if name.lower() in _ID_NAMES and name not in (options.input, options.output):
            values = [str(record.values.get(name)) for record in records]
            if None not in [r.values.get(name) for r in records] and len(set(values)) == len(
                values
            ):
                side["id"] = name
                said.append(f"id is {name!r}: its name says so and no value occurs twice")
                break
    return side


def _guess(
    records: Sequence[Record],
    free: list[str],
    given_input: str | None,
    given_output: str | None,
    *,
    need_output: bool,
) -> tuple[str, str | None, str] | None:
    """Input, output and the reason; None where it is not certain."""
    inputs = _named_like(free, INPUT_NAMES, "input")
    outputs = _named_like(free, OUTPUT_NAMES, "output")
    if given_input is not None:
        rest = [name for name in free if name != given_input]
        answer = outputs[0] if len(outputs) == 1 else rest[0] if len(rest) == 1 else None
        why = f"output is {answer!r}: its name says so, or no other column is left"
        return (given_input, answer, why) if answer else None
    if given_output is not None or not need_output:
        rest = [name for name in free if name != given_output]
        text = inputs[0] if len(inputs) == 1 else rest[0] if len(rest) == 1 else None
        why = f"input is {text!r}: its name says so, or no other column is left"
        return (text, given_output, why) if text else None
    if len(inputs) == 1 and len(outputs) == 1 and inputs != outputs:
        return inputs[0], outputs[0], f"input is {inputs[0]!r}, output is {outputs[0]!r}: by name"
    if len(free) != 2:
        return None
    first, second = free
    if inputs == [first] or outputs == [second]:
        return first, second, f"input is {first!r}, output is {second!r}: one by name, two columns"
    if inputs == [second] or outputs == [first]:
        return second, first, f"input is {second!r}, output is {first!r}: one by name, two columns"
    return _by_distinct(records, first, second)


def _by_distinct(
    records: Sequence[Record], first: str, second: str
) -> tuple[str, str | None, str] | None:
    """Of two columns the one with few distinct values is the output."""
    counts = {
        name: len({str(record.values.get(name)) for record in records}) for name in (first, second)
    }
    text, answer = sorted(counts, key=lambda name: counts[name], reverse=True)
    if counts[answer] * 2 > counts[text]:
        return None
    why = (
        f"input is {text!r}, output is {answer!r}: of two columns it has few distinct values "
        f"({counts[answer]} against {counts[text]})"
    )
    return text, answer, why


def _named_like(free: list[str], names: frozenset[str], exact: str) -> list[str]:
    found = [name for name in free if name.lower() in names]
    return [exact] if exact in found else found


def _uncertain(
    records: Sequence[Record], columns: list[str], options: TaskOptions, *, need_output: bool
) -> DataError:
    wanted = {"input": options.input, "output": options.output if need_output else ""}
    missing = [role for role, given in wanted.items() if given is None]
    examples = "; ".join(f"{name} (such as {_example(records, name)})" for name in columns)
    expected = "a column with a name such as text, or no other column"
    if need_output:
        expected = "columns with names such as text and label, or two columns of which one repeats"
    return DataError(
        f"which column is the {' and which the '.join(wanted if need_output else missing)} is not "
        "certain",
        found=f"columns: {examples}",
        expected=expected,
        fix=f"name {'them' if len(missing) > 1 else 'it'} with "
        f"{' and '.join(f'--{role} COLUMN' for role in missing)}",
    )


def _example(records: Sequence[Record], name: str) -> str:
    values: list[Any] = [r.values.get(name) for r in records if r.values.get(name) is not None]
    if not values:
        return "nothing"
    text = str(values[0])
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
