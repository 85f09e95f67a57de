"""How a fit by gradient is laid out inside its budget: a pure function of settings and costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tunewise.errors import BudgetTooSmallError
from tunewise.model.row_order import RowOrder

# A trial shorter than this ends inside the warm-up and tells nothing.
_SHORTEST_TRIAL_STEPS = 8
_TRIAL_SHARE = 0.125
# For each trial beside the main run so many steps, of which it takes no more than a sixth.
_FEWEST_STEPS_FOR_A_TRIAL = 48
# Rows of a step where none are asked for: fewer where the budget, or the passes over few training
# rows, would leave few steps, since more and smaller ones then learn more (docs/log.md); but no
# steps of so few token passes that the processor waits more than it computes, and none whose number
# hardly grows, since every step pays for the shared text.
BATCH_SIZES = (16, 8, 4)
_ENOUGH_STEPS = 48
_WORTH_IT = 1.5
_SMALLEST_STEP = 400


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to train that races with others.

    Attributes:
        learning_rate: the peak.
        own_rates: (beginning of parameters' names, their own peak).
        start: which of the starts it begins from; 0 is step 0.
    """

    learning_rate: float
    own_rates: tuple[tuple[str, float], ...] = ()
    start: int = 0

    def told(self) -> dict[str, Any]:
        """For records: JSON values, and nothing of what only some fits have."""
        facts: dict[str, Any] = {"learning_rate": self.learning_rate}
        if self.own_rates:
            facts["own_rates"] = {begin.rstrip("/"): rate for begin, rate in self.own_rates}
        return facts | ({"start": self.start} if self.start else {})


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is asked of a fit by gradient.

    Attributes:
        candidates: those that race, the method's default first; one, where there is no race.
        steps: exact number of optimizer steps; None for as many as budget and `epochs` allow.
        least_steps: a budget that pays for fewer is refused, where `steps` is None.
        epochs: passes over the training rows at most, where `steps` is None.
        batch_sizes: rows of a step that may be taken, the largest first.
        warmup_steps, weight_decay, row_order, most_positions: see `LoopSettings`.
        decay: whether the learning rate falls to zero at the end.
        judgements: how often the main run is judged.
        validation_rows: rows of a judgement at most, fewer where the budget is small; a trial is
            judged on half as many.
    """

    candidates: tuple[Candidate, ...]
    steps: int | None = None
    least_steps: int = 1
    epochs: float = 10.0
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    warmup_steps: int = 4
    weight_decay: float = 0.0
    row_order: RowOrder = "shuffled"
    most_positions: int = 4096
    decay: bool = True
    judgements: int = 3
    validation_rows: int = 128

    def most_steps(self, rows: int, batch_size: int) -> int:
        """Steps at most, of so many of the training rows."""
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * math.ceil(rows / batch_size)))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch between two stored states: a trial from the start, or a piece of the main run.

    Attributes:
        candidate: number of the one that is tried; None for a piece of the main run.
        until_step: the step it ends at.
    """

    candidate: int | None
    until_step: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What fits into the budget.

    Attributes:
        candidates: those that race; one where there is no race.
        batch_size: rows of a step.
        steps: of the main run, the winner's trial included.
        trial_steps: of each trial; 0 without a race.
        stages: trials first.
    """

    candidates: tuple[Candidate, ...]
    batch_size: int
    steps: int
    trial_steps: int
    stages: tuple[Stage, ...]


def lay_out(
    plan: TrainingPlan,
    costs: Callable[[int], Iterator[int]],
    *,
    rows: int,
    remaining: int | None,
    judgement: int,
    trial_judgement: int,
) -> Layout:
    """Lay a plan out: with a race of as many candidates as the budget pays for, else without.

    Args:
        plan: what is asked.
        costs: of a number of rows in a step, token passes of step after step, without end.
        rows: training rows.
        remaining: token passes left; None without a limit.
        judgement: token passes of one judgement.
        trial_judgement: token passes of judging one trial.

    Raises:
        BudgetTooSmallError: not one step is affordable, or not the exact number that is asked.
    """
    found: list[Layout] = []
    for size in plan.batch_sizes:
        if found and (found[-1].steps >= _ENOUGH_STEPS or _mean(costs(size)) < _SMALLEST_STEP):
            break
        try:
            sized = _Sized(plan, size, partial(costs, size), rows, remaining)
            layout = sized.layout(judgement, trial_judgement)
        except BudgetTooSmallError:
            if found or size != plan.batch_sizes[-1]:
                continue
            raise
        if found and layout.steps < _WORTH_IT * found[-1].steps:
            break
        found.append(layout)
    return found[-1]


@dataclass(frozen=True, slots=True)
class _Sized:
    """A plan with steps of so many rows."""

    plan: TrainingPlan
    batch_size: int
    costs: Callable[[], Iterator[int]]
    rows: int
    remaining: int | None

    def layout(self, judgement: int, trial_judgement: int) -> Layout:
        """See `lay_out`."""
        plan, size, remaining = self.plan, self.batch_size, self.remaining
        most = plan.most_steps(self.rows, size)
        passes = _passes(self.costs(), most, remaining)
        judging = judgement * (1 + min(plan.judgements, most))
        racing = len(plan.candidates) if plan.steps is None else 1
        fewest = min(plan.least_steps, most) if plan.steps is None else plan.steps
        for count in range(racing, 1, -1):
            free = _free(remaining, judging + trial_judgement * count)
            steps = _affordable(passes, free, further_trials=count - 1)
            if steps >= max(fewest, _FEWEST_STEPS_FOR_A_TRIAL * (count - 1)):
                stages = _stages(plan, count, steps, _trial(steps))
                return Layout(plan.candidates[:count], size, steps, _trial(steps), stages)
        steps = _affordable(passes, _free(remaining, judging))
        if steps < fewest:
            wanted = "one optimizer step" if fewest == 1 else f"{fewest} optimizer steps"
            needed = judging + _passes(self.costs(), fewest)[-1]
            raise BudgetTooSmallError(
                f"the budget does not pay for {wanted}",
                found=f"{remaining} token passes",
                expected=f"at least {needed}, of which judging on validation rows takes {judging}",
                fix="raise --budget, or lower --steps, --batch-size or --validation-rows",
            )
        return Layout(plan.candidates[:1], size, steps, 0, _stages(plan, 0, steps, 0))


def _mean(costs: Iterator[int]) -> float:
    """Token passes of a step, about."""
    some = list(itertools.islice(costs, _SHORTEST_TRIAL_STEPS))
    return sum(some) / len(some)


def _passes(costs: Iterator[int], most: int, limit: int | None = None) -> list[int]:
    """Token passes of the first 0, 1, 2, ... steps, as far as the limit goes."""
    passes = [0]
    for cost in itertools.islice(costs, most):
        if limit is not None and passes[-1] + cost > limit:
            break
        passes.append(passes[-1] + cost)
    return passes


def _free(remaining: int | None, judging: int) -> float:
    return math.inf if remaining is None else remaining - judging


def _affordable(passes: Sequence[int], free: float, *, further_trials: int = 0) -> int:
    steps = len(passes) - 1
    while steps > 0:
        trial = min(_trial(steps), steps)
        if passes[steps] + further_trials * passes[trial] <= free:
            break
        steps -= 1
    return steps


def _trial(steps: int) -> int:
    return max(_SHORTEST_TRIAL_STEPS, round(_TRIAL_SHARE * steps))


def _stages(plan: TrainingPlan, racing: int, steps: int, trial_steps: int) -> tuple[Stage, ...]:
    pieces = min(plan.judgements, steps - trial_steps)
    length = (steps - trial_steps) / pieces
    ends = [trial_steps + round(length * (index + 1)) for index in range(pieces)]
    trials = [Stage(number, trial_steps) for number in range(racing)]
    return (*trials, *(Stage(None, end) for end in ends))
