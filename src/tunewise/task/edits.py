"""Small changes of an instruction: each operator makes one, and says which.

An instruction is taken as clauses: sentences and lines; lines of a list belong to the clause that
they follow. (Prasad et al. 2023 edit phrases of a parse tree; clauses need no parser.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

ANSWER_PHRASES = ("Answer with the label only.", "Give the answer only.", "Answer:")
_SENTENCE_END = re.compile(r"(?<=[.!?])[ \t]+")
_FILLERS = re.compile(
    r"\b(?:please|carefully|simply|just|very|really|kindly|the following|given|below|provided)\b ?",
    re.IGNORECASE,
)
_LONG_FORMS = (("in order to", "to"), ("that fits it best", "that fits"), ("each of the", "the"))
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_LIST_MARKS = (", ", " | ", " / ")


def clauses(text: str) -> tuple[str, ...]:
    """The sentences and lines of an instruction; a line that begins with "- " goes to the former.

    Args:
        text: any text.
    """
    found: list[str] = []
    for line in filter(None, (each.strip() for each in text.splitlines())):
        if line.startswith("- ") and found:
            found[-1] += f"\n{line}"
        else:
            found += [piece for piece in _SENTENCE_END.split(line) if piece]
    return tuple(found)


def joined(pieces: Sequence[str], separator: str = " ") -> str:
    """Clauses as one text; once there is a list, every clause has its line.

    Args:
        pieces: the clauses.
        separator: stands between two clauses.
    """
    text = ""
    for piece in pieces:
        gap = "\n" if "\n" in f"{text}{piece}" else separator
        text += f"{gap}{piece}" if text else piece
    return text


def names_labels(text: str, labels: Sequence[str]) -> bool:
    """Whether a text names at least half of the labels, and at least two where there are more.

    Args:
        text: a clause.
        labels: the labels of the task, or the keys of its answers.
    """
    lower = text.lower()
    named = sum(
        re.search(rf"(?<!\w){re.escape(label.lower())}(?!\w)", lower) is not None
        for label in labels
    )
    return bool(labels) and named >= max(min(2, len(labels)), len(labels) / 2)


def edits(text: str, labels: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every text that is one edit away.

    Args:
        text: an instruction.
        labels: the labels of the task, to find their list.

    Returns:
        Pairs of the edit's name and the text, each text once, in a fixed order; never the
        instruction itself and never nothing.
    """
    found: dict[str, str] = {}
    parts = clauses(text)
    separator = "\n" if "\n" in text.replace("\n- ", "") else " "
    for name, edited in (
        *_of_order(parts, separator),
        *_of_length(parts, separator),
        *_of_labels(parts, separator, labels),
        *_of_form(parts, separator),
    ):
        if edited.strip() and edited != text:
            found.setdefault(edited, name)
    return [(name, edited) for edited, name in found.items()]


def _of_order(parts: Sequence[str], separator: str) -> Iterator[tuple[str, str]]:
    for place in range(len(parts) - 1):
        swapped = [*parts[:place], parts[place + 1], parts[place], *parts[place + 2 :]]
        yield f"swap {place + 1}", joined(swapped, separator)


def _of_length(parts: Sequence[str], separator: str) -> Iterator[tuple[str, str]]:
    for place in range(len(parts)):
        yield f"drop {place + 1}", joined([*parts[:place], *parts[place + 1 :]], separator)
    for place in range(len(parts) - 1):
        merged = _merged(parts[place], parts[place + 1])
        yield f"merge {place + 1}", joined([*parts[:place], merged, *parts[place + 2 :]], separator)
    for place, part in enumerate(parts):
        short = [*parts[:place], _shortened(part), *parts[place + 1 :]]
        yield f"shorten {place + 1}", joined([each for each in short if each], separator)


def _of_labels(
    parts: Sequence[str], separator: str, labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    listing = [place for place, part in enumerate(parts) if names_labels(part, labels)]
    for place in listing:
        rest = [*parts[:place], *parts[place + 1 :]]
        yield "labels first", joined([parts[place], *rest], separator)
        yield "labels last", joined([*rest, parts[place]], separator)
        for mark in _LIST_MARKS:
            old = next((each for each in _LIST_MARKS if each.join(labels) in parts[place]), None)
            if old is not None:
                listed = parts[place].replace(old.join(labels), mark.join(labels))
                other = [*parts[:place], listed, *parts[place + 1 :]]
                yield f"list by {mark.strip()}", joined(other, separator)


def _of_form(parts: Sequence[str], separator: str) -> Iterator[tuple[str, str]]:
    other = " " if separator == "\n" else "\n"
    yield "separator", joined(parts, other)
    bare = [part for part in parts if part not in ANSWER_PHRASES]
    for phrase in ANSWER_PHRASES:
        yield f"end with {phrase!r}", joined([*bare, phrase], separator)


def _merged(first: str, second: str) -> str:
    if "\n" in first:
        return f"{first}\n{second}"
    # A word in capitals is a name and keeps them.
    lower = second if second[:2].isupper() else second[:1].lower() + second[1:]
    return f"{first.rstrip('.!?')}; {lower}"


def _shortened(part: str) -> str:
    """Without fillers and brackets; the lines of a list lose the second half of their words."""
    lines = [_BRACKETS.sub("", _FILLERS.sub("", line)) for line in part.splitlines()]
    for index, line in enumerate(lines):
        head, colon, words = line.partition(": ")
        if line.startswith("- ") and colon:
            kept = words.split(", ")
            lines[index] = f"{head}: {', '.join(kept[: (len(kept) + 1) // 2])}"
    text = "\n".join(line for line in lines if line.strip())
    for long, short in _LONG_FORMS:
        text = text.replace(long, short)
    return text[:1].upper() + text[1:]
