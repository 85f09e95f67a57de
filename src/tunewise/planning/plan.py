"""The plan of a run: each fit's work, and what it takes on this machine.

Token passes are computed by asking (`work.py`), seconds from two seconds of timing this base on
rows of this task (`pace.py`), memory from what a step of that kind keeps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import psutil

from tunewise.errors import BudgetTooSmallError
from tunewise.measure.records import SkippedMethod
from tunewise.methods._contract import Method, prompts_at_most
from tunewise.model.calibrate import Pace
from tunewise.model.decode import MOST_POSITIONS, MOST_ROWS
from tunewise.model.forward import group_by_length
from tunewise.model.score import scoring_positions
from tunewise.planning.pace import Paces, PlannedTask
from tunewise.planning.records import JobPlan, RunPlan
from tunewise.planning.work import Work, work_of
from tunewise.steps import Ground
from tunewise.task.types import Row

# Copies of what is trained, in float32: the master, its best step, its gradient, two moments. A
# race keeps the start besides, and the winner with its moments. Storing copies the moments.
_COPIES, _RACE_COPIES, _STORED_COPIES = 5, 4, 2
# Memory that a step takes for each byte it keeps: the way back works on gradients as large, and the
# allocator leaves holes. Measured on the default base: 1.4 for virtual tokens, 1.7 for low rank.
_WORKING_SHARE = 1.5
# Logits of a judged position as computed, in float32, and as log-probabilities: bytes a column.
_LOGIT_BYTES = 10
_JUDGED_POSITIONS, _JUDGED_ROWS = 4096, 64


class Planner:
    """Predicts runs of one task on this machine, which is timed once.

    The base is as before when it ends; nothing is written.

    Args:
        ground: base and task.
        jobs: methods and seeds, in the order they run.
        settings: settings by method.

    Attributes:
        jobs, settings: those.
    """

    def __init__(
        self, ground: Ground, jobs: Sequence[tuple[Method, int]], settings: Mapping[str, Any]
    ) -> None:
        self._resident = int(psutil.Process().memory_info().rss)
        self._task = PlannedTask(ground)
        self.jobs, self.settings = tuple(jobs), settings
        methods = list(dict.fromkeys(method for method, _ in jobs))
        self._paces = Paces(self._task, methods, settings)

    @property
    def ground(self) -> Ground:
        """Base and task."""
        return self._task.ground

    def on(self, ground: Ground) -> Planner:
        """The same run with other test rows; the machine is not timed again.

        Args:
            ground: the same base and task.
        """
        other = copy(self)
        other._task = PlannedTask(ground, self._task.renderer)
        return other

    def plan(self, skipped: Sequence[SkippedMethod], budget: int, questions: int = 0) -> RunPlan:
        """Predict every fit of a run.

        Args:
            skipped: methods that are left out already.
            budget: token passes per fit.
            questions: token passes that the questions may take.
        """
        planned: list[JobPlan] = []
        too_dear: dict[str, SkippedMethod] = {}
        for method, seed in self.jobs:
            if method.name in too_dear:
                continue
            try:
                planned.append(self.job(method, seed, budget))
            except BudgetTooSmallError as error:
                too_dear[method.name] = SkippedMethod.because(method.name, error)
        kept = [job for job in planned if job.method not in too_dear]
        return self.together(kept, (*skipped, *too_dear.values()), budget, questions)

    def together(
        self,
        jobs: Sequence[JobPlan],
        skipped: Sequence[SkippedMethod],
        budget: int,
        questions: int,
    ) -> RunPlan:
        """A run of these fits, in this order; see `plan`."""
        # What a fit gives back stays with the process, so no later peak is below an earlier one.
        peaks = itertools.accumulate((job.peak_bytes for job in jobs), max)
        risen = tuple(replace(job, peak_bytes=peak) for job, peak in zip(jobs, peaks, strict=True))
        asking = questions * self._paces.plain.forward
        return RunPlan(risen, tuple(skipped), budget, self._paces.seconds, questions, asking)

    def job(
        self, method: Method, seed: int, budget: int, *, trial: Callable[[Any], Any] | None = None
    ) -> JobPlan:
        """Predict one fit, and answering for what it finds.

        Args:
            method: one of the run.
            seed: of the fit.
            budget: token passes.
            trial: turns settings into those of a trial, which answers validation rows only; None
                for a whole fit.

        Raises:
            BudgetTooSmallError: the budget does not pay for it.
        """
        if not method.needs.base:
            return JobPlan(method.name, seed, 0, 0, 0, False, 0.0, 0.0, self._resident)
        task, paces, pace = self._task, self._paces, self._paces.of(method)
        settings = self.settings[method.name]
        settings = settings if trial is None else trial(settings)
        work = work_of(task, method, settings, seed=seed, budget=budget, pace=pace)
        job = _job(task, method, seed, work, paces, self._resident)
        # Every row is read behind every prompt.
        seconds = prompts_at_most(settings) * _answer_seconds(
            task, method, paces, tested=trial is None
        )
        return replace(job, measure_seconds=seconds, trial=trial is not None)


def _job(
    task: PlannedTask, method: Method, seed: int, work: Work, paces: Paces, resident: int
) -> JobPlan:
    base, pace = task.ground.base, paces.of(method)
    passes = work.forward + work.backward
    if work.at_most and not method.needs.gradients:
        pace = replace(pace, forward=paces.searching)
    return JobPlan(
        method=method.name,
        seed=seed,
        forward_tokens=work.forward,
        backward_tokens=work.backward,
        flops=2 * (base.body_parameters * passes + base.head_parameters * work.head),
        at_most=work.at_most,
        fit_seconds=_fit_seconds(work, pace),
        measure_seconds=0.0,
        peak_bytes=resident + _held_bytes(task, work, pace, paces.forward_bytes),
    )


def _fit_seconds(work: Work, pace: Pace) -> float:
    steps = work.backward * pace.backward + work.steps * pace.update
    return pace.setup + work.forward * pace.forward + steps


def _answer_seconds(task: PlannedTask, method: Method, paces: Paces, *, tested: bool) -> float:
    pace = paces.of(method)
    positions, generated = answer_work(task, trained=method.needs.gradients, tested=tested)
    # Either set of rows has the prompt computed for it.
    positions += (2 if tested else 1) * pace.prefix_positions
    return positions * pace.forward + generated * paces.decode


def answer_work(task: PlannedTask, *, trained: bool, tested: bool = True) -> tuple[int, int]:
    """Positions of prompts and generated tokens, for answering all validation and test rows.

    Args:
        task: the task's rows.
        trained: whether the model has learned where an answer ends.
        tested: whether test rows are answered too.
    """
    loaded = task.ground.task
    ours = _answering(task, loaded.fit_view.validation, trained)
    if not tested:
        return ours
    theirs = loaded.test.checked(lambda rows: _answering(task, rows, trained))
    # Test rows are answered twice where the answer is JSON, with and without its grammar.
    times = 2 if task.decoding.mode == "json" else 1
    return ours[0] + times * theirs[0], ours[1] + times * theirs[1]


def _answering(task: PlannedTask, rows: Sequence[Row], trained: bool) -> tuple[int, int]:
    renderer, decoding = task.renderer, task.decoding
    prompts = [renderer.row_tokens(row.input) for row in rows]
    if decoding.mode == "score":
        return scoring_positions(task.ground.base, prompts, task.labels), 0
    lengths = [len(prompt) for prompt in prompts]
    batches = group_by_length(lengths, most_positions=MOST_POSITIONS, most_rows=MOST_ROWS)
    positions = sum(len(batch) * lengths[batch[0]] for batch in batches)
    answers = [len(renderer.answer_tokens(row.output)) for row in rows]
    if not trained and decoding.mode != "trie":
        answers = [decoding.max_new_tokens] * len(rows)
    # The first token comes with the prompt.
    return positions, sum(answers) - len(rows)


def _held_bytes(task: PlannedTask, work: Work, pace: Pace, forward_bytes: float) -> int:
    """What a fit holds at its peak, beside what is resident already."""
    base, rows = task.ground.base, task.ground.task.fit_view.validation
    lengths = [len(task.renderer.row_tokens(row.input)) + task.inner for row in rows]
    batches = group_by_length(lengths, most_positions=_JUDGED_POSITIONS, most_rows=_JUDGED_ROWS)
    slots, batch = max(
        ((len(batch) * lengths[batch[0]], batch) for batch in batches), default=(0, [])
    )
    asked = len(batch) * (1 + task.inner)
    if not task.labels:
        asked = sum(len(task.renderer.answer_tokens(rows[index].output)) for index in batch)
    judged = slots * forward_bytes + asked * base.vocabulary * _LOGIT_BYTES
    copies = _COPIES + (_RACE_COPIES if work.races else 0)
    # Working copies and their gradients are in the dtype that the base computes in.
    trained = pace.trained * (4 * copies + 2 * base.dtype.itemsize)
    stored = pace.trained * 4 * _STORED_COPIES
    step = _WORKING_SHARE * work.largest_step * pace.saved_bytes
    return round(trained + pace.laid_out_bytes + max(step, judged, stored))
