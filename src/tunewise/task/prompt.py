"""The text of a prompt, as data: what the renderer turns into tokens and what is stored."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    instruction: str
    demonstrations: tuple[Demonstration, ...] = ()
    pool: tuple[Demonstration, ...] = ()
    nearest: int = 0
