"""Instructions composed from the task itself: its kind, its labels and what its training rows show.

A composition has three places: an opening sentence, a detail (the labels, with or without words
that describe them; the keys of JSON answers) and a line on the form of the answer. No model writes
anything here, so what can be composed is the same for bases of any size.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewise.task.edits import clauses, joined, names_labels
from tunewise.task.kind import MOST_LABELS_LISTED
from tunewise.task.metrics import folded, parse_json
from tunewise.task.types import Kind, Row, TaskSpec

# So many words in a row that also stand in a training row are a copy of it; a shorter row is copied
# where all of it stands there, unless it is so short that it says no more than any instruction may.
COPIED_WORDS = 8
_LEAST_COPIED = 4
# A word describes a label where its log-odds are so many standard errors above nothing, and where
# it stands in at least two rows: a word of one row would be that row.
_LEAST_ERRORS = 1.96
_LEAST_ROWS = 2
_MOST_QUESTION_LABELS = 6
_NO_TOPIC = {"data", "dataset", "train", "training", "task", "rows", "text", "texts", "examples"}
# Scripts without spaces: a sign counts as a word.
_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+")
_DESCRIBING = re.compile(rf"[^\W\d_{_SIGNS}]{{3,}}")


@dataclass(frozen=True, slots=True)
class Wording:
    """One instruction.

    Attributes:
        name: how it was made, short.
        text: the instruction.
    """

    name: str
    text: str


def describing_words(
    texts: Sequence[str], labels: Sequence[str], most: int
) -> dict[str, tuple[str, ...]]:
    """Words that tell the texts of a label from all others, the most telling first.

    Log-odds ratio with an informative Dirichlet prior, in standard errors (Monroe et al. 2008,
    section 3.5). We count the rows a word stands in, not how often it stands there.

    Args:
        texts: inputs.
        labels: label of each.
        most: words per label at most.

    Returns:
        Every label that occurs, in sorted order, with its words; none where none tells.
    """
    names = sorted(set(labels))
    own_names = {word for name in names for word in _DESCRIBING.findall(name.lower())}
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for text, label in zip(texts, labels, strict=True):
        counts[label].update(set(_DESCRIBING.findall(text.lower())) - own_names)
    total = sum(counts.values(), Counter())
    words = sorted(word for word, count in total.items() if count >= _LEAST_ROWS)
    found: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    if not words:
        return found
    all_rows = np.array([total[word] for word in words], dtype=float)
    # The prior is worth one row per word: words that are rare everywhere say little.
    prior = all_rows / all_rows.sum() * len(words)
    for name in names:
        here = np.array([counts[name][word] for word in words], dtype=float)
        errors = _log_odds(here, all_rows - here, prior)
        order = np.lexsort((np.arange(len(words)), -errors))
        found[name] = tuple(
            words[i] for i in order[:most] if errors[i] >= _LEAST_ERRORS and here[i] >= _LEAST_ROWS
        )
    return found


def _log_odds(here: Any, elsewhere: Any, prior: Any) -> Any:
    """(W,) difference of log-odds between two groups of counts, in standard errors."""
    ours, others = here + prior, elsewhere + prior
    difference = np.log(ours / (ours.sum() - ours + 1e-9)) - np.log(
        others / (others.sum() - others + 1e-9)
    )
    return difference / np.sqrt(1.0 / ours + 1.0 / others)


class CopyCheck:
    """Finds instructions that hold a piece of a training row, or a whole short one.

    Args:
        spec: the task; answers that are labels are not rows.
        rows: training rows.
        run: so many words in a row are a copy; of a row with fewer all of its words, from four on.
    """

    def __init__(self, spec: TaskSpec, rows: Sequence[Row], run: int = COPIED_WORDS) -> None:
        texts = [row.input for row in rows]
        if not spec.labels:
            texts += [row.output for row in rows]
        self._runs: set[tuple[str, ...]] = set()
        for words in map(_words, texts):
            length = min(run, len(words))
            if length >= min(run, _LEAST_COPIED):
                self._runs.update(_runs_of(words, length))
        self._lengths = sorted({len(each) for each in self._runs}, reverse=True)

    def copied(self, text: str) -> str:
        """The first run of words that also stands in a training row; empty where there is none.

        Args:
            text: an instruction.
        """
        words = _words(text)
        runs = (each for length in self._lengths for each in _runs_of(words, length))
        return next((" ".join(each) for each in runs if each in self._runs), "")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs_of(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + length]) for i in range(len(words) - length + 1))


def compositions(
    spec: TaskSpec, rows: Sequence[Row], instruction: str, *, words: int, seed: int
) -> list[Wording]:
    """Instructions for a task, the plainest first.

    Args:
        spec: the task.
        rows: training rows; what they have in common is told, no row is.
        instruction: the instruction there is; its sentences without labels are one opening.
        words: words that describe a label at most; 0 for none.
        seed: orders those that are equally far from the plainest.

    Returns:
        Each text once; the order puts those first that differ in one place only.
    """
    openings, details, forms = _places(spec, rows, instruction, words)
    chosen = list(itertools.product(openings.items(), details.items(), forms.items()))
    ranks = itertools.product(range(len(openings)), range(len(details)), range(len(forms)))
    distance = np.array([sum(place > 0 for place in rank) for rank in ranks])
    shuffled = np.random.default_rng(seed).permutation(len(chosen))
    found: dict[str, str] = {}
    for index in sorted(shuffled, key=lambda index: distance[index]):
        named = [each for each in chosen[index] if each[1]]
        text = joined([clause for _, part in named for clause in clauses(part)])
        if text:
            found.setdefault(text, ", ".join(name for name, _ in named))
    return [Wording(name, text) for text, name in found.items()]


Place = Mapping[str, str]


def _places(
    spec: TaskSpec, rows: Sequence[Row], instruction: str, words: int
) -> tuple[Place, Place, Place]:
    """What may stand in each of the three places, by name; the first of each is the plainest."""
    if spec.kind in (Kind.CLASSIFICATION, Kind.MULTI_LABEL):
        openings, details, forms = _label_places(spec, rows, words)
        held: tuple[str, ...] = spec.labels
    elif spec.kind is Kind.JSON:
        held = _keys(rows)
        openings, details, forms = _json_places(rows, held)
    else:
        openings, details, forms = _text_places(spec, rows)
        held = ()
    own = joined([clause for clause in clauses(instruction) if not names_labels(clause, held)])
    return {"own": own if own else instruction, **openings}, details, forms


def _label_places(spec: TaskSpec, rows: Sequence[Row], words: int) -> tuple[Place, Place, Place]:
    labels = spec.labels
    if spec.kind is Kind.MULTI_LABEL:
        openings = {
            "all labels": "Answer with all labels that fit the text, separated by commas.",
            "which": "Which labels fit the text? Name all of them, separated by commas.",
        }
        forms = {"": "", "labels only": "Answer with the labels only."}
        lists = {"list": f"Labels: {', '.join(labels)}."}
    else:
        openings = {
            "classify": "Classify the text.",
            "choose": "Read the text and choose the label that fits it best.",
        }
        topic = " ".join(re.findall(r"[^\W\d_]+", spec.name.replace("_", " "))).lower()
        if len(topic) > 3 and topic not in _NO_TOPIC:
            openings["topic"] = f"What is the {topic} of the text?"
        if 1 < len(labels) <= _MOST_QUESTION_LABELS:
            openings["question"] = f"Is the text {', '.join(labels[:-1])} or {labels[-1]}?"
        forms = {"": "", "label only": "Answer with the label only.", "answer": "Answer:"}
        lists = {
            "list": f"Answer with one of: {', '.join(labels)}.",
            "labels": f"Labels: {', '.join(labels)}.",
        }
    if not 1 < len(labels) <= MOST_LABELS_LISTED:
        return openings, {"": ""}, forms
    details = {**lists, "lines": _lines("Labels:", dict.fromkeys(labels, ())), "": ""}
    if spec.kind is Kind.CLASSIFICATION and words > 0:
        texts, golds = [row.input for row in rows], [row.output for row in rows]
        described = describing_words(texts, golds, words)
        told = {label: described.get(label, ()) for label in labels}
        if any(told.values()):
            details["described lines"] = _lines("Labels and words they go with:", told)
            inline = [
                f"{label} ({', '.join(found)})" if found else label for label, found in told.items()
            ]
            details["described"] = f"Answer with {', '.join(inline[:-1])} or {inline[-1]}."
    return openings, details, forms


def _lines(head: str, words: Mapping[str, Sequence[str]]) -> str:
    lines = [f"- {key}: {', '.join(own)}" if own else f"- {key}" for key, own in words.items()]
    return "\n".join([head, *lines])


def _json_places(rows: Sequence[Row], keys: Sequence[str]) -> tuple[Place, Place, Place]:
    details = {"": ""}
    if keys:
        details["keys"] = f"The keys are {', '.join(keys)}."
    closed = _closed_values(rows, keys)
    if any(closed.values()):
        details["values"] = _lines("Values:" if not keys else "Keys and their values:", closed)
    return (
        {
            "extract": "Extract the facts from the text as JSON.",
            "fill": "Read the text and fill in the JSON.",
        },
        details,
        {
            "": "",
            "JSON only": "Answer with JSON only.",
            "stated": "Leave out what the text does not say.",
        },
    )


def _objects(rows: Sequence[Row]) -> list[dict[str, Any]]:
    values = [parse_json(row.output)[1] for row in rows]
    return [value for value in values if isinstance(value, dict)]


def _keys(rows: Sequence[Row]) -> tuple[str, ...]:
    """The keys of JSON answers, the most frequent first; none where they are an open set."""
    often = Counter(key for value in _objects(rows) for key in value)
    keys = sorted(often, key=lambda key: (-often[key], key))
    return tuple(keys) if len(keys) <= MOST_LABELS_LISTED else ()


def _closed_values(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values that repeat, by key; under "any key" where the keys are an open set."""
    seen: dict[str, Counter[str]] = {key: Counter() for key in keys if keys}
    for value in _objects(rows):
        for key, each in value.items():
            if isinstance(each, str) and len(each) <= 40:
                seen.setdefault(key if keys else "any key", Counter())[each] += 1
    return {
        key: tuple(sorted(values))
        if 1 < len(values) <= MOST_LABELS_LISTED and min(values.values()) >= _LEAST_ROWS
        else ()
        for key, values in seen.items()
    }


def _text_places(spec: TaskSpec, rows: Sequence[Row]) -> tuple[Place, Place, Place]:
    inside = sum(folded(row.output) in folded(row.input) for row in rows) * 2 >= len(rows)
    if spec.kind is Kind.SHORT_ANSWER:
        openings = {"few words": "Answer in a few words.", "question": "Answer the question."}
        if inside:
            openings["find"] = "Find the answer in the text."
        forms = {"": "", "answer only": "Give the answer only.", "answer": "Answer:"}
        return openings, {"": "", "length": _length_line(rows)}, forms
    openings = {
        "read": "Read the input and write the output.",
        "belongs": "Write the output that belongs to the input.",
    }
    style = _style_line(rows)
    forms = {"": "", "output only": "Give the output only."}
    return openings, {"": "", "length": _length_line(rows), "style": style}, forms


def _length_line(rows: Sequence[Row]) -> str:
    words = round(statistics.median(len(row.output.split()) for row in rows))
    return f"Use about {words} words." if words > 1 else "Use one word."


def _style_line(rows: Sequence[Row]) -> str:
    """What nearly all answers have in common; empty where there is nothing."""
    answers = [row.output for row in rows]
    told = []
    if sum(len(clauses(answer)) == 1 for answer in answers) >= 0.9 * len(answers):
        told.append("Write one sentence.")
    if sum(answer == answer.lower() for answer in answers) >= 0.9 * len(answers):
        told.append("Use lower case.")
    if sum(not answer.endswith(".") for answer in answers) >= 0.9 * len(answers):
        told.append("Put no full stop at the end.")
    return " ".join(told)
