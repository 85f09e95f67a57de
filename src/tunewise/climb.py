"""Climbing the ladder instead of fitting everything: from the cheapest rung up, while it pays.

A rung is a kind of part. Prompts are searched with the whole budget. What trains is tried with a
part of it first, from the plain instruction; two rungs in a row whose trials bring no gain end the
climb. The best trial, and the cheapest one that cannot be told from it, are fitted with the whole
budget, from the best prompt or from the plain instruction where that is the better start, all with
the first seed. A prompt with examples makes every request dear, and is begun at only where the
trial from the plain instruction did not pass it. The cheapest that is then within the noise of the
best is fitted with the other seeds too. All is told from validation rows; test rows play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import PromptTextPart
from tunewise.compare.entries import FEW_STEPS, PROMPT_PART, rung
from tunewise.errors import BudgetTooSmallError
from tunewise.jobs import Job, Jobs
from tunewise.measure.records import SkippedMethod
from tunewise.methods._contract import Method
from tunewise.methods._settings._training import TrainingSettings
from tunewise.methods._starts import EitherStart
from tunewise.numerics.intervals import Floats
from tunewise.numerics.racing import cheapest_within_noise, paired_error
from tunewise.planning.plan import Planner
from tunewise.planning.records import JobPlan, RunPlan

# What a dearer method must bring on validation rows, in the metric's own unit of 0 to 1.
LEAST_GAIN = 0.01
# Of the budget, what a trial has: most of it is for steps. One of fewer than some tells nothing,
# and is not made; it is judged on all validation rows behind it.
TRIAL_SHARE = 0.25
TRIALS = "trials"
_TRIAL: Mapping[str, Callable[[int], int]] = {
    "judgements": lambda given: 1,
    "validation_rows": lambda given: min(given, 64),
    "least_steps": lambda given: max(given, FEW_STEPS),
}
_OF_A_TRAINING = "least_steps"
# Rungs in a row without a gain that end the climb.
_PATIENCE = 2
_TEXT = rung([PROMPT_PART])
_ELSE = "a run with --all, in another --out, fits it"


def climb(jobs: Jobs, asked: Sequence[Job]) -> tuple[list[Job], list[SkippedMethod]]:
    """Fit what pays.

    Args:
        jobs: fits and stores; trials are kept in a folder of their own beside the fits.
        asked: all methods with all seeds.

    Returns:
        What was fitted, cheap methods first, and the methods that were left out, with the reasons.
    """
    way = _Climb(jobs, asked)
    without_gain = 0
    for height, group in groupby(way.methods, key=_rung):
        if without_gain == _PATIENCE:
            way.stop_before(group)
            continue
        step = way.prompt_step if height <= _TEXT else way.trial_step
        # What the budget does not pay for says nothing of its rung.
        gained = [gain for method in group if (gain := step(method)) is not None]
        if height > _TEXT and gained:
            without_gain = 0 if any(gained) else without_gain + 1
    way.trials.all_fitted()
    way.whole_fits()
    way.further_seeds()
    done = [(method, seed) for method in way.methods for seed in way.done.get(method.name, ())]
    return done, list(way.left_out.values())


def at_most(
    planner: Planner, skipped: Sequence[SkippedMethod], budget: int, questions: int = 0
) -> RunPlan:
    """The most that a climb takes: no rung ends it, and what is fitted whole is the dearest.

    Args:
        planner: of all methods with all seeds.
        skipped: methods that are left out already.
        budget: token passes of a whole fit.
        questions: token passes that the questions may take.
    """
    seeds: dict[Method, list[int]] = {}
    for method, seed in planner.jobs:
        seeds.setdefault(method, []).append(seed)
    made: list[JobPlan] = []
    whole: dict[Method, JobPlan] = {}
    too_dear, tried = [], []
    for method, own in seeds.items():
        try:
            whole[method] = planner.job(method, own[0], budget)
        except BudgetTooSmallError as error:
            too_dear.append(SkippedMethod.because(method.name, error))
            continue
        if _rung(method) <= _TEXT:
            made.append(whole[method])
            continue
        try:
            trial = int(TRIAL_SHARE * budget)
            made.append(planner.job(method, own[0], trial, trial=_for_a_trial))
            tried.append(method)
        except BudgetTooSmallError:
            made.append(whole[method])
    # The best trial and the cheapest that is not parted from it.
    dearest = sorted(tried, key=lambda each: -whole[each].seconds)[:2]
    made += [whole[method] for method in dearest]
    fitted = [method for method in whole if whole[method] in made]
    if fitted:
        method = max(fitted, key=lambda each: whole[each].seconds * (len(seeds[each]) - 1))
        for seed in seeds[method][1:]:
            # A seed draws its own rows, and may miss a budget that another just met.
            with suppress(BudgetTooSmallError):
                made.append(planner.job(method, seed, budget))
    plan = planner.together(made, (*skipped, *too_dear), budget, questions)
    return replace(plan, climbs=True)


def trials_of(jobs: Jobs) -> Jobs:
    """What a climb only tries, in a folder of its own."""
    return replace(
        jobs,
        settings={name: _for_a_trial(each) for name, each in jobs.settings.items()},
        budget=int(TRIAL_SHARE * jobs.budget),
        out=jobs.out / TRIALS,
    )


def gains(scores: Floats, before: Floats, clusters: Sequence[str] | None = None) -> bool:
    """Whether a dearer method pays: better by the least gain, and by a standard error.

    Args:
        scores: (n,) of the method.
        before: (n,) of the best so far, on the same rows.
        clusters: (n,) group of each row; None where rows are independent.
    """
    gain = scores - before
    return bool(gain.mean() >= max(LEAST_GAIN, paired_error(gain, clusters)))


def _rung(method: Method) -> int:
    return rung(method.produces)


def cheapest_within_noise_of_the_best(
    methods: Sequence[Method], scores: Mapping[str, Floats], clusters: Sequence[str] | None = None
) -> Method:
    """Of methods with scores on the same rows, in these clusters; the first are the cheapest."""
    losses = np.stack([1.0 - scores[method.name] for method in methods])
    prices = np.arange(len(methods), dtype=np.float64)
    return methods[cheapest_within_noise(losses, prices, clusters=clusters)]


class _Climb:
    """How far the climb is; it is made on the first seed of every method."""

    def __init__(self, jobs: Jobs, asked: Sequence[Job]) -> None:
        self.jobs = jobs
        self.trials = trials_of(jobs)
        self.seeds: dict[str, list[int]] = {}
        for method, seed in asked:
            self.seeds.setdefault(method.name, []).append(seed)
        # Of the prompts the untouched one first, which no seed changes.
        self.methods = sorted(
            {method.name: method for method, _ in asked}.values(),
            key=lambda each: (_rung(each), each.needs.seeds, each.name),
        )
        self.done: dict[str, list[int]] = {}
        self.left_out: dict[str, SkippedMethod] = {}
        # Of whole fits, and of trials, on all validation rows.
        self.scores: dict[str, Floats] = {}
        self.tried: dict[str, Floats] = {}
        self.clusters = jobs.clusters()
        self.best: tuple[Method, Floats] | None = None
        self.prompt: tuple[Adaptation, Floats] | None = None

    def prompt_step(self, method: Method) -> bool | None:
        """Fit a prompt, or what needs no base; see `trial_step`."""
        if not self._whole(method):
            return None
        if not method.needs.base:
            # Nothing to start from, and too cheap to be weighed.
            return None
        pays = self._weigh(method, self.scores[method.name])
        if pays:
            found = self.jobs.found(method, self._first_seed(method))
            self.prompt = found, self.scores[method.name]
        return pays

    def trial_step(self, method: Method) -> bool | None:
        """Try a method: whether it is better than all before by enough to pay.

        Returns:
            None where nothing was learned of that.
        """
        seed = self._first_seed(method)
        try:
            if not self.trials.is_validated(method, seed):
                if self.jobs.is_fitted(method, seed):
                    # Its trial was too dear before the run was interrupted.
                    return self._weigh_whole(method)
                self.jobs.reporter.begin(
                    f"trying {method.name}, seed {seed}", *self._counted(method)
                )
                self.trials.fit(method, seed)
        except BudgetTooSmallError:
            # What is too dear for a trial has its whole budget at once, or is left out.
            return self._weigh_whole(method)
        self.tried[method.name] = self.trials.validated(method, seed, self._counted(method))
        self.trials.drop(method, seed)
        return self._weigh(method, self.tried[method.name])

    def stop_before(self, methods: Iterable[Method]) -> None:
        """Leave out what stands higher."""
        best = "nothing" if self.best is None else self.best[0].name
        reason = (
            f"not climbed to: {_PATIENCE} rungs in a row brought no gain that pays over {best}; "
            f"{_ELSE}"
        )
        for method in methods:
            self.left_out[method.name] = SkippedMethod(method.name, reason)

    def whole_fits(self) -> None:
        """The whole budget for the best trial, and for the cheapest that is not parted from it."""
        tried = [method for method in self.methods if method.name in self.tried]
        if not tried:
            return
        best = max(tried, key=lambda each: (float(self.tried[each.name].mean()), -_rung(each)))
        cheapest = cheapest_within_noise_of_the_best(tried, self.tried, self.clusters)
        for method in tried:
            if method in (best, cheapest):
                self._whole(method)
                continue
            mine, other = (100 * self.tried[each.name].mean() for each in (method, best))
            reason = (
                f"left after its trial with {100 * TRIAL_SHARE:.0f}% of the budget: {mine:.1f} on "
                f"validation rows, where that of {best.name} had {other:.1f}; {_ELSE}"
            )
            self.left_out[method.name] = SkippedMethod(method.name, reason)

    def further_seeds(self) -> None:
        """The other seeds of the cheapest that is within the noise of the best."""
        fitted = [method for method in self.methods if method.name in self.scores]
        if not fitted:
            return
        method = cheapest_within_noise_of_the_best(fitted, self.scores, self.clusters)
        for seed in self.seeds[method.name][1:]:
            try:
                self._fit(method, seed)
            except BudgetTooSmallError:
                # A seed draws its own rows, and may miss a budget that another just met.
                continue
            self.done[method.name].append(seed)

    def _whole(self, method: Method) -> bool:
        """Fit with the whole budget, and judge it; whether the budget pays for that."""
        seed = self._first_seed(method)
        try:
            self._fit(method, seed)
        except BudgetTooSmallError as error:
            self.left_out[method.name] = SkippedMethod.because(method.name, error)
            return False
        self.done[method.name] = [seed]
        if method.needs.base:
            scores = self.jobs.validated(method, seed, self._counted(method))
            self.scores[method.name] = scores
        return True

    def _weigh_whole(self, method: Method) -> bool | None:
        if not self._whole(method):
            return None
        pays = self._weigh(method, self.scores[method.name])
        steps = self.jobs.steps(method, self._first_seed(method))
        # What ended soon after its warm-up may still gain, and so may what stands above it.
        return None if not pays and steps is not None and steps < FEW_STEPS else pays

    def _weigh(self, method: Method, scores: Floats) -> bool:
        """Whether it is better than all before by enough to pay."""
        if self.best is not None:
            before_it, before = self.best
            pays = gains(scores, before, self.clusters)
            self.jobs.reporter.say(
                f"{method.name}: {100 * scores.mean():.1f} on {len(scores)} validation rows, "
                f"{before_it.name} {100 * before.mean():.1f}: "
                f"{'a gain' if pays else 'no gain'} that pays"
            )
            if not pays:
                return False
        self.best = method, scores
        return True

    def _first_seed(self, method: Method) -> int:
        return self.seeds[method.name][0]

    def _start(self, method: Method) -> Adaptation | None:
        # A search of prompts begins anew: what it starts from would be what it is compared with.
        if self.prompt is None or _rung(method) <= _TEXT:
            return None
        prompt, scores = self.prompt
        tried = self.tried.get(method.name)
        passed = tried is not None and gains(tried, scores, self.clusters)
        # Examples would stand before every request, as text or trained: ten times as many tokens.
        return None if passed and _shows_examples(prompt) else prompt

    def _fit(self, method: Method, seed: int) -> None:
        self.jobs.reporter.begin(f"fitting {method.name}, seed {seed}", *self._counted(method))
        start = self._start(method)
        trains = issubclass(method.Settings, TrainingSettings)
        begun = EitherStart(method) if trains and start is not None else method
        self.jobs.fit(begun, seed, start=start)

    def _counted(self, method: Method) -> tuple[int, int]:
        return 1 + self.methods.index(method), len(self.methods)


def _shows_examples(found: Adaptation) -> bool:
    texts = [part for part in found.parts if isinstance(part, PromptTextPart)]
    return any(each.prompt.demonstrations or each.prompt.pool for each in texts)


def _for_a_trial(settings: Any) -> Any:
    """The same settings, for every training that there is in the method."""
    changes = {}
    # A chain has the fields of its links behind their names.
    for known in type(settings).model_fields:
        if known == _OF_A_TRAINING or known.endswith(f"_{_OF_A_TRAINING}"):
            ahead = known.removesuffix(_OF_A_TRAINING)
            for name, turned in _TRIAL.items():
                changes[ahead + name] = turned(getattr(settings, ahead + name))
    return settings.model_copy(update=changes)
