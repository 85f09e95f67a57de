"""What the nearest measured tasks say before anything is fitted: a prior, and no more than that.

The odds are counts over real runs (`measured/runs.json`, the runs behind docs/results.md), not
grades. Near is a run of the same kind of task with about as many rows, labels and tokens a row; a
factor of ten in rows, of four in labels and of four in tokens count the same.

Runs of one set, at several sizes or budgets, resemble each other and are no independent evidence.
So the odds count sets: the weights of a set's runs add up to one, and a run that lies a factor of
ten in rows (or as much of anything else) farther off than the set's nearest has a tenth of its
weight.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunewise.compare.contract import Role
from tunewise.compare.entries import COST_LADDER, rung
from tunewise.compare.priorities import Priorities
from tunewise.compare.wording import plural
from tunewise.numerics.intervals import share_limits

RUNS = Path(__file__).with_name("measured") / "runs.json"
NEAREST = 6  # sets
OTHER_KIND = 3.0  # how far apart tasks of another kind are: a thousand times the rows
# What a part without a model can do depends on the kind of answer: a linear classifier of another
# task's labels tells nothing of JSON or of texts, which none can give.
OF_ONE_KIND = ("shallow_model",)
FAMILIES = {
    "untouched": "the untouched base",
    "shallow_model": "a small classifier",
    "prompt_text": "a tuned prompt",
    "virtual_tokens": "a soft prompt",
    "kv_prefix": "a soft prefix",
    "low_rank": "low-rank fine-tuning",
    "weights": "full fine-tuning",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a task looks like before anything is fitted.

    Attributes:
        kind: what an answer is ("classification", "json", ...).
        train_rows: rows to fit.
        labels: how many labels there are; 0 where answers are no labels.
        input_tokens: of a row without prompt and answer, median.
    """

    kind: str
    train_rows: int
    labels: int
    input_tokens: float


@dataclass(frozen=True, slots=True)
class MeasuredEntry:
    """One method of a measured run; scores between 0 and 1."""

    method: str
    parts: tuple[str, ...]
    role: str
    value: float
    low: float
    high: float

    @property
    def family(self) -> str:
        """What kind of answer it is, by role and dearest part; "" for a constant answer."""
        if self.role == Role.CONSTANT:
            return ""
        return "untouched" if self.role == Role.UNTOUCHED else COST_LADDER[rung(self.parts)]


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One run of `compare` on a real set.

    Attributes:
        name: of the set; runs of the same name are of the same set.
        shape: of its task.
        metric, test_rows, seeds: how it was judged.
        base, budget: base model, token passes per fit.
        entries: highest score first.
    """

    name: str
    shape: Shape
    metric: str
    test_rows: int
    seeds: int
    base: str
    budget: int
    entries: tuple[MeasuredEntry, ...]

    def family_values(self) -> dict[str, float]:
        """The highest score of each family that was measured."""
        found: dict[str, float] = {}
        for entry in self.entries:
            if entry.family:
                found[entry.family] = max(found.get(entry.family, 0.0), entry.value)
        return found


@dataclass(frozen=True, slots=True)
class Odds:
    """How one family did on the nearest sets.

    Attributes:
        family: its name in words.
        sets: nearest sets on which it was measured.
        runs: of these sets in which it was measured.
        near_best: on how many of the sets no more than the given-up points were lost on the best; a
            set whose runs disagree counts in part.
        low, high: the 95% interval of that share of the sets.
        loss: points of 100 below the best, mean over sets.
        gain: points of 100 above the untouched base, median over sets; None where that was not
            measured.
        reached: on how many sets the minimum quality was reached, counted as `near_best`; None
            where none is wanted.
    """

    family: str
    sets: int
    runs: int
    near_best: float
    low: float
    high: float
    loss: float
    gain: float | None
    reached: float | None


@dataclass(frozen=True, slots=True)
class Prior:
    """What is to be expected before anything is fitted.

    Attributes:
        family: the cheapest family that loses little on the best, in words.
        headline: the answer, which says that it is a prior.
        odds: from cheapest to dearest family.
        nearest: the runs of the nearest sets, nearest first, with their distance.
        given_up: points of 100 below the best that still count as near it.
        minimum: points of 100 that must be reached; None where none are wanted.
    """

    family: str
    headline: str
    odds: tuple[Odds, ...]
    nearest: tuple[tuple[float, MeasuredRun], ...]
    given_up: float
    minimum: float | None

    @property
    def sets(self) -> dict[str, list[MeasuredRun]]:
        """The nearest sets, nearest first, with their runs by rows to fit."""
        found: dict[str, list[MeasuredRun]] = {}
        for _, run in self.nearest:
            found.setdefault(run.name, []).append(run)
        return {
            name: sorted(runs, key=lambda run: run.shape.train_rows) for name, runs in found.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the weight of a run is its part of its set."""
        weights = _weights(self.nearest)
        runs = [
            {
                "name": run.name,
                "distance": apart,
                "weight": weight,
                **asdict(run.shape),
                "test_rows": run.test_rows,
            }
            for (apart, run), weight in zip(self.nearest, weights, strict=True)
        ]
        return {
            "family": self.family,
            "headline": self.headline,
            "sets": len(self.sets),
            "runs": len(self.nearest),
            "given_up_points": self.given_up,
            "odds": [asdict(each) for each in self.odds],
            "nearest": runs,
        }


@lru_cache(maxsize=1)
def measured_runs() -> tuple[MeasuredRun, ...]:
    """The runs that come with the program."""
    return tuple(run_from(each) for each in json.loads(RUNS.read_text(encoding="utf-8"))["runs"])


def run_from(content: Mapping[str, Any]) -> MeasuredRun:
    """A run from its JSON form (`dataclasses.asdict`).

    Raises:
        KeyError, TypeError: it is none of this version.
    """
    entries = (
        MeasuredEntry(**(each | {"parts": tuple(each["parts"])})) for each in content["entries"]
    )
    return MeasuredRun(**{**content, "shape": Shape(**content["shape"]), "entries": tuple(entries)})


def distance(a: Shape, b: Shape) -> float:
    """How unlike two tasks are: 0 for alike, 1 for a factor of ten in rows alone."""
    rows = math.log10(max(a.train_rows, 1) / max(b.train_rows, 1))
    labels = math.log2(max(a.labels, 1) / max(b.labels, 1)) / 2
    tokens = math.log2(max(a.input_tokens, 1.0) / max(b.input_tokens, 1.0)) / 2
    return math.hypot(rows, labels, tokens) + (OTHER_KIND if a.kind != b.kind else 0.0)


def prior(
    shape: Shape,
    runs: Sequence[MeasuredRun] | None = None,
    priorities: Priorities | None = None,
) -> Prior:
    """What the nearest runs say about a task of this shape.

    Args:
        shape: of the task.
        runs: measured ones; None for those that come with the program.
        priorities: `minimum_quality` and `give_up_points` are read.
    """
    wanted = Priorities.model_validate({}) if priorities is None else priorities
    known = measured_runs() if runs is None else runs
    apart = sorted(((distance(shape, run.shape), run) for run in known), key=lambda each: each[0])
    named = list(dict.fromkeys(run.name for _, run in apart))[:NEAREST]
    nearest = tuple(each for each in apart if each[1].name in named)
    alike = [each for each in nearest if each[1].shape.kind == shape.kind]
    counted = {family: alike if family in OF_ONE_KIND else nearest for family in FAMILIES}
    odds = tuple(
        each
        for family, told in counted.items()
        if (each := _odds(family, told, wanted)) is not None
    )
    least = min((each.loss for each in odds), default=0.0)
    pick = next((each for each in odds if each.loss <= least + wanted.give_up_points), None)
    family = "" if pick is None else pick.family
    headline = _headline(shape, nearest, pick)
    limits = wanted.give_up_points, wanted.minimum_quality
    return Prior(family, headline, odds, nearest, *limits)


def _weights(runs: Sequence[tuple[float, MeasuredRun]]) -> list[float]:
    """The part of each run in its set; those of one set add up to 1 (see the module's text)."""
    least: dict[str, float] = {}
    for apart, run in runs:
        least[run.name] = min(apart, least.get(run.name, apart))
    raw = [10.0 ** (least[run.name] - apart) for apart, run in runs]
    total: dict[str, float] = {}
    for weight, (_, run) in zip(raw, runs, strict=True):
        total[run.name] = total.get(run.name, 0.0) + weight
    return [weight / total[run.name] for weight, (_, run) in zip(raw, runs, strict=True)]


def _by_set(
    runs: Sequence[tuple[float, MeasuredRun]], told: Callable[[dict[str, float]], float]
) -> list[float]:
    """A number of each set: the weighted mean of what its runs tell."""
    found: dict[str, float] = {}
    for weight, (_, run) in zip(_weights(runs), runs, strict=True):
        found[run.name] = found.get(run.name, 0.0) + weight * told(run.family_values())
    return list(found.values())


def _odds(
    family: str, nearest: Sequence[tuple[float, MeasuredRun]], wanted: Priorities
) -> Odds | None:
    """How a family did; None where none of the runs measured it."""
    mine = [each for each in nearest if family in each[1].family_values()]
    if not mine:
        return None
    beside = [each for each in mine if "untouched" in each[1].family_values()]

    def lost(values: dict[str, float]) -> float:
        return 100 * (max(values.values()) - values[family])

    near = _by_set(mine, lambda values: float(lost(values) <= wanted.give_up_points + 1e-9))
    gains = _by_set(beside, lambda values: 100 * (values[family] - values["untouched"]))
    floor = wanted.minimum_quality
    reached = [] if floor is None else _by_set(mine, lambda v: float(100 * v[family] >= floor))
    low, high = share_limits(statistics.mean(near), len(near))
    return Odds(
        family=FAMILIES[family],
        sets=len(near),
        runs=len(mine),
        near_best=math.fsum(near),
        low=low,
        high=high,
        loss=statistics.mean(_by_set(mine, lost)),
        gain=statistics.median(gains) if gains else None,
        reached=None if floor is None else math.fsum(reached),
    )


def part_of_sets(count: float) -> str:
    """How many sets, of which some may count in part: "4" or "3.6"."""
    return f"{round(count, 1):g}"


def _headline(shape: Shape, nearest: Sequence[tuple[float, MeasuredRun]], pick: Odds | None) -> str:
    """The answer in words; what is not known is said."""
    begin = "A prior, not a result: nothing was fitted on your data."
    if pick is None:
        return f"{begin} No measured run is there to tell from."
    kinds = {run.name: run.shape.kind for _, run in nearest}
    alike = sum(kind == shape.kind for kind in kinds.values())
    other = "" if alike else f" None of them is of kind {shape.kind}, so this says little."
    few = f" Only {alike} of them are of this kind." if 0 < alike < len(kinds) else ""
    return (
        f"{begin} On the {plural(len(kinds), 'measured set')} most like it "
        f"({plural(len(nearest), 'run')}), {pick.family} lost {pick.loss:.1f} points of 100 on the "
        "best method on average, and is the cheapest that loses so little (near the best on "
        f"{part_of_sets(pick.near_best)} of {plural(pick.sets, 'set')}).{few}{other}"
    )
