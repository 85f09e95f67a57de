"""Formats of a row that mean the same: a grammar of names, casing, separators, spacing and order.

After Sclar et al. 2024 (FormatSpread, section 3.1): a field is a descriptor in some casing, a
separator and the text; two fields have a space between them. Here the fields of a row are its text
and, in half of the formats, a cue for the answer, which may stand before the text as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DESCRIPTORS = ("", "Text", "Input", "Passage", "Message", "Content")
CUES = ("", "Answer", "Output", "Result")
CASINGS = ("as it is", "lower", "upper", "title")
SEPARATORS = (": ", ":", ":: ", " - ", " -- ", "\n", ":\n", ": \n", " = ", "\t", " || ", ">> ", " ")
SPACES = ("\n", "\n\n", " ", " \n", " | ", "; ", "\t", " <sep> ")


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How a row's text is written down.

    Attributes:
        descriptor: name of the text; "" for none, and then without casing and separator.
        cue: name of the answer; "" for none.
        casing: of both names.
        separator: between a name and what it names.
        space: between text and cue.
        cue_first: whether the cue stands before the text.
    """

    descriptor: str = ""
    cue: str = ""
    casing: str = "as it is"
    separator: str = ": "
    space: str = "\n"
    cue_first: bool = False

    def write(self, text: str) -> str:
        """The text in this format."""
        body = f"{self._name(self.descriptor)}{text}"
        if not self.cue:
            return body
        cue = self._name(self.cue).rstrip()
        return f"{cue}{self.space}{body}" if self.cue_first else f"{body}{self.space}{cue}"

    @property
    def shown(self) -> str:
        """The format around three dots, with its line breaks visible."""
        return self.write("...").replace("\n", "\\n").replace("\t", "\\t")

    def _name(self, name: str) -> str:
        if not name:
            return ""
        cased = {"lower": name.lower(), "upper": name.upper(), "title": name.title()}
        return f"{cased.get(self.casing, name)}{self.separator}"


def draw_formats(count: int, *, seed: int) -> list[RowFormat]:
    """Formats drawn evenly over the grammar, each written form once, never the bare text.

    Args:
        count: how many; fewer where the grammar has no more.
        seed: of the drawing.
    """
    random = np.random.default_rng([seed, 7])
    found: dict[str, RowFormat] = {}
    for _ in range(50 * count):
        if len(found) == count:
            break
        drawn = RowFormat(
            _one(random, DESCRIPTORS),
            _one(random, CUES) if random.random() < 0.5 else "",
            _one(random, CASINGS),
            _one(random, SEPARATORS),
            _one(random, SPACES),
            bool(random.random() < 0.25),
        )
        if drawn.write("...") != "...":
            found.setdefault(drawn.write("..."), drawn)
    return list(found.values())


def _one(random: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(random.integers(len(values)))]
