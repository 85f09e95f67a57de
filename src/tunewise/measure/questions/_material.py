"""Texts that questions use on every task: plain prose, and small riddles of language and sense.

They belong to the project and come with it, so that every run anywhere reads the same ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Riddle:
    """A beginning and four ways to go on, the right one first.

    Attributes:
        skill: what it takes: facts, grammar, opposites, counting, sense.
        start: the beginning, without a space at its end.
        options: the ways to go on.
    """

    skill: str
    start: str
    options: tuple[str, ...]


@cache
def neutral_texts() -> tuple[str, ...]:
    """Paragraphs of plain prose on nothing in particular."""
    return tuple(_read("neutral.json")["texts"])


@cache
def riddles() -> tuple[Riddle, ...]:
    """Small riddles of five skills."""
    items = _read("capabilities.json")["items"]
    return tuple(Riddle(each["skill"], each["start"], tuple(each["options"])) for each in items)


def _read(name: str) -> dict[str, Any]:
    file = resources.files("tunewise.measure.questions").joinpath("material", name)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
