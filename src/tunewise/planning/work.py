"""How much work a fit is: positions through the base, counted without running any.

A training is asked for its own layout of rows, steps and judgements. A prompt that no seed changes
is judged once. A search, whose work depends on what it meets, is given its whole budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Judge
from tunewise.adaptation.parts import Part
from tunewise.adaptation.plan import Candidate, TrainingPlan
from tunewise.adaptation.training import Training
from tunewise.methods._contract import Method
from tunewise.methods._gradient import GradientMethod, Preparation
from tunewise.methods._settings._training import TrainingSettings
from tunewise.model.calibrate import Pace
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.prefix import PrefixInputs
from tunewise.planning.pace import PlannedTask

# What races where a method does not tell: two learning rates. Only their number matters here.
_RACING = (Candidate(1.0), Candidate(0.5))
_JUDGED_ROWS = 256
_MOST_POSITIONS = 4096


@dataclass(slots=True)
class Work:
    """The work of one fit.

    Attributes:
        judged: positions run without gradients.
        stepped: forward positions of optimizer steps.
        backward: backward passes.
        head: positions through the output head, as the ledger counts them.
        steps: optimizer steps.
        largest_step: forward positions that one step holds at once, at most.
        races: whether learning rates race.
        at_most: whether all this is a ceiling.
    """

    judged: int = 0
    stepped: int = 0
    backward: int = 0
    head: int = 0
    steps: int = 0
    largest_step: int = 0
    races: bool = False
    at_most: bool = False

    @property
    def forward(self) -> int:
        """All forward positions."""
        return self.judged + self.stepped


def work_of(
    task: PlannedTask, method: Method, settings: Any, *, seed: int, budget: int, pace: Pace
) -> Work:
    """The work of one fit of a method that calls the base.

    Args:
        task: the task's rows.
        method: the method.
        settings: an instance of its `Settings`.
        seed: of the fit.
        budget: token passes of the fit.
        pace: what the method trains.

    Raises:
        BudgetTooSmallError: the budget does not pay for a step.
    """
    context = _context(task, seed, budget)
    if method.needs.gradients and isinstance(settings, TrainingSettings):
        racing: tuple[Candidate, ...] = _RACING
        prepare: Callable[[], Preparation] = Preparation
        if isinstance(method, GradientMethod):
            racing = method.candidates(settings)
            prepare = partial(method.preparation, context, settings, task.renderer)
        return _training(task, context, settings.plan(racing), pace, prepare)
    if method.needs.gradients or method.needs.seeds:
        return _whole_budget(task, budget, pace)
    rows = getattr(settings, "validation_rows", _JUDGED_ROWS)
    work = Work()
    _add_judgement(work, task, Judge(context, task.renderer, most_rows=rows), pace)
    # What is not affordable is left out, and costs nothing.
    return work if work.judged <= budget else Work()


class _Shape:
    """Stands for what a fit trains where only the work is asked for.

    Laying a training out reads numbers only. Whatever would run the model or take a result is a
    fault of the planner, and ends it rather than costing what a fit costs.
    """

    def __init__(self, pace: Pace) -> None:
        self.parameters = {"nothing": torch.zeros(1, requires_grad=True)}
        self.backward_passes = pace.backward_passes
        self.prefix_positions = pace.prefix_positions
        self.frozen_layers = pace.frozen_layers

    def prefix_inputs(self) -> PrefixInputs:
        """Never computed."""
        raise NotImplementedError

    def parts(self) -> tuple[Part, ...]:
        """Never found."""
        raise NotImplementedError

    def collect_gradients(self) -> None:
        """There are none."""

    def publish(self) -> None:
        """Nothing has changed."""


def _context(task: PlannedTask, seed: int, budget: int) -> FitContext:
    base, loaded = task.ground.base, task.ground.task
    ledger = Ledger(base.body_parameters, base.head_parameters, budget)
    return FitContext(base, loaded.fit_view, ledger, seed, FitLog(), loaded.data_hash)


def _training(
    task: PlannedTask,
    context: FitContext,
    plan: TrainingPlan,
    pace: Pace,
    prepare: Callable[[], Preparation],
) -> Work:
    """The work of a training, as its own layout has it."""
    if context.ledger.covers(pace.begun):
        context.ledger.charge(forward=pace.begun)
    before = prepare()
    context.ledger.charge(forward=before.forward, head=before.head)
    training = Training(context, task.renderer, _Shape(pace), plan, examples=before.examples)
    layout, loop, examples = training.layout, training.loop, training.examples
    work = Work(
        judged=pace.begun + before.forward + training.lower_cost,
        head=before.head,
        races=layout.trial_steps > 0,
    )
    passes_of = [loop.work(step) for step in range(layout.steps)]
    passes = 1 + max(1, int(pace.backward_passes))
    heads = [
        passes * sum(len(examples[index].answer) for index in loop.order.batch(step))
        for step in range(layout.steps)
    ]
    _add_judgement(work, task, training.judge, pace)
    done = layout.trial_steps
    for stage in layout.stages:
        trial = stage.candidate is not None
        stretch = slice(0 if trial else done, stage.until_step)
        work.steps += stretch.stop - stretch.start
        work.stepped += sum(forward for forward, _ in passes_of[stretch])
        work.backward += sum(backward for _, backward in passes_of[stretch])
        work.head += sum(heads[stretch])
        _add_judgement(work, task, training.trial_judge if trial else training.judge, pace)
        done = done if trial else stage.until_step
    work.largest_step = min(
        max(forward for forward, _ in passes_of), plan.most_positions + pace.prefix_positions
    )
    return work


def _add_judgement(work: Work, task: PlannedTask, judge: Judge, pace: Pace) -> None:
    work.judged += judge.cost + pace.prefix_positions
    if task.labels:
        work.head += len(judge.examples) * (1 + task.inner)
    else:
        work.head += sum(len(each.answer) for each in judge.examples)


def _whole_budget(task: PlannedTask, budget: int, pace: Pace) -> Work:
    """The work of a method that spends as it goes."""
    forward = round(budget / (1 + pace.backward_passes))
    if task.labels:
        positions = sum(len(each.row) + task.inner for each in task.examples)
        asked = len(task.examples) * (1 + task.inner)
    else:
        positions = sum(len(each.inputs) for each in task.examples)
        asked = sum(len(each.answer) for each in task.examples)
    trains = pace.backward_passes > 0
    return Work(
        judged=0 if trains else forward,
        stepped=forward if trains else 0,
        backward=budget - forward,
        head=round(forward * asked / positions),
        largest_step=min(forward, _MOST_POSITIONS) if trains else 0,
        at_most=True,
    )
