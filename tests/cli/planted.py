"""Small made-up data of every kind of task, in which a word of the input decides the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

GOOD = ("good", "great", "fine", "lovely", "superb")
BAD = ("bad", "poor", "awful", "sad", "broken")
THINGS = ("room", "food", "staff", "bed", "view", "lamp", "door", "price", "desk", "pool")
PLACES = ("Oslo", "Rome", "Lima", "Cairo", "Perth", "Quito", "Delhi", "Tunis")
SCHEMA = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "enum": list(THINGS)},
        "mood": {"type": "string", "enum": ["good", "bad"]},
    },
    "required": ["item", "mood"],
    "additionalProperties": False,
}


def sentence(number: int) -> str:
    """A sentence that no other number has; even numbers sound good."""
    word = (GOOD if number % 2 == 0 else BAD)[number % 5]
    thing, other = THINGS[number % 10], THINGS[(number * 7 + 3) % 10]
    place = PLACES[(number * 3) % 8]
    return f"{place}: the {thing} was {word}, {other} {number * 37 % 101} nights"


def two_labels(count: int) -> list[dict[str, Any]]:
    """Classification into two labels."""
    return [
        {"text": sentence(n), "label": "negative" if n % 2 else "positive"} for n in range(count)
    ]


def many_labels(count: int) -> list[dict[str, Any]]:
    """Classification into fourteen labels: more than are scored one by one."""
    names = [f"{thing} {mood}" for thing in THINGS[:7] for mood in ("fault", "praise")]
    rows = []
    for number in range(count):
        label = names[number % 14]
        rows.append({"text": f"{label} {sentence(number)}", "label": label})
    return rows


def several_labels(count: int) -> list[dict[str, Any]]:
    """Multi-label: the things that are named."""
    rows = []
    for number in range(count):
        named = {THINGS[number % 4], THINGS[(number // 4) % 4]}
        text = f"{' and '.join(sorted(named))} in {PLACES[number % 8]}, {number * 37 % 101} nights"
        rows.append({"text": text, "labels": ", ".join(sorted(named))})
    return rows


def short_answers(count: int) -> list[dict[str, Any]]:
    """Short answers: the number of nights."""
    return [
        {"question": f"How many nights? {sentence(n)}", "answer": str(n * 37 % 101)}
        for n in range(count)
    ]


def summaries(count: int) -> list[dict[str, Any]]:
    """Generation: the beginning of the text is its summary."""
    return [
        {"text": f"{sentence(n)}. {sentence(n + 500)}.", "summary": sentence(n)}
        for n in range(count)
    ]


def objects(count: int) -> list[dict[str, Any]]:
    """JSON answers that meet `SCHEMA`."""
    return [
        {
            "text": sentence(n),
            "facts": json.dumps({"item": THINGS[n % 10], "mood": "bad" if n % 2 else "good"}),
        }
        for n in range(count)
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
