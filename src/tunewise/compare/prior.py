"""What the nearest measured tasks say before anything is fitted: a prior, and no more than that.

The odds are counts over real runs (`measured/runs.json`, the runs behind docs/results.md), not
grades. Near is a run of the same kind of task with about as many rows, labels and tokens a row; a
factor of ten in rows, of four in labels and of four in tokens count the same.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunewise.compare.contract import Role
from tunewise.compare.entries import COST_LADDER, rung
from tunewise.compare.priorities import Priorities
from tunewise.numerics.intervals import mean_interval

RUNS = Path(__file__).with_name("measured") / "runs.json"
NEAREST = 6
OTHER_KIND = 3.0  # how far apart tasks of another kind are: a thousand times the rows
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
        name: of the set.
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
    """How one family did in the nearest runs.

    Attributes:
        family: its name in words.
        runs: nearest runs in which it was measured.
        near_best: in how many of them no more than the given-up points were lost on the best.
        low, high: the 95% interval of that share.
        loss: points of 100 below the best, mean.
        gain: points of 100 above the untouched base, median; None where that was not measured.
        reached: in how many the minimum quality was reached; None where none is wanted.
    """

    family: str
    runs: int
    near_best: int
    low: float
    high: float
    loss: float
    gain: float | None
    reached: int | None


@dataclass(frozen=True, slots=True)
class Prior:
    """What is to be expected before anything is fitted.

    Attributes:
        family: the cheapest family that loses little on the best, in words.
        headline: the answer, which says that it is a prior.
        odds: from cheapest to dearest family.
        nearest: the runs it rests on, nearest first, with their distance.
    """

    family: str
    headline: str
    odds: tuple[Odds, ...]
    nearest: tuple[tuple[float, MeasuredRun], ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        runs = [
            {"name": run.name, "distance": apart, **asdict(run.shape), "test_rows": run.test_rows}
            for apart, run in self.nearest
        ]
        return {
            "family": self.family,
            "headline": self.headline,
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
    nearest = tuple(apart[:NEAREST])
    odds = tuple(
        each
        for family in FAMILIES
        if (each := _odds(family, [run for _, run in nearest], wanted)) is not None
    )
    least = min((each.loss for each in odds), default=0.0)
    pick = next((each for each in odds if each.loss <= least + wanted.give_up_points), None)
    return Prior(
        "" if pick is None else pick.family, _headline(shape, nearest, pick), odds, nearest
    )


def _odds(family: str, runs: Sequence[MeasuredRun], wanted: Priorities) -> Odds | None:
    """How a family did; None where none of the runs measured it."""
    values = [run.family_values() for run in runs]
    mine = [(each[family], max(each.values()), each) for each in values if family in each]
    if not mine:
        return None
    near = sum(100 * (best - value) <= wanted.give_up_points + 1e-9 for value, best, _ in mine)
    share = mean_interval([1.0] * near + [0.0] * (len(mine) - near))
    gains = [100 * (value - each["untouched"]) for value, _, each in mine if "untouched" in each]
    floor = wanted.minimum_quality
    return Odds(
        family=FAMILIES[family],
        runs=len(mine),
        near_best=near,
        low=share.low,
        high=share.high,
        loss=statistics.mean(100 * (best - value) for value, best, _ in mine),
        gain=statistics.median(gains) if gains else None,
        reached=None if floor is None else sum(100 * value >= floor for value, _, _ in mine),
    )


def _headline(shape: Shape, nearest: Sequence[tuple[float, MeasuredRun]], pick: Odds | None) -> str:
    """The answer in words; what is not known is said."""
    begin = "A prior, not a result: nothing was fitted on your data."
    if pick is None:
        return f"{begin} No measured run is there to tell from."
    alike = sum(run.shape.kind == shape.kind for _, run in nearest)
    other = "" if alike else f" None of them is of kind {shape.kind}, so this says little."
    few = f" Only {alike} of them are of this kind." if 0 < alike < len(nearest) else ""
    verb = "was" if pick.runs == 1 else "were"
    return (
        f"{begin} In the {len(nearest)} measured runs most like it, {pick.family} lost "
        f"{pick.loss:.1f} points on the best on average, and is the cheapest that loses so little "
        f"({pick.near_best} of {pick.runs} {verb} near the best).{few}{other}"
    )
