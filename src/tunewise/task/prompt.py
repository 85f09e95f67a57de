"""The text of a prompt, as data: what the renderer turns into tokens and what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SYSTEM_SLOT: Literal["system"] = "system"
USER_SLOT: Literal["user"] = "user"
MOST_PROMPTS = 8
"""Prompts of one ensemble: every request pays for all of them."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One solved example shown in the prompt."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class PromptText:
    """Instruction and demonstrations; the `prompt_text` kind of part.

    Attributes:
        instruction: what to do, in words; may be empty.
        demonstrations: solved examples shown before every row, in this order; the same for all
            rows, so they belong to the shared prefix.
        pool: solved examples of which the `nearest` ones to the row at hand (TF-IDF cosine) are
            shown, most similar last; they differ by row, so they are not shared.
        nearest: how many of `pool` are shown with each row; 0 where `pool` is empty.
        slot: where a chat template is given the instruction: as its system message (as the head of
            the first user turn where it takes none), or as that head in any case. Nothing where
            the base has no chat template.
    """

    instruction: str
    demonstrations: tuple[Demonstration, ...] = ()
    pool: tuple[Demonstration, ...] = ()
    nearest: int = 0
    slot: Literal["system", "user"] = SYSTEM_SLOT
