"""The recommendation's regret where the truth is known: tables drawn around measured runs.

    python -m benchmarks.regret_simulated [--draws 10]

On real rows the best of many entries owes a part of its lead to luck, so no regret can be told to a
point. Here the entries of every measured run (`tunewise advise` reads the same file) are taken for
the truth, each moved by a normal draw of 2 points; answers to test rows are drawn from it, with
rows that are hard for all and fits that are better or worse by their seed. The table goes into
`docs/results.md`, beside two other rules: the cheapest of those that tie within five points, as it
was before, and whoever scores highest, whatever it costs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.regret import POINT, put
from tunewise.compare.contract import (
    BaseFacts,
    BudgetFacts,
    Comparison,
    DataFacts,
    MachineFacts,
    Role,
    RunContext,
)
from tunewise.compare.decide import MARGIN, decide, is_different
from tunewise.compare.entries import cost_order
from tunewise.compare.prior import MeasuredEntry, MeasuredRun, measured_runs
from tunewise.compare.table import build_comparison
from tunewise.measure.records import FitRecord, RowResult
from tunewise.task.types import Kind, Row, TaskSpec

TEST_ROWS = (100, 300, 800)
SEEDS = (1, 3)
MOVED = 0.02
ALIKE = 0.85  # correlation of how hard a row is for two methods
SEED_EFFECT = {Role.TRAINED: 0.015, Role.PROMPT: 0.05}
SIZES = {"shallow_model": 7e5, "prompt_text": 5e3, "virtual_tokens": 5e4, "kv_prefix": 1e6}
SIZES |= {"low_rank": 1e7, "weights": 2.7e8}
SPEC = TaskSpec("simulated", Kind.SHORT_ANSWER, "", (), "accuracy")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was lost on one table, by three rules; scores between 0 and 1.

    Attributes:
        rows, seeds: of the table.
        lost: by the recommendation.
        lost_before: by the rule of before.
        lost_highest: by taking whoever scores highest.
    """

    rows: int
    seeds: int
    lost: float
    lost_before: float
    lost_highest: float


def main() -> int:
    """Draw the tables and write what was lost; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret_simulated")
    parser.add_argument("--draws", type=int, default=10, help="tables of each run and size")
    draws = parser.parse_args().draws
    found = [
        drawn
        for place, run in enumerate(measured_runs())
        for rows in TEST_ROWS
        for seeds in SEEDS
        for number in range(draws)
        for drawn in [_drawn(run, rows, seeds, np.random.default_rng([place, rows, seeds, number]))]
    ]
    put("regret simulated", "\n".join(table(found)))
    return 0


def _drawn(run: MeasuredRun, rows: int, seeds: int, numbers: np.random.Generator) -> Drawn:
    truth = {
        each.method: float(np.clip(each.value + numbers.normal(0, MOVED), 0.01, 0.99))
        for each in run.entries
        if each.role != Role.CONSTANT
    }
    entries = [each for each in run.entries if each.method in truth]
    made = _comparison(entries, truth, rows, seeds, numbers)
    most = max(truth.values())
    taken = (made.recommendation.method, _before(made), made.entries[0].method)
    return Drawn(rows, seeds, *(most - truth[method] for method in taken))


def _comparison(
    entries: Sequence[MeasuredEntry],
    truth: Mapping[str, float],
    rows: int,
    seeds: int,
    numbers: np.random.Generator,
) -> Comparison:
    """The table of answers drawn from the truth."""
    hard = numbers.standard_normal(rows)
    ids = [f"r{place}" for place in range(rows)]
    records = []
    for entry in entries:
        effect = SEED_EFFECT.get(Role(entry.role), 0.0)
        for seed in range(seeds if effect else 1):
            chance = float(np.clip(truth[entry.method] + numbers.normal(0, effect), 0.001, 0.999))
            own = ALIKE * hard + np.sqrt(1 - ALIKE**2) * numbers.standard_normal(rows)
            records.append(_record(entry, seed, own < stats.norm.ppf(chance), ids))
    context = RunContext(
        base=BaseFacts("simulated", "", "bfloat16", 135_000_000),
        budget=BudgetFacts("token_passes", 1),
        data=DataFacts({"train": 1, "test": rows}, ""),
        machine=MachineFacts(1, "", 1),
        seeds=tuple(range(seeds)),
        command="",
        version="",
        started="",
    )
    return build_comparison(
        SPEC, records, [], context, {each: Row(each, "", "", ()) for each in ids}
    )


def _record(
    entry: MeasuredEntry, seed: int, right: NDArray[np.bool_], ids: Sequence[str]
) -> FitRecord:
    trained = entry.role == Role.TRAINED
    searched = entry.role == Role.PROMPT
    return FitRecord(
        method=entry.method,
        seed=seed,
        parts=entry.parts,
        adaptation="",
        settings={},
        notes={"demonstrations": 4} if searched else {},
        test=tuple(
            RowResult(each, str(each), float(score)) for each, score in zip(ids, right, strict=True)
        ),
        validation=(),
        seconds=1.0,
        forward_tokens=0 if entry.parts == ("shallow_model",) else 1 + int(trained or searched),
        backward_tokens=int(trained),
        flops=int(trained),
        peak_bytes=1,
        trainable_parameters=int(trained),
        bytes_on_disk=int(max(SIZES[part] for part in entry.parts)),
        prompt_tokens_per_request=28.0,
        milliseconds_per_row=1.0,
    )


def _before(made: Comparison) -> str:
    """The rule of before: what adapts nothing if it ties, else the cheapest within five points."""
    found = decide(made.entries, made.pairs)
    best = found.best
    tied = [
        each for each in made.entries if each is best or not is_different(found.pair(best, each))
    ]
    tied.sort(key=cost_order)
    if tied[0].role in (Role.UNTOUCHED, Role.SHALLOW):
        return tied[0].method
    near = (x for x in tied if x is best or found.pair(best, x).difference <= MARGIN)
    return next(near).method


def table(found: Sequence[Drawn]) -> Iterator[str]:
    """As Markdown: a line for each number of rows and seeds."""
    yield ""
    yield f"{len(found):,} tables around {len(measured_runs())} measured runs."
    yield ""
    yield (
        "| test rows | seeds | tables | within 1 point | lost, mean | 95% lose less than | "
        "before: within 1 point | lost, mean | highest: within 1 point | lost, mean |"
    )
    yield f"| {' | '.join(['---:'] * 10)} |"
    for rows in TEST_ROWS:
        for seeds in SEEDS:
            mine = [each for each in found if (each.rows, each.seeds) == (rows, seeds)]
            if mine:
                yield _line(rows, seeds, mine)


def _line(rows: int, seeds: int, mine: Sequence[Drawn]) -> str:
    lost = np.array([(each.lost, each.lost_before, each.lost_highest) for each in mine])
    near = [f"{100 * share:.0f}%" for share in (lost <= POINT).mean(axis=0)]
    mean = [f"{100 * value:.2f}" for value in lost.mean(axis=0)]
    cells = (
        str(rows), str(seeds), str(len(mine)), near[0], mean[0],
        f"{100 * np.quantile(lost[:, 0], 0.95):.1f}", near[1], mean[1], near[2], mean[2],
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
