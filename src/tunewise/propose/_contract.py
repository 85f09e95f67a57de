"""What a way of proposing is: it is told about the task and its failures, and gives instructions.

All it sees is a `Brief`, which is made of training rows. Validation and test rows cannot reach it:
nothing here is given a view that holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from tunewise.propose._asking import Asker
from tunewise.task.types import Row, TaskSpec


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the base answered one training row.

    Attributes:
        row: the row.
        answer: what it answered; None where it failed.
        score: by the task's metric, 0 to 1.
    """

    row: Row
    answer: str | None
    score: float


# An instruction on some training rows; raises BudgetExceededError where its share is used up.
Evaluate: TypeAlias = Callable[[str, Sequence[Row]], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Brief:
    """What a proposer is told.

    Attributes:
        spec: the task.
        instruction: the instruction there is.
        outcomes: how it does on training rows.
    """

    spec: TaskSpec
    instruction: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """Those that went wrong."""
        return tuple(each for each in self.outcomes if each.score < 1.0)


@runtime_checkable
class Proposer(Protocol):
    """The contract itself.

    Attributes:
        name: as `--propose-through` is given it, also the file's name.
        summary: one line for the help.
        package: the package it needs, or "".
    """

    name: str
    summary: str
    package: str

    def propose(
        self, brief: Brief, ask: Asker, evaluate: Evaluate, *, count: int, seed: int
    ) -> list[str]:
        """Instructions to try, each once, at most `count`.

        Args:
            brief: the task and its failures.
            ask: the model that proposes; keeps a record of every question.
            evaluate: how an instruction does on training rows.
            count: instructions wanted.
            seed: of everything random.

        Raises:
            UnavailableError: the model cannot be reached.
        """
        ...
