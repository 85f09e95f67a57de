"""What an answer is, detected from the answers, with the reason; and what follows from it."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.task.metrics import folded, parse_json
from tunewise.task.types import Kind

# More labels than these are not listed in an instruction: it would cost more than it tells.
MOST_LABELS_LISTED = 20
_MOST_LABELS = 1000
_LABEL_CHARACTERS = 80


def detect_kind(
    outputs: Sequence[Any], inputs: Sequence[str], separator: str = ","
) -> tuple[Kind, str]:
    """What the answers are, and why.

    Args:
        outputs: the answers as they stand in the data: texts, numbers, lists or objects.
        inputs: the texts they belong to.
        separator: text between the labels of one answer.

    Returns:
        the kind, and the reason in one sentence.
    """
    lists = [value for value in outputs if isinstance(value, list)]
    if lists and len(lists) * 2 > len(outputs) and _are_labels(_members(lists)):
        distinct = len(set(_members(lists)))
        return Kind.MULTI_LABEL, f"answers are lists of {distinct} labels that repeat"
    texts = [as_text(value) for value in outputs]
    objects = sum(_is_json_value(text) for text in texts)
    if objects >= 0.8 * len(texts):
        return Kind.JSON, f"{objects} of {len(texts)} answers are JSON objects or lists"
    if _are_several_labels(texts, separator):
        parts = _parts(texts, separator)
        reason = f"answers split at {separator!r} into {len(set(parts))} labels that repeat"
        return Kind.MULTI_LABEL, reason
    if _are_labels(texts):
        count = len(set(texts))
        plural = "s" if count != 1 else ""
        return Kind.CLASSIFICATION, f"{count} distinct short answer{plural} in {len(texts)} rows"
    words = statistics.median(len(text.split()) for text in texts)
    inside = sum(
        folded(text) in folded(given) for text, given in zip(texts, inputs, strict=True)
    ) / len(texts)
    if words <= 3 or (words <= 5 and inside >= 0.5):
        reason = f"answers are mostly distinct, {words:g} words at the median"
        return Kind.SHORT_ANSWER, f"{reason}, {inside:.0%} of them stand in the input"
    return Kind.GENERATION, f"answers are mostly distinct, {words:g} words at the median"


def as_text(value: Any) -> str:
    """A value of a column as text: JSON for objects, lists and truth values.

    Args:
        value: any JSON value.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict | list | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def default_instruction(
    kind: Kind,
    labels: Sequence[str],
    *,
    output_column: str = "output",
    answers: Sequence[str] = (),
    schema: Mapping[str, Any] | None = None,
) -> str:
    """An instruction in plain words.

    Args:
        kind: what an answer is.
        labels: the labels, for the two kinds that have them.
        output_column: its name tells a summary from other texts.
        answers: some answers; the keys of JSON answers are named.
        schema: JSON schema, whose properties are named instead.
    """
    listed = ", ".join(labels) if len(labels) <= MOST_LABELS_LISTED else ""
    if kind is Kind.CLASSIFICATION:
        return (
            f"Classify the text. Answer with {f'one of: {listed}' if listed else 'its category'}."
        )
    if kind is Kind.MULTI_LABEL:
        which = f": {listed}" if listed else ""
        return f"Answer with all labels that fit the text, separated by commas{which}."
    if kind is Kind.SHORT_ANSWER:
        return "Answer in a few words."
    if kind is Kind.JSON:
        keys = _keys(answers, schema)
        return f"Answer with JSON{f' with the keys {keys}' if keys else ''}."
    if output_column.lower() in ("summary", "highlights"):
        return "Summarize the text."
    return "Read the input and write the output."


def split_labels(value: Any, separator: str) -> list[str]:
    """The labels of one answer, sorted, each once.

    Args:
        value: a list, JSON text of a list, or text with the separator between the labels.
        separator: that text.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        valid, parsed = parse_json(value)
        value = parsed if valid and isinstance(parsed, list) else value
    parts = value if isinstance(value, list) else as_text(value).split(separator)
    return sorted({as_text(part) for part in parts if as_text(part)})


def _members(lists: Sequence[list[Any]]) -> list[str]:
    return [as_text(member) for each in lists for member in each]


def _parts(texts: Sequence[str], separator: str) -> list[str]:
    return [part.strip() for text in texts for part in text.split(separator) if part.strip()]


def _are_labels(texts: Sequence[str]) -> bool:
    """True for a small closed set: short, repeating, with hardly any value that occurs once."""
    if not texts:
        return False
    counts = Counter(texts)
    once = sum(count == 1 for count in counts.values())
    return (
        len(counts) <= _MOST_LABELS
        and (len(counts) * 2 <= len(texts) or len(counts) <= 2)
        and once <= max(1, 0.1 * len(texts))
        and max(len(text) for text in counts) <= _LABEL_CHARACTERS
    )


def _are_several_labels(texts: Sequence[str], separator: str) -> bool:
    """True where the parts are fewer than the whole answers: they are combined freely."""
    several = sum(separator in text for text in texts)
    if several < max(2, 0.05 * len(texts)):
        return False
    parts = _parts(texts, separator)
    return len(set(parts)) < len(set(texts)) and _are_labels(parts)


def _is_json_value(text: str) -> bool:
    if not text.startswith(("{", "[")):
        return False
    valid, value = parse_json(text)
    return valid and isinstance(value, dict | list)


def _keys(answers: Sequence[str], schema: Mapping[str, Any] | None) -> str:
    if schema is not None and isinstance(schema.get("properties"), dict):
        names = list(schema["properties"])
    else:
        values = [parse_json(answer)[1] for answer in answers]
        names = list(dict.fromkeys(key for v in values if isinstance(v, dict) for key in v))
    return ", ".join(names) if len(names) <= MOST_LABELS_LISTED else ""
