"""Small tasks that the tests of this room share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewise.task.types import Kind, Row, TaskSpec

WORDS = [
    "amber",
    "bridge",
    "copper",
    "delta",
    "ember",
    "falcon",
    "garnet",
    "harbor",
    "indigo",
    "juniper",
    "kettle",
    "lantern",
    "marble",
    "nectar",
    "orchid",
    "pepper",
    "quartz",
    "ribbon",
    "saddle",
    "timber",
    "umber",
    "velvet",
    "willow",
    "yonder",
    "zephyr",
]
SENTIMENT = TaskSpec("toy", Kind.CLASSIFICATION, "Good or bad?", ("bad", "good"), "accuracy")


def phrase(number: int) -> str:
    """A text that shares hardly any run of characters with the others."""
    n = len(WORDS)
    return f"{WORDS[number % n]} {WORDS[number * 7 % n]}{number} {WORDS[number * 11 % n]}"


def records(count: int, labels: Sequence[str] = ("good", "bad")) -> list[dict[str, Any]]:
    """Rows with distinct texts and labels in turn."""
    return [{"text": phrase(i), "label": labels[i % len(labels)]} for i in range(count)]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write one object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(text: str, output: str, *, number: int = 1, **more: Any) -> Row:
    """One row with an id and origin from its number."""
    values: dict[str, Any] = {"references": (output,), "origin": f"toy row {number}", **more}
    return Row(id=f"toy-{number}", input=text, output=output, **values)
