"""The task's own words and ordinary ones: which they are, and how they surprise the base."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from tunewise.measure.evidence import Measurement, TextTable, absent
from tunewise.measure.questions._contract import QuestionContext
from tunewise.measure.questions._surprise import Surprise
from tunewise.model.answers import Example
from tunewise.model.base import Base
from tunewise.numerics.spread import student_interval

_WORD = re.compile(r"[^\W\d_]{4,}")
_FEWEST_ROWS_OF_A_WORD = 2


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the task's texts.

    Attributes:
        word: as it stands there.
        rows: texts that hold it.
        pieces: tokens that the base's tokenizer makes of it.
        places: (number of the text, where it begins) of its first occurrences.
    """

    word: str
    rows: int
    pieces: int
    places: tuple[tuple[int, int], ...]


def terms_of(
    base: Base, texts: Sequence[str], *, most: int, occurrences: int
) -> tuple[list[Term], list[Term]]:
    """The task's own words, and ordinary ones beside them, the most frequent of either.

    A word that the tokenizer has no token for was rare in the text it was made from: that, and
    being frequent here, makes it one of the task's own. Stop words of English are left out.

    Args:
        base: its tokenizer decides.
        texts: to look in.
        most: terms of either sort at most.
        occurrences: places kept of each.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    rows: Counter[str] = Counter()
    for number, text in enumerate(texts):
        seen = set()
        for match in _WORD.finditer(text):
            word = match.group()
            places.setdefault(word, []).append((number, match.start()))
            seen.add(word)
        rows.update(seen)
    frequent = [
        word
        for word in sorted(rows, key=lambda word: (-rows[word], word))
        if rows[word] >= _FEWEST_ROWS_OF_A_WORD and word.lower() not in ENGLISH_STOP_WORDS
    ]
    own: list[Term] = []
    ordinary: list[Term] = []
    for word in frequent:
        pieces = len(base.tokenizer.encode(f" {word}", add_special_tokens=False))
        kept = own if pieces > 1 else ordinary
        if len(kept) < most:
            kept.append(Term(word, rows[word], pieces, tuple(places[word][:occurrences])))
        if len(own) == len(ordinary) == most:
            break
    return own, ordinary


def alone_examples(surprise: Surprise, terms: Sequence[Term]) -> list[Example | None]:
    """The terms with nothing before them."""
    return [surprise.word(term.word, term.word, 0) for term in terms]


def text_examples(
    surprise: Surprise, terms: Sequence[Term], texts: Sequence[str]
) -> list[Example | None]:
    """The terms behind what stands before them, at all their places."""
    return [
        surprise.word(term.word, texts[number], at) for term in terms for number, at in term.places
    ]


def word_figures(
    context: QuestionContext, surprise: Surprise, both: tuple[Sequence[Term], Sequence[Term]]
) -> tuple[list[Measurement], tuple[TextTable, ...]]:
    """Bits per character of the task's own words and of ordinary ones, alone and in their texts.

    Args:
        context: of the question.
        surprise: of its base.
        both: the task's own words, and ordinary ones, from the training rows.
    """
    texts = [row.input for row in context.view.train]
    found: list[Measurement] = []
    tables: tuple[TextTable, ...] = ()
    for sort, terms in zip(("own", "ordinary"), both, strict=True):

        def make(terms: Sequence[Term] = terms) -> dict[str, Any]:
            asked = {
                "alone": alone_examples(surprise, terms),
                "in text": text_examples(surprise, terms, texts),
            }
            return {
                way: surprise.bits_where(examples, context.ledger, prompted=False)
                for way, examples in asked.items()
            }

        bits = context.once(f"{sort} words", make)
        bits["in text"] = mean_by_term(terms, bits["in text"])
        for way in ("alone", "in text"):
            rates = [
                value / len(term.word)
                for term, value in zip(terms, bits[way], strict=True)
                if value is not None
            ]
            part = {"words": sort, "where": way}
            if not rates:
                reason = f"no {sort} word stands in two training rows or more"
                found.append(absent("word_surprise", "", "bits_per_character", reason, part=part))
                continue
            mean, low, high = student_interval(rates)
            how = "mean over words; the task's own are frequent words without a token of their own"
            found.append(
                Measurement(
                    "word_surprise", "", "bits_per_character", mean, len(rates), how, low, high,
                    higher_is_better=False, part=part,
                )
            )  # fmt: skip
        if sort == "own" and terms:
            tables = (term_table(terms, bits),)
    return found, tables


def mean_by_term(terms: Sequence[Term], bits: Sequence[float | None]) -> list[float | None]:
    """Of bits at all places of the terms, one after another, the mean of each term."""
    means: list[float | None] = []
    begin = 0
    for term in terms:
        own = [each for each in bits[begin : begin + len(term.places)] if each is not None]
        begin += len(term.places)
        means.append(float(np.mean(own)) if own else None)
    return means


def term_table(terms: Sequence[Term], bits: Mapping[str, Sequence[float | None]]) -> TextTable:
    """The terms with their bits, by where they stand: "alone" and "in text"."""
    lines = [
        (-alone / len(term.word), term, alone, inside)
        for term, alone, inside in zip(terms, bits["alone"], bits["in text"], strict=True)
        if alone is not None and inside is not None
    ]
    return TextTable(
        "The task's own words, the most surprising first",
        ("word", "rows", "tokens", "bits alone", "bits in its texts"),
        tuple(
            (term.word, str(term.rows), str(term.pieces), f"{alone:.1f}", f"{inside:.1f}")
            for _, term, alone, inside in sorted(lines, key=lambda line: (line[0], line[1].word))
        ),
    )
