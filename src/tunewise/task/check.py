"""What was found in the data, as a record that can be shown and stored."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewise.errors import DataError
from tunewise.task.render import Renderer
from tunewise.task.types import FitView, Kind, Row, TaskSpec

# How many examples a finding shows at most.
EXAMPLES = 5
_RENDERED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """How often something was found, and examples that name the rows."""

    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Smallest, median, 95th percentile and largest of a number of tokens."""

    smallest: int
    median: float
    percentile_95: float
    largest: int


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """What the rows are for one base model and prompt.

    Attributes:
        shared_prompt_tokens: tokens before every row, the same for all.
        input_tokens: of a row without the shared ones and without the answer.
        answer_tokens: of an answer with the token that ends it.
        longest_row_tokens: all tokens of the longest row.
        context_length: the most that the model takes.
        rendered: exact text of rows, with the answer between ⟦ and ⟧.
    """

    shared_prompt_tokens: int
    input_tokens: Quantiles
    answer_tokens: Quantiles
    longest_row_tokens: int
    context_length: int
    rendered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What was found in the data.

    Attributes:
        source: as the user gave it.
        kind: what an answer is.
        kind_explanation: why.
        column_explanations: which column is what, and why.
        split_explanations: where the splits come from.
        rows_before: rows by split of the source ("all" where it has none).
        rows_after: rows by split that are used.
        empty: rows dropped because the input is empty.
        unanswered: rows dropped because they have no answer.
        duplicates: rows dropped because they repeat one of their split.
        near_duplicates_within: rows that are near an earlier one of their split; kept.
        near_duplicates_across: rows removed because they are near one of a later split.
        contradictory: inputs that stand with different answers; kept.
        class_balance: rows by label, by split; empty for kinds without labels.
        majority_share: share of the most frequent label in the train rows, or None.
        warnings: what to look at, in words.
        tokens: filled by `with_tokens`.
    """

    source: str
    kind: Kind
    kind_explanation: str
    column_explanations: tuple[str, ...]
    split_explanations: tuple[str, ...]
    rows_before: Mapping[str, int]
    rows_after: Mapping[str, int]
    empty: Finding
    unanswered: Finding
    duplicates: Finding
    near_duplicates_within: Finding
    near_duplicates_across: Finding
    contradictory: Finding
    class_balance: Mapping[str, Mapping[str, int]]
    majority_share: float | None
    warnings: tuple[str, ...]
    tokens: TokenCheck | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


def class_balance(splits: Mapping[str, Sequence[Row]], kind: Kind) -> dict[str, dict[str, int]]:
    """Rows by label, by split; empty for kinds without labels.

    Args:
        splits: rows by split.
        kind: a row of several labels counts once for each.
    """
    if kind not in (Kind.CLASSIFICATION, Kind.MULTI_LABEL):
        return {}
    return {
        split: dict(sorted(Counter(each for row in rows for each in labels_of(row, kind)).items()))
        for split, rows in splits.items()
    }


def labels_of(row: Row, kind: Kind) -> tuple[str, ...]:
    """The labels of a row: one, or several.

    Args:
        row: with its answer in the one form.
        kind: classification or multi_label.
    """
    return tuple(row.output.split(", ")) if kind is Kind.MULTI_LABEL else (row.output,)


def majority_share(balance: Mapping[str, Mapping[str, int]], rows: int) -> float | None:
    """Share of the train rows that have the most frequent label; None without labels.

    Args:
        balance: as `class_balance` gives it.
        rows: how many train rows there are.
    """
    counts = balance.get("train", {})
    return max(counts.values()) / rows if counts and rows else None


def with_tokens(
    check: DataCheck,
    renderer: Renderer,
    fit_view: FitView,
    test_rows: Sequence[Row],
    context_length: int,
) -> DataCheck:
    """Add what the rows are in tokens.

    Args:
        check: of the same task.
        renderer: of the base model, with the prompt to start from.
        fit_view: rows for fitting and choosing.
        test_rows: rows of the test; only their lengths are looked at.
        context_length: the most tokens that the model takes.

    Raises:
        DataError: a row is longer than the model's context.
    """
    shared = len(renderer.shared_tokens)
    rows = (*fit_view.train, *fit_view.validation, *test_rows)
    inputs = [len(renderer.row_tokens(row.input)) for row in rows]
    answers = [len(renderer.answer_tokens(row.output)) for row in rows]
    totals = [shared + a + b for a, b in zip(inputs, answers, strict=True)]
    over = [index for index, total in enumerate(totals) if total > context_length]
    if over:
        first = rows[over[0]]
        raise DataError(
            f"{first.origin} is longer than the model's context",
            found=f"{totals[over[0]]} tokens with the prompt ({shared}) and the answer; "
            f"{len(over)} such row{'s' if len(over) > 1 else ''}",
            expected=f"at most {context_length} tokens",
            fix="shorten or remove these rows, or use a base model with a longer context",
        )
    tokens = TokenCheck(
        shared_prompt_tokens=shared,
        input_tokens=_quantiles(inputs),
        answer_tokens=_quantiles(answers),
        longest_row_tokens=max(totals),
        context_length=context_length,
        rendered=tuple(renderer.marked_text(row) for row in _to_show(fit_view.train)),
    )
    return dataclasses.replace(check, tokens=tokens)


def check_labels(splits: Mapping[str, Sequence[Row]], spec: TaskSpec) -> None:
    """Refuse a task that cannot be learned: one class only, or labels that train never has.

    Args:
        splits: rows by split, as they will be used.
        spec: what is asked.

    Raises:
        DataError: naming the labels and rows.
    """
    if spec.kind not in (Kind.CLASSIFICATION, Kind.MULTI_LABEL):
        return
    if len(spec.labels) < 2:
        raise DataError(
            "the data have one class only",
            found=f"every answer is {spec.labels[0]!r}" if spec.labels else "no label",
            expected="at least two different labels",
            fix="check the output column, or set --kind if the answers are no labels",
        )
    known = {label for row in splits["train"] for label in labels_of(row, spec.kind)}
    for split in ("test", "validation"):
        unknown = [
            (label, row.origin)
            for row in splits.get(split, ())
            for label in labels_of(row, spec.kind)
            if label not in known
        ]
        if unknown:
            labels = sorted({label for label, _ in unknown})
            raise DataError(
                f"labels in {split} that train never has: {', '.join(map(repr, labels[:10]))}",
                found=", ".join(f"{label!r} in {origin}" for label, origin in unknown[:EXAMPLES]),
                expected="every label in at least one train row "
                f"(train has {len(known)} labels after cleaning)",
                fix="add train rows with these labels, correct them, or remove the rows",
            )


def _to_show(rows: Sequence[Row]) -> list[Row]:
    """The first rows with different answers, filled up with the first of all."""
    first = {row.output: row for row in reversed(rows)}
    chosen = [row for row in rows if first[row.output] is row][:_RENDERED]
    return (chosen + [row for row in rows if row not in chosen])[:_RENDERED]


def _quantiles(numbers: Sequence[int]) -> Quantiles:
    return Quantiles(
        smallest=min(numbers),
        median=float(np.median(numbers)),
        percentile_95=float(np.percentile(numbers, 95)),
        largest=max(numbers),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Kind) else value
