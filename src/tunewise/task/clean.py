"""Clean rows: empty ones and duplicates go, near-duplicates never stand on both sides of a split.

Every function returns what it found as a `Finding`: a count and examples that name the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunewise.task.check import EXAMPLES, Finding
from tunewise.task.near import NearDuplicates, find_near_duplicates, fold
from tunewise.task.types import Row

Splits = dict[str, list[Row]]
# A row gives way to a near-duplicate in a split that stands further left.
_STRONGER = (("validation", ("test",)), ("train", ("test", "validation")))


def drop_empty(splits: Mapping[str, Sequence[Row]]) -> tuple[Splits, Finding]:
    """Drop rows whose input is empty, and rows without an answer.

    Args:
        splits: rows by split.

    Returns:
        the rows kept, and those with an answer that were dropped: the others are counted by
        `rows.answered_records`.
    """
    kept: Splits = {}
    examples: list[str] = []
    for split, rows in splits.items():
        kept[split] = [row for row in rows if row.input and row.output]
        examples += [
            f"{row.origin}: the input is empty" for row in rows if row.output and not row.input
        ]
    return kept, Finding(len(examples), tuple(examples[:EXAMPLES]))


def drop_duplicates(splits: Mapping[str, Sequence[Row]]) -> tuple[Splits, Finding]:
    """Keep one of the rows of a split that have the same input and answer: the first.

    Args:
        splits: rows by split.

    Returns:
        the rows kept and what was dropped.
    """
    kept: Splits = {}
    examples: list[str] = []
    for split, rows in splits.items():
        first: dict[tuple[str, str], Row] = {}
        for row in rows:
            known = first.setdefault((row.input, row.output), row)
            if known is not row:
                examples.append(f"{row.origin} repeats {known.origin}: {_short(row.input)}")
        kept[split] = list(first.values())
    return kept, Finding(len(examples), tuple(examples[:EXAMPLES]))


def find_contradictions(rows: Sequence[Row]) -> Finding:
    """Count inputs that stand with different answers; case and punctuation are folded.

    Args:
        rows: of all splits.
    """
    answers: dict[str, dict[str, Row]] = {}
    for row in rows:
        answers.setdefault(fold(row.input), {}).setdefault(row.output, row)
    examples = [
        f"{_short(next(iter(each.values())).input)}: "
        + ", ".join(f"{_short(row.output)} in {row.origin}" for row in each.values())
        for each in answers.values()
        if len(each) > 1
    ]
    return Finding(len(examples), tuple(examples[:EXAMPLES]))


def remove_near_duplicates(
    splits: Mapping[str, Sequence[Row]], similarity: float
) -> tuple[Splits, Finding, Finding]:
    """Remove validation rows near a test row, and train rows near a test or validation row.

    Rows of one split that are near-duplicates of each other are counted and kept.

    Args:
        splits: rows by split.
        similarity: from which two inputs are near-duplicates.

    Returns:
        the rows kept, near-duplicates within splits, near-duplicates removed across splits.
    """
    places = [(split, row) for split, rows in splits.items() for row in rows]
    near = find_near_duplicates([row.input for _, row in places], similarity)
    members: dict[str, dict[int, int]] = {split: {} for split in splits}
    for index, (split, _) in enumerate(places):
        members[split].setdefault(near.classes[index], index)
    removed: set[int] = set()
    examples: list[str] = []
    for weaker, stronger in _STRONGER:
        for index, (split, row) in enumerate(places):
            match = _match(near, index, members, stronger) if split == weaker else None
            if match is not None:
                removed.add(index)
                other_split, other = places[match]
                examples.append(
                    f"{split} {row.origin} {_short(row.input)} is near {other_split} "
                    f"{other.origin} {_short(other.input)}"
                )
        # A row that is gone makes nothing else go.
        for split in members:
            members[split] = {
                near.classes[i]: i
                for i, (where, _) in reversed(list(enumerate(places)))
                if where == split and i not in removed
            }
    kept: Splits = {split: [] for split in splits}
    for index, (split, row) in enumerate(places):
        if index not in removed:
            kept[split].append(row)
    across = Finding(len(examples), tuple(examples[:EXAMPLES]))
    return kept, _within(near, places, removed), across


def _match(
    near: NearDuplicates,
    index: int,
    members: Mapping[str, Mapping[int, int]],
    splits: Sequence[str],
) -> int | None:
    """The first row of these splits that is near the row at `index`."""
    found = near.near(index)
    for split in splits:
        inside = [members[split][each] for each in found if each in members.get(split, {})]
        if inside:
            return min(inside)
    return None


def _within(near: NearDuplicates, places: Sequence[tuple[str, Row]], removed: set[int]) -> Finding:
    """Rows that are near an earlier row of their own split."""
    earlier: dict[tuple[str, int], Row] = {}
    examples: list[str] = []
    for index, (split, row) in enumerate(places):
        if index in removed:
            continue
        own = near.classes[index]
        # The same class first, then those alike in their order: the same example every time.
        for each in (own, *sorted(near.near(index) - {own})):
            other = earlier.get((split, each))
            if other is not None:
                examples.append(
                    f"{split} {row.origin} {_short(row.input)} is near "
                    f"{other.origin} {_short(other.input)}"
                )
                break
        earlier.setdefault((split, own), row)
    return Finding(len(examples), tuple(examples[:EXAMPLES]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else f"{line[:60]}...")
