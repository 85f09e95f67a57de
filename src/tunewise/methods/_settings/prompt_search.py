"""The settings of `prompt_search`, and the instructions that a user gives it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from tunewise.methods._contract import MethodSettings
from tunewise.task.prompt import MOST_PROMPTS

_BLANK_LINES = re.compile(r"\n\s*\n")


class PromptSearchSettings(MethodSettings):
    """Settings of `prompt_search`."""

    wordings: tuple[str, ...] | None = Field(
        None,
        description="instructions of your own to try besides: separated by |, or @FILE with "
        "blank lines between them, or in TOML a list",
    )
    slots: bool = Field(
        True, description="also try the instruction in the user's turn of a chat template"
    )
    proposer: str | None = Field(
        None,
        description="model that proposes instructions from failures on training rows: 'local' for "
        "the base itself, or URL#NAME of an OpenAI-compatible endpoint",
    )
    propose_through: str = Field(
        "plain", description="'plain', or 'gepa' or 'mipro' through their published libraries"
    )
    proposals: int = Field(4, ge=1, description="number of instructions proposed at most")
    instructions: int = Field(24, ge=1, description="number of instructions raced at most")
    label_words: int = Field(
        4, ge=0, description="number of words from training rows that describe a label at most"
    )
    kept: int = Field(3, ge=1, description="number of instructions raced with demonstrations")
    demonstrations: int | None = Field(
        None, ge=0, description="number of demonstrations; unset: chosen among 0, 2, 4, 8 and 16"
    )
    pick: Literal["balanced", "random", "coverage", "hard", "nearest"] | None = Field(
        None,
        description="'balanced', 'random', 'coverage', 'hard' or 'nearest'; unset: chosen",
    )
    ensemble: int = Field(
        1,
        ge=1,
        le=MOST_PROMPTS,
        description="number of prompts whose label scores are averaged; each is paid by every "
        "request; 1: one prompt",
    )
    edits: int = Field(16, ge=0, description="number of edits of the winner raced at most")
    pool_rows: int = Field(
        1000, ge=1, description="training rows among which nearest ones are found"
    )
    longest_tokens: int = Field(
        192, ge=1, description="rows longer than this many tokens are not shown as demonstrations"
    )
    first_rows: int = Field(
        24, ge=1, description="validation rows for every candidate; half go on to twice that"
    )
    validation_rows: int = Field(
        256, ge=1, description="validation rows at most; a third of them confirms the winner"
    )

    @field_validator("wordings", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """The texts themselves: what a file holds is part of a fit's identity, its name is not."""
        return wordings_of(given)


def wordings_of(given: Any) -> tuple[str, ...] | None:
    """Instructions as a user gives them, each once, stripped.

    Args:
        given: texts separated by "|", "@" and the path of a UTF-8 file whose texts are separated
            by blank lines, or a list of texts. None stays None.

    Raises:
        ValueError: the file cannot be read, or there is no text in it.
    """
    if given is None:
        return None
    if isinstance(given, str) and given.startswith("@"):
        path = Path(given[1:])
        try:
            texts = _BLANK_LINES.split(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error.reason})") from error
    elif isinstance(given, str):
        texts = given.split("|")
    elif isinstance(given, list | tuple) and all(isinstance(each, str) for each in given):
        texts = list(given)
    else:
        raise ValueError("expected texts separated by |, @FILE, or a list of texts")
    found = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not found:
        raise ValueError("there is no text in it")
    return found


SETTINGS = PromptSearchSettings
