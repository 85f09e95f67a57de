"""What all trained methods share: what they train, where it starts, and one `fit`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import Part
from tunewise.adaptation.plan import Candidate
from tunewise.adaptation.snapshot import Snapshot
from tunewise.adaptation.trainables import TrainablePart
from tunewise.adaptation.training import Training
from tunewise.errors import BudgetTooSmallError, ConfigError
from tunewise.methods._contract import MethodSettings, Needs
from tunewise.model.answers import Example
from tunewise.task.render import Renderer


@dataclass(frozen=True, slots=True)
class Opened:
    """What a method trains, at its start, while it stands in the model.

    Attributes:
        trainable: what is trained.
        kept: parts of the start that stay beside it.
        further_starts: of candidates that begin elsewhere.
        examples: what it learns from; the training rows where None.
        notes: for the record.
    """

    trainable: TrainablePart
    kept: tuple[Part, ...]
    further_starts: tuple[Snapshot, ...] = ()
    examples: tuple[Example, ...] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a fit computes between its start and its first step.

    Attributes:
        forward: positions.
        head: of them through the output head.
        examples: what it then learns from; the training rows where None.
    """

    forward: int = 0
    head: int = 0
    examples: tuple[Example, ...] | None = None


class GradientMethod:
    """A method that trains by gradient: it says what is trained, and from where.

    Attributes:
        learning_rates: those that race where none is given, the default first.
    """

    name: str
    summary: str
    produces: tuple[str, ...]
    needs: Needs
    Settings: type[MethodSettings]
    learning_rates: ClassVar[tuple[float, ...]] = ()

    def opened(
        self, context: FitContext, settings: Any, renderer: Renderer, parts: tuple[Part, ...]
    ) -> AbstractContextManager[Opened]:
        """What is trained, at its start, while the context lasts.

        Args:
            context: the fit.
            settings: an instance of `Settings`.
            renderer: of the prompt that the fit starts from.
            parts: of the start. Those inside the model are attached here, and none before.
        """
        raise NotImplementedError  # each method that trains has its own

    def candidates(self, settings: Any) -> tuple[Candidate, ...]:
        """What races: the learning rates, unless one is given."""
        rate = settings.learning_rate
        return tuple(map(Candidate, self.learning_rates if rate is None else (rate,)))

    def preparation(self, context: FitContext, settings: Any, renderer: Renderer) -> Preparation:
        """What `opened` will compute besides its start; nothing is run here.

        Args:
            context: a fit without a start, whose ledger has paid for what it begins with.
            settings: an instance of `Settings`.
            renderer: of the prompt that the fit starts from.

        Raises:
            InputError: the fit would be refused.
        """
        return Preparation()

    def fit(self, context: FitContext, settings: Any) -> Adaptation:
        """See `Method.fit`."""
        renderer = Renderer(context.base.tokenizer, context.view.spec, context.starting_prompt())
        candidates = self.candidates(settings)
        if settings.steps is not None:
            _check_without_race(candidates)
        with self.opened(context, settings, renderer, context.starting_parts()) as opened:
            training = Training(
                context,
                renderer,
                opened.trainable,
                settings.plan(candidates),
                further_starts=opened.further_starts,
                examples=opened.examples,
            )
            _check_starts(candidates, training)
            decoding, notes = training.run()
            parts = (*opened.kept, *opened.trainable.parts())
        return context.finish(self.name, settings, parts, decoding, **opened.notes, **notes)


def _starts(candidates: tuple[Candidate, ...]) -> int:
    return 1 + max(each.start for each in candidates)


def _check_without_race(candidates: tuple[Candidate, ...]) -> None:
    if _starts(candidates) > 1:
        raise ConfigError(
            "an exact number of steps leaves no race of starts",
            found=f"--steps with {_starts(candidates)} starts",
            expected="one of the two",
            fix="leave --steps out, or start once",
        )


def _check_starts(candidates: tuple[Candidate, ...], training: Training) -> None:
    wanted, payable = _starts(candidates), _starts(training.layout.candidates)
    if payable < wanted:
        raise BudgetTooSmallError(
            f"the budget does not pay for a race of {wanted} starts",
            found=f"it pays for {training.layout.steps} steps from {payable}",
            fix="raise --budget, or race fewer starts",
        )
