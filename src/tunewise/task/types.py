"""The records of a task: rows, what is asked, and the two views of the data.

`FitView` holds no test rows and no way to reach them, so a method cannot leak what it never had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")


class Kind(StrEnum):
    """What an answer is."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi_label"
    SHORT_ANSWER = "short_answer"
    GENERATION = "generation"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        id: unique within the task.
        input: the text that is given.
        output: the answer as the model should write it (several labels joined by ", "; JSON in
            its canonical form).
        references: every accepted answer, `output` first.
        domain: a named slice of the data, or None.
        group: rows of one group never stand in two splits; None where rows are independent.
        origin: file and row number, for messages ("tickets.csv row 17").
    """

    id: str
    input: str
    output: str
    references: tuple[str, ...]
    domain: str | None = None
    group: str | None = None
    origin: str = ""


class Grouped(Protocol):
    """What may belong to a group: a row, or what was measured of one."""

    @property
    def id(self) -> str:
        """Of the row."""
        ...

    @property
    def group(self) -> str | None:
        """See `Row`."""
        ...


def clusters_of(rows: Sequence[Grouped]) -> list[str] | None:
    """The cluster of each row, for intervals that must not take rows for independent ones.

    Args:
        rows: whose scores are averaged, or the results of such.

    Returns:
        A name for each: of its group, or of itself where it has none. None where no two rows share
        a group, and all are independent.
    """
    named = [f"row {row.id}" if row.group is None else f"group {row.group}" for row in rows]
    return named if len(set(named)) < len(named) else None


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What is asked, without the data.

    Attributes:
        name: short name, taken from the file unless given.
        kind: what an answer is.
        instruction: the instruction in plain words, as the user gave it or as composed from the
            kind and the labels.
        labels: the labels in sorted order, for the two kinds that have them; else empty.
        metric: name of the metric (`task.score`), always "higher is better", between 0 and 1.
        schema: JSON schema of an answer, or None.
    """

    name: str
    kind: Kind
    instruction: str
    labels: tuple[str, ...]
    metric: str
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FitView:
    """All that a method may see: the task and the rows for fitting and choosing."""

    spec: TaskSpec
    train: tuple[Row, ...]
    validation: tuple[Row, ...]


@dataclass(slots=True)
class LockedTest:
    """The test rows behind a counter; opened once, after everything is fitted.

    Attributes:
        times_opened: calls of `open`.
        left_out: further test rows that are not answered; see `some`.
    """

    _rows: tuple[Row, ...] = field(repr=False)
    times_opened: int = 0
    left_out: int = 0

    def __len__(self) -> int:
        return len(self._rows)

    def some(self, count: int) -> LockedTest:
        """So many of the rows, drawn at random, as locked as before.

        Which ones is the same every time, and more of them hold the fewer. Rows of one group need
        not stay together: what is told of them counts by group, and many groups of a few rows tell
        more than a few whole ones.

        Args:
            count: rows at most; all of them where there are no more.
        """
        if count >= len(self._rows):
            return self
        drawn = np.random.default_rng(0).permutation(len(self._rows))[:count]
        kept = tuple(self._rows[int(place)] for place in np.sort(drawn))
        return LockedTest(kept, left_out=len(self) + self.left_out - count)

    def open(self) -> tuple[Row, ...]:
        """The rows; each call is counted."""
        self.times_opened += 1
        return self._rows

    def checked(self, check: Callable[[tuple[Row, ...]], T]) -> T:
        """What the data check finds in the rows, which themselves stay locked; not counted.

        Args:
            check: is handed the rows and tells lengths and faults, never the rows.
        """
        return check(self._rows)
