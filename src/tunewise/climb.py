"""Climbing the ladder instead of fitting everything: from the cheapest rung up, while it pays.

A rung is a kind of part. Its methods are fitted one after the other with the first seed, those that
train from the best text prompt found so far, or from the plain instruction where that is the better
start. Two rungs of training in a row without a gain end the climb. What cannot be told from the
best on validation rows is fitted with the other seeds too. Test rows play no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from tunewise.adaptation.bundle import Adaptation
from tunewise.compare.entries import PROMPT_PART, rung
from tunewise.errors import BudgetTooSmallError
from tunewise.jobs import Job, Jobs
from tunewise.measure.records import SkippedMethod
from tunewise.methods._contract import Method
from tunewise.methods._gradient import TrainingSettings
from tunewise.methods._starts import EitherStart
from tunewise.numerics.racing import Floats, paired_error

# What a dearer method must bring on validation rows, in the metric's own unit of 0 to 1.
LEAST_GAIN = 0.01
# Rungs in a row without a gain that end the climb.
_PATIENCE = 2
_TEXT = rung([PROMPT_PART])


def climb(jobs: Jobs, asked: Sequence[Job]) -> tuple[list[Job], list[SkippedMethod]]:
    """Fit what pays.

    Args:
        jobs: fits and stores.
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
        # What the budget does not pay for says nothing of its rung.
        gained = [gain for method in group if (gain := way.step(method)) is not None]
        if height > _TEXT and gained:
            without_gain = 0 if any(gained) else without_gain + 1
    way.further_seeds()
    done = [(method, seed) for method in way.methods for seed in way.done.get(method.name, ())]
    return done, list(way.left_out.values())


def gains(scores: Floats, before: Floats) -> bool:
    """Whether a dearer method pays: better by the least gain, and by a standard error.

    Args:
        scores: (n,) of the method.
        before: (n,) of the best so far, on the same rows.
    """
    gain = scores - before
    return bool(gain.mean() >= max(LEAST_GAIN, paired_error(gain)))


def _rung(method: Method) -> int:
    return rung(method.produces)


class _Climb:
    """How far the climb is; it is made on the first seed of every method."""

    def __init__(self, jobs: Jobs, asked: Sequence[Job]) -> None:
        self.jobs = jobs
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
        self.scores: dict[str, Floats] = {}
        self.best: Method | None = None
        self.prompt: Adaptation | None = None

    def step(self, method: Method) -> bool | None:
        """Try a method: whether it is better than all before by enough to pay.

        Returns:
            None where nothing was learned of that.
        """
        seed = self.seeds[method.name][0]
        try:
            self._fit(method, seed)
        except BudgetTooSmallError as error:
            self.left_out[method.name] = SkippedMethod.because(method.name, error)
            return None
        self.done[method.name] = [seed]
        if not method.needs.base:
            # Nothing to start from, and too cheap to be weighed.
            return None
        scores = self.jobs.validated(method, seed, self._counted(method))
        self.scores[method.name] = scores
        if self.best is not None:
            before = self.scores[self.best.name]
            pays = gains(scores, before)
            self.jobs.reporter.say(
                f"{method.name}: {100 * scores.mean():.1f} on {len(scores)} validation rows, "
                f"{self.best.name} {100 * before.mean():.1f}: "
                f"{'a gain' if pays else 'no gain'} that pays"
            )
            if not pays:
                return False
        self.best = method
        if _rung(method) == _TEXT:
            self.prompt = self.jobs.found(method, seed)
        return True

    def stop_before(self, methods: Iterable[Method]) -> None:
        """Leave out what stands higher."""
        best = "nothing" if self.best is None else self.best.name
        reason = (
            f"not climbed to: {_PATIENCE} rungs in a row brought no gain that pays over {best}; "
            "a run without --climb, in another --out, fits it"
        )
        for method in methods:
            self.left_out[method.name] = SkippedMethod(method.name, reason)

    def further_seeds(self) -> None:
        """The other seeds of the best and of all that one standard error does not part from it."""
        if self.best is None:
            return
        best = self.scores[self.best.name]
        for method in self.methods:
            if method.name not in self.scores:
                continue
            behind = best - self.scores[method.name]
            if method is not self.best and behind.mean() > paired_error(behind):
                continue
            for seed in self.seeds[method.name][1:]:
                try:
                    self._fit(method, seed)
                except BudgetTooSmallError:
                    # A seed draws its own rows, and may miss a budget that another just met.
                    continue
                self.done[method.name].append(seed)

    def _start(self, method: Method) -> Adaptation | None:
        # A search of prompts begins anew: what it starts from would be what it is compared with.
        return self.prompt if _rung(method) > _TEXT else None

    def _fit(self, method: Method, seed: int) -> None:
        told = f"fitting {method.name}, seed {seed}"
        self.jobs.reporter.begin(told, *self._counted(method))
        start = self._start(method)
        trains = issubclass(method.Settings, TrainingSettings)
        begun = EitherStart(method) if trains and start is not None else method
        self.jobs.fit(begun, seed, start=start)

    def _counted(self, method: Method) -> tuple[int, int]:
        return 1 + self.methods.index(method), len(self.methods)
