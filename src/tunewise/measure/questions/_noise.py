"""Changes of a text that leave its meaning: typing slips, casing, punctuation, contractions.

What people do to their own texts every day, by rule and by seed; no model writes anything here.
Of the kinds that Ribeiro et al. 2020 (CheckList, section 2) call perturbations of robustness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

Change: TypeAlias = Callable[[str, np.random.Generator], str]

# One word in so many gets a slip, at least one of a text.
_WORDS_PER_SLIP = 8
_LETTERS = re.compile(r"[^\W\d_]{4,}")
_NEIGHBOURS = {
    one: near
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for one, near in zip(row, f"{row[1:]}{row[-2]}", strict=True)
}
_CONTRACTIONS = {
    "is not": "isn't",
    "are not": "aren't",
    "was not": "wasn't",
    "were not": "weren't",
    "do not": "don't",
    "does not": "doesn't",
    "did not": "didn't",
    "have not": "haven't",
    "has not": "hasn't",
    "had not": "hadn't",
    "cannot": "can't",
    "could not": "couldn't",
    "would not": "wouldn't",
    "should not": "shouldn't",
    "will not": "won't",
    "i am": "i'm",
    "i have": "i've",
    "i will": "i'll",
    "you are": "you're",
    "we are": "we're",
    "they are": "they're",
    "it is": "it's",
    "that is": "that's",
    "there is": "there's",
    "what is": "what's",
}
_EXPANSIONS = {short: long for long, short in _CONTRACTIONS.items()}


def typing_slips(text: str, random: np.random.Generator) -> str:
    """Two letters change places, one is left out, doubled, or its neighbour on the keyboard is
    struck: in every eighth word of four letters or more, at least in one.
    """
    words = list(_LETTERS.finditer(text))
    if not words:
        return text
    count = max(1, len(words) // _WORDS_PER_SLIP)
    chosen = random.choice(len(words), size=count, replace=False)
    for index in sorted(chosen.tolist(), reverse=True):
        found = words[index]
        text = f"{text[: found.start()]}{_slipped(found.group(), random)}{text[found.end() :]}"
    return text


def lower_case(text: str, random: np.random.Generator) -> str:
    """No capitals."""
    return text.lower()


def upper_case(text: str, random: np.random.Generator) -> str:
    """Capitals only."""
    return text.upper()


def no_punctuation(text: str, random: np.random.Generator) -> str:
    """Without commas, full stops, colons, semicolons, exclamation and question marks.

    Marks inside numbers and words stay: 3.5 and U.S. are no punctuation.
    """
    return re.sub(r"[.,;:!?]+(?=\s|$)", "", text)


def more_punctuation(text: str, random: np.random.Generator) -> str:
    """Marks at the end of the text are struck several times."""
    bare = text.rstrip()
    end = bare[-1:] if bare[-1:] in "!?." and bare else "."
    return f"{bare.rstrip('!?.')}{end * 3}" if bare else text


def contracted(text: str, random: np.random.Generator) -> str:
    """Short forms: "do not" becomes "don't"."""
    return _replaced(text, _CONTRACTIONS)


def expanded(text: str, random: np.random.Generator) -> str:
    """Long forms: "don't" becomes "do not"."""
    return _replaced(text.replace("\u2019", "'"), _EXPANSIONS)


def more_spaces(text: str, random: np.random.Generator) -> str:
    """Two spaces after every full stop and comma, and one at the end."""
    return re.sub(r"(?<=[.,]) (?=\S)", "  ", text) + " "


def framed(text: str, random: np.random.Generator) -> str:
    """A greeting before the text and thanks behind it."""
    greetings, thanks = ("Hello, ", "Hi. ", "Good morning. "), (" Thank you.", " Thanks!", "")
    return f"{greetings[int(random.integers(3))]}{text}{thanks[int(random.integers(3))]}"


NOISE: Mapping[str, Change] = MappingProxyType(
    {
        "typing slips": typing_slips,
        "lower case": lower_case,
        "upper case": upper_case,
        "no punctuation": no_punctuation,
        "more punctuation": more_punctuation,
        "contracted": contracted,
        "long forms": expanded,
        "more spaces": more_spaces,
    }
)


def _slipped(word: str, random: np.random.Generator) -> str:
    # The first letter is seldom mistyped, and a reader needs it most.
    at = int(random.integers(1, len(word) - 1))
    kind = int(random.integers(4))
    if kind == 0 and word[at] != word[at + 1]:
        return f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}"
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2 and word[at].lower() in _NEIGHBOURS:
        near = _NEIGHBOURS[word[at].lower()]
        struck = near.upper() if word[at].isupper() else near
        return f"{word[:at]}{struck}{word[at + 1 :]}"
    return f"{word[:at]}{word[at]}{word[at:]}"


def _replaced(text: str, forms: Mapping[str, str]) -> str:
    """Whole words only, the first letter's case kept."""
    found = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))

    def other(match: re.Match[str]) -> str:
        new = forms[match.group().lower()]
        return new[0].upper() + new[1:] if match.group()[0].isupper() else new

    return re.sub(rf"(?<![\w'])(?:{found})(?![\w'])", other, text, flags=re.IGNORECASE)
