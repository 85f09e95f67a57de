"""Words on answers that hardly can be what is wanted, or that say nothing to a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunewise.task.check import EXAMPLES
from tunewise.task.kind import default_instruction
from tunewise.task.metrics import folded
from tunewise.task.types import Kind, Row, TaskSpec

# Numbers, single letters, and names that only count: 0, -1, 2.0, A, label_3, class 4.
_BARE = re.compile(
    r"[+-]?\d+(\.\d+)?|[a-z]|(label|class|category|type|group)[\s_-]?(\d+|[a-z])", re.I | re.A
)
_DAY = r"(0?[1-9]|[12]\d|3[01])"
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_TIME = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s?([ap]\.?m\.?)?\s?(z|utc|gmt|[+-]\d{2}:?\d{2})?"
# 2024-01-03, 3.1.2024, 01/03/24, 3 Jan 2024, Wed, January 3rd, 2024; with a time of day or without.
_DATE = re.compile(
    rf"(\d{{4}}([-/.])\d{{1,2}}\2{_DAY}|{_DAY}[./-]{_DAY}[./-]\d{{4}}|{_DAY}[/-]{_DAY}[/-]\d{{2}}"
    rf"|([a-z]{{3,9}}\.?,?\s)?({_DAY}(st|nd|rd|th)?[\s-]{_MONTH},?[\s-](\d{{4}}|\d{{2}})"
    rf"|{_MONTH}\s{_DAY}(st|nd|rd|th)?,?\s\d{{4}}))((t|,?\s){_TIME})?",
    re.I | re.A,
)
_MOSTLY = 0.9
_EXTRACTED = 0.5


def answer_hints(spec: TaskSpec, rows: Sequence[Row], column: str) -> tuple[str, str]:
    """What should be looked at in the answers before anything is fitted; each empty if nothing.

    Args:
        spec: of the task.
        rows: all of them.
        column: the name of the output column.

    Returns:
        on labels that are numbers or single letters; on answers that are dates.
    """
    return _label_hint(spec, column), _date_hint(spec, rows, column)


def _label_hint(spec: TaskSpec, column: str) -> str:
    """A word on labels that are numbers or single letters; empty where they say something.

    A language model begins from what it knows of a label's words. It knows nothing of "0" and "1",
    and where nothing says what they mean, prompts can do little and fitting has it all to learn.

    Args:
        spec: of the task. An instruction that names every label is taken to explain them.
        column: the name of the output column.
    """
    told = (
        spec.instruction if spec.instruction != default_instruction(spec.kind, spec.labels) else ""
    )
    explained = all(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", told) for each in spec.labels)
    if not spec.labels or explained or not all(map(_BARE.fullmatch, spec.labels)):
        return ""
    shown = ", ".join(map(repr, spec.labels[:EXAMPLES]))
    shown += ", ..." if len(spec.labels) > EXAMPLES else ""
    hint = (
        f"the labels {shown} say nothing to a language model, so prompts do worse than they could "
        "and fitting learns more slowly; write words for them in the data"
    )
    if spec.kind is Kind.CLASSIFICATION:
        words = ", ".join(f"{each!r}: 'WORD'" for each in spec.labels[:2])
        words += ", ..." if len(spec.labels) > 2 else ""
        hint += f" (pandas: rows[{column!r}] = rows[{column!r}].astype(str).map({{{words}}}))"
    first, second = spec.labels[0], spec.labels[-1]
    return (
        f'{hint}, or say what each means: --instruction "Answer {first} for ..., {second} for ..."'
    )


def _date_hint(spec: TaskSpec, rows: Sequence[Row], column: str) -> str:
    """A word on answers that are dates; empty where they are not, or stand in their inputs.

    A column of dates beside texts mostly tells when a row was made, and no text says that: what is
    fitted learns nothing, at the price of a whole run. Else dates are to be found in the text.

    Args:
        spec: of the task. An instruction of one's own that speaks of a date is taken to mean it.
        rows: all of them.
        column: the name of the output column.
    """
    dates = [row for row in rows if _DATE.fullmatch(row.output.strip())]
    inside = sum(folded(row.output) in folded(row.input) for row in dates)
    if not dates or len(dates) < _MOSTLY * len(rows) or inside >= _EXTRACTED * len(dates):
        return ""
    if re.search(r"\bdates?\b", spec.instruction, re.I):
        return ""
    different = list(dict.fromkeys(row.output for row in dates))
    shown = ", ".join(map(repr, different[:EXAMPLES]))
    shown += ", ..." if len(different) > EXAMPLES else ""
    return (
        f"the answers {shown} are dates that do not stand in the texts, so there may be nothing to "
        f"learn; if {column!r} is not the column you mean, name another with --output; if they do "
        'tell the date, in other words, ask for it: --instruction "Answer with the date of ..."'
    )
