"""The metrics' arithmetic: an answer and what was accepted in, a number between 0 and 1 out."""

from __future__ import annotations

import functools
import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def f1(found: Counter[Any], wanted: Counter[Any]) -> float:
    """F1 of two multisets; 1 where both are empty.

    Args:
        found: what the answer has.
        wanted: what it should have.
    """
    if not found and not wanted:
        return 1.0
    common = (found & wanted).total()
    return 2.0 * common / (found.total() + wanted.total())


def squad_words(text: str) -> list[str]:
    """Words for short answers: lower case, no punctuation, no articles.

    Source: Rajpurkar et al. 2016, SQuAD, section 6.1.
    """
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return _ARTICLES.sub(" ", bare).split()


def token_f1(answer: str, references: Sequence[str]) -> float:
    """F1 of the words, the best over the references."""
    found = Counter(squad_words(answer))
    return max(f1(found, Counter(squad_words(reference))) for reference in references)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the words equal those of a reference."""
    found = squad_words(answer)
    return float(any(found == squad_words(reference) for reference in references))


def folded(text: str) -> str:
    """Case and white space folded: how labels are compared."""
    return " ".join(text.casefold().split())


def label_set(text: str, separator: str = ",") -> frozenset[str]:
    """The labels in an answer, folded."""
    return frozenset(folded(part) for part in text.split(separator) if part.strip())


def label_f1(answer: str, reference: str) -> float:
    """F1 of two label sets written with commas."""
    return f1(Counter(label_set(answer)), Counter(label_set(reference)))


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L F of the longest common subsequence of words, the best over the references.

    Source: Lin 2004; computed by the rouge-score library with stemming.
    """
    scorer = _rouge_scorer()
    return max(float(scorer.score(each, answer)["rougeL"].fmeasure) for each in references)


def chrf(answer: str, references: Sequence[str]) -> float:
    """chrF of one sentence between 0 and 1 (Popovic 2015), by the sacrebleu library."""
    import sacrebleu

    return float(sacrebleu.sentence_chrf(answer, list(references)).score) / 100.0


def parse_json(text: str) -> tuple[bool, Any]:
    """Whether a text is JSON, and its value."""
    try:
        return True, json.loads(text)
    except (ValueError, RecursionError):
        return False, None


def field_pairs(value: Any) -> Counter[tuple[str, str]]:
    """A JSON value as path and value pairs; members of a list share one path, order is no field.

    `{"a": {"b": 1}, "c": ["x", "y"]}` gives a.b=1, c[]="x", c[]="y". An empty object or list is a
    pair of its own, so that it differs from a missing one.
    """
    return Counter(_pairs(value, ""))


def field_f1(answer: str, references: Sequence[str]) -> float:
    """F1 of path and value pairs, the best over the references; 0 where it is not JSON."""
    valid, value = parse_json(answer)
    if not valid:
        return 0.0
    found = field_pairs(value)
    parsed: Iterable[Any] = (json.loads(reference) for reference in references)
    return max(f1(found, field_pairs(reference)) for reference in parsed)


def _pairs(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _pairs(item, f"{path}.{json.dumps(key)}")
    elif isinstance(value, list) and value:
        for item in value:
            yield from _pairs(item, f"{path}[]")
    else:
        yield path, json.dumps(value, sort_keys=True)


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
