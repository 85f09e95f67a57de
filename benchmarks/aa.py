"""Every method beside itself under another seed, on real sets: it should be called a tie.

    python -m benchmarks.aa               # runs what is missing, then the table; goes on
    python -m benchmarks.aa --tables      # only the table, of runs that are there

Runs lie in `runs/aa/SET`: 300 rows to fit, two seeds, a small budget. What they gave is kept in
`benchmarks/aa.json`, and is not run again. Each comparison is of the fit with one seed
and the fit with the other, as two methods that have one seed each, by the rule that the
recommendation uses.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.grid import SETS, cut
from benchmarks.records import write
from benchmarks.regret import put
from benchmarks.stored import Stored, compare, read
from benchmarks.workloads import DATA, REPOSITORY
from tunewise.compare.decide import decide, is_different
from tunewise.compare.wording import p_text, points

RUNS = REPOSITORY / "runs" / "aa"
KEPT = REPOSITORY / "benchmarks" / "aa.json"
SIZE, BUDGET = "300", "12k"
METHODS = ("few_shot", "soft_prompt", "prefix", "lora")
USED = ("reviews3", "financial_phrasebank", "stackoverflow20", "clinc150_banking", "tos_clause")


@dataclass(frozen=True, slots=True)
class Again:
    """One method on one set, seed 0 beside seed 1; scores between 0 and 1."""

    name: str
    method: str
    test_rows: int
    first: float
    second: float
    low: float
    high: float
    p_value: float
    tie: bool


def main() -> int:
    """Run what is missing, then write the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aa", description=__doc__)
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--folder", type=Path, default=RUNS, help="of the runs")
    asked = parser.parse_args()
    code = 0
    held = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    known = {(each["name"], each["method"]): Again(**each) for each in held}
    for name in USED:
        missing = [method for method in METHODS if (name, method) not in known]
        if missing and not asked.tables:
            code = max(code, _run(name, missing))
        run = read(asked.folder / name)
        for each in [] if run is None else comparisons(name, run):
            known[each.name, each.method] = each
    found = [known[key] for key in sorted(known)]
    write(KEPT, json.dumps([asdict(each) for each in found], indent=1) + "\n")
    put("aa", "\n".join(table(found)))
    return code


def comparisons(name: str, run: Stored) -> Iterator[Again]:
    """Every method of a run that has two seeds, beside itself."""
    for method in METHODS:
        fits = [record for record in run.records if record.method == method][:2]
        if len(fits) < 2:
            continue
        # Two methods with one seed each, as in a run that has one.
        sides = [replace(fit, method=f"{method} {place}", seed=0) for place, fit in enumerate(fits)]
        made = compare(run, sides)
        found = decide(made.entries, made.pairs)
        a, b = (made.entry(side.method) for side in sides)
        pair = found.pair(a, b)
        yield Again(
            name,
            method,
            a.test.n,
            a.test.value,
            b.test.value,
            pair.low,
            pair.high,
            pair.p_value,
            not is_different(pair),
        )


def table(found: Sequence[Again]) -> Iterator[str]:
    """As Markdown."""
    ties = sum(each.tie for each in found)
    yield ""
    yield f"{ties} of {len(found)} are ties; {len(USED) * len(METHODS)} are asked for."
    yield ""
    yield "| set | method | test rows | seed 0 | seed 1 | difference (95% interval) | p | tie |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |"
    for each in found:
        gap = points(each.first - each.second)
        cells = (
            each.name, each.method, str(each.test_rows), points(each.first), points(each.second),
            f"{gap} ({points(each.low)} to {points(each.high)})", p_text(each.p_value),
            "yes" if each.tie else "no",
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _run(name: str, methods: Sequence[str]) -> int:
    folder = RUNS / name
    source = SETS[name]
    if (folder / "comparison.json").exists() or not (DATA / source.folder).is_dir():
        return 0
    data = cut(source, RUNS / "data" / name, SIZE)
    command = ["compare", str(data.relative_to(REPOSITORY))]
    command += ["--out", str(folder.relative_to(REPOSITORY)), "--methods", ",".join(methods)]
    command += ["--budget", BUDGET, "--seeds", "2", "--name", name, "--questions", "none"]
    command += ["--input", "input", "--output", "output"]
    sys.stderr.write(f"{shlex.join(['tunewise', *command])}\n")
    done = subprocess.run(
        [sys.executable, "-m", "tunewise", *command],
        cwd=REPOSITORY,
        check=False,
        stdout=subprocess.DEVNULL,
    )
    if done.returncode == 0:
        shutil.rmtree(folder / "adaptations", ignore_errors=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
