"""The measured runs that `tunewise advise` gets its odds from.

    python -m benchmarks.odds

Reads the runs that are there (`runs/results/SET`, `runs/grid/SET-SIZE`) and writes them, as shape
of the task and score of every method, into `src/tunewise/compare/measured/runs.json`, beside those
that are in it already: a run replaces the one of the same set, rows and budget. Runs whose folders
are gone stay, and the first time they come from the tables of `docs/results.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.families import page_runs
from benchmarks.records import write
from benchmarks.workloads import REPOSITORY
from tunewise.compare.prior import RUNS, MeasuredEntry, MeasuredRun, Shape, run_from

PAGE = REPOSITORY / "docs" / "results.md"
FOLDERS = (REPOSITORY / "runs" / "results", REPOSITORY / "runs" / "grid")
# What a page does not tell of its sets: kind, labels, and median tokens of a row's own text.
PAGE_SETS = {
    "reviews3": ("classification", 2, 19.0),
    "financial_phrasebank": ("classification", 3, 26.0),
    "demo": ("classification", 2, 20.0),
}


def main() -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.odds", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs  [default: runs/]")
    folders = parser.parse_args().folders or FOLDERS
    held = {}
    if RUNS.exists():
        stored = json.loads(RUNS.read_text(encoding="utf-8"))["runs"]
        held = {_key(run): run for run in map(run_from, stored)}
    for run in from_page(PAGE.read_text(encoding="utf-8")):
        held.setdefault(_key(run), run)
    for folder in folders:
        for path in sorted(folder.glob("*/comparison.json")):
            run = from_comparison(path)
            held[_key(run)] = run
    runs = [asdict(held[key]) for key in sorted(held)]
    lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in runs)
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    write(RUNS, f'{{"runs": [\n{lines}\n]}}\n')
    sys.stderr.write(f"{len(runs)} runs in {RUNS.relative_to(REPOSITORY)}\n")
    return 0


def from_page(page: str) -> Iterator[MeasuredRun]:
    """The runs whose tables stand in the page."""
    for run in page_runs(page):
        if run.name not in PAGE_SETS:
            continue
        kind, labels, tokens = PAGE_SETS[run.name]
        entries = run.told["entries"]
        yield MeasuredRun(
            name=run.name,
            shape=Shape(kind, run.train_rows, labels, tokens),
            metric="accuracy",
            test_rows=entries[0]["test"]["n"],
            seeds=max(1, *(len(each["seed_values"]) for each in entries)),
            base=run.base,
            budget=run.budget,
            entries=tuple(map(_entry, entries)),
        )


def _entry(told: Mapping[str, Any]) -> MeasuredEntry:
    scores = (round(told["test"][name], 4) for name in ("value", "low", "high"))
    return MeasuredEntry(told["method"], tuple(told["parts"]), told["role"], *scores)


def from_comparison(path: Path) -> MeasuredRun:
    """A run from its folder's `comparison.json` and data check."""
    told: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    check = json.loads(path.with_name("data_check.json").read_text(encoding="utf-8"))
    tokens = check["tokens"]["input_tokens"]["median"]
    task, rows = told["task"], told["data"]["rows"]
    return MeasuredRun(
        name=task["name"],
        shape=Shape(task["kind"], rows["train"], len(task["labels"]), tokens),
        metric=task["metric"],
        test_rows=rows["test"],
        seeds=len(told["seeds"]),
        base=told["base"]["name"],
        budget=told["budget"]["per_method"],
        entries=tuple(map(_entry, told["entries"])),
    )


def _key(run: MeasuredRun) -> tuple[str, int, int]:
    return (run.name, run.shape.train_rows, run.budget)


if __name__ == "__main__":
    sys.exit(main())
