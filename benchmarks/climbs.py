"""`compare` as it climbs by itself beside `compare --all`, on whole sets and cases of the grid.

    python -m benchmarks.climbs --only reviews3              # the whole run must be there
    python -m benchmarks.climbs --only stackoverflow20-300   # the grid's case must be there
    python -m benchmarks.climbs                              # only the table, of what was climbed

A climb has the rows and the budget of the other run and three seeds; it lies in
`runs/climbs/SET` or `SET-SIZE`. What it ends with is held against the best entry of the other, on
the rows that chose both and, since the best of many is partly luck, on others: one half of the test
rows chooses and the other judges, and the other way round. A grid's case has one seed, so the work
of three is its own three times where a method has seeds; chains that a whole run has besides are
left out. What was read is kept in `climbs.json`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.grid import BUDGET, RUNS, cases
from benchmarks.records import put_block, write
from benchmarks.stored import Stored, read
from benchmarks.whole_runs import PAGE, SETS, arguments, data_of, say
from benchmarks.whole_runs import RUNS as WHOLE
from benchmarks.workloads import REPOSITORY
from tunewise.climb import TRIALS
from tunewise.compare.entries import score_matrix
from tunewise.compare.wording import points
from tunewise.methods._registry import find_method
from tunewise.methods._settings._composed import ARROW
from tunewise.numerics.pairs import paired_difference

CLIMBS = REPOSITORY / "runs" / "climbs"
KEPT = REPOSITORY / "benchmarks" / "climbs.json"
SEEDS = 3
NAME = "climbs"
HEADING = "## The climb beside fitting everything"


@dataclass(frozen=True, slots=True)
class Climbed:
    """One case.

    Attributes:
        case: its name.
        best, best_score: entry of the case that is highest on its test rows.
        chosen, chosen_score: what the climb recommends, all its seeds.
        loss, low, high: of the chosen on the best, paired by row, with its 95% interval.
        other_rows: the same on rows that chose neither.
        share: counted work of the climb, of that of fitting everything with as many seeds.
        left_out: methods that the climb did not fit whole.
    """

    case: str
    best: str
    best_score: float
    chosen: str
    chosen_score: float
    loss: float
    low: float
    high: float
    other_rows: float
    share: float
    left_out: tuple[str, ...]


def main() -> int:
    """Climb what is asked for, then write the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.climbs", description=__doc__)
    parser.add_argument("--only", default="", help="cases such as reviews3-50, by commas")
    parser.add_argument("--grid", type=Path, default=RUNS, help="folder of the grid's cases")
    asked = parser.parse_args()
    grid = {f"{case.name}-{case.size}": case.name for case in cases()}
    known = [*SETS, *grid]
    names = [name for name in asked.only.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        say(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    codes = [
        _climb(_of_case(asked.grid, name, grid[name]) if name in grid else _of_set(name))
        for name in names
    ]
    code = max(codes, default=0)
    held = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    found = {each["case"]: Climbed(**each) for each in held}
    for name in known:
        folder = asked.grid if name in grid else WHOLE
        everything, climbed = read(folder / name), read(CLIMBS / name)
        if everything is not None and climbed is not None:
            found[name] = held_against(name, climbed, everything)
    ordered = [found[name] for name in known if name in found]
    write(KEPT, json.dumps([asdict(each) for each in ordered], indent=1) + "\n")
    put_block(PAGE, NAME, "\n".join(table(ordered)), HEADING)
    return code


def held_against(name: str, climbed: Stored, everything: Stored) -> Climbed:
    """What a climb ended with, beside the best of fitting everything, on the same test rows."""
    everything = replace(
        everything, records=tuple(each for each in everything.records if ARROW not in each.method)
    )
    ids = sorted(result.id for result in everything.records[0].test)
    if ids != sorted(result.id for result in climbed.records[0].test):
        raise ValueError(f"{name}: the climb and the grid's case have other test rows; climb again")
    best, chosen = _both(everything, climbed, ids)
    ours, theirs = _scores(climbed, chosen, ids), _scores(everything, best, ids)
    lost = paired_difference(theirs, ours)
    shuffled = np.random.default_rng(0).permutation(np.array(ids))
    halves = [shuffled[: len(ids) // 2].tolist(), shuffled[len(ids) // 2 :].tolist()]
    across = []
    for choosing, judging in (halves, halves[::-1]):
        ahead, taken = _both(everything, climbed, choosing)
        top, own = _scores(everything, ahead, judging), _scores(climbed, taken, judging)
        across.append(float(top.mean() - own.mean()))
    entries = [each for each in everything.told["entries"] if ARROW not in each["method"]]
    work = sum(_times(each["method"]) * each["fit"]["flops"] for each in entries)
    fitted = {record.method for record in climbed.records}
    return Climbed(
        case=name,
        best=best,
        best_score=float(theirs.mean()),
        chosen=chosen,
        chosen_score=float(ours.mean()),
        loss=lost.difference,
        low=lost.low,
        high=lost.high,
        other_rows=float(np.mean(across)),
        share=_work(climbed.folder) / work,
        left_out=tuple(each["method"] for each in entries if each["method"] not in fitted),
    )


def table(found: Sequence[Climbed]) -> Iterator[str]:
    """As Markdown: every case, then the means."""
    yield (
        "| set and rows | best of all | the climb's | lost, same rows (95%) | lost, other rows "
        "| work | not fitted whole |"
    )
    yield "| --- | --- | --- | ---: | ---: | ---: | --- |"
    for each in found:
        left_out = ", ".join(each.left_out)
        yield (
            f"| {each.case} | {each.best} {points(each.best_score)} | {each.chosen} "
            f"{points(each.chosen_score)} | {points(each.loss)} ({points(each.low)} to "
            f"{points(each.high)}) | {points(each.other_rows)} | {100 * each.share:.0f}% "
            f"| {left_out or '-'} |"
        )
    if found:
        loss = np.mean([each.loss for each in found])
        other = np.mean([each.other_rows for each in found])
        share = np.mean([each.share for each in found])
        yield (
            f"| mean | | | {points(float(loss))} | {points(float(other))} | {100 * share:.0f}% | |"
        )


def _of_case(grid: Path, case: str, name: str) -> list[str]:
    command = ["compare", str(grid / "data" / case), "--out", str(CLIMBS / case)]
    command += ["--budget", BUDGET, "--input", "input", "--output", "output", "--name", name]
    return command


def _of_set(name: str) -> list[str]:
    data = data_of(name)
    return [] if data is None else arguments(name, data, CLIMBS / name)


def _climb(command: list[str]) -> int:
    if not command:
        return 0
    command += ["--climb", "--seeds", str(SEEDS), "--questions", "none"]
    say(shlex.join(["tunewise", *command]))
    entry = [sys.executable, "-m", "tunewise"]
    done = subprocess.run(
        [*entry, *command], cwd=REPOSITORY, check=False, stdout=subprocess.DEVNULL
    )
    return done.returncode


def _both(everything: Stored, climbed: Stored, ids: Sequence[str]) -> tuple[str, str]:
    """The best entry of fitting everything, and what the climb recommends, on these rows."""
    best = max(everything.comparison(ids).entries, key=lambda each: each.test.value)
    return best.method, climbed.comparison(ids).recommendation.method


def _scores(
    run: Stored, method: str, ids: Sequence[str]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Scores (S seeds, n rows) of a method on these rows."""
    kept = set(ids)
    records = [record for record in run.records if record.method == method]
    by_id = [
        sorted((each for each in record.test if each.id in kept), key=lambda each: each.id)
        for record in records
    ]
    return score_matrix(by_id, method)


def _times(method: str) -> int:
    return SEEDS if find_method(method).needs.seeds else 1


def _work(run: Path) -> float:
    """Counted work of every fit of a run, its trials included."""
    files = [*(run / "fits").glob("*.json"), *(run / TRIALS / "fits").glob("*.json")]
    told = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    # Beside a fit lie its scores on validation rows.
    return sum(each["flops"] for each in told if "flops" in each)


if __name__ == "__main__":
    sys.exit(main())
