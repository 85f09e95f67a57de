"""Short runs of `tunewise compare` on 8 real sets x 3 sizes of training data, one after the other.

    python -m benchmarks.grid                       # every case, some hours; goes on where it was
    python -m benchmarks.grid --only reviews3-300   # some of them
    python -m benchmarks.grid --plan                # the cases, and which of them are there
    python -m benchmarks.grid --base gemma3-270m    # the same on another base

A case lies in `runs/grid/SET-SIZE`. The recommendation's regret (`regret.py`) and the odds of
`tunewise advise` (`odds.py`) are read from these runs; those of another base lie in
`runs/grid-BASE` and are read for the claims alone. What is kept of a case are the answers to
every row, from which any table can be computed again; the adaptations themselves are removed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.records import write
from benchmarks.workloads import DATA, REPOSITORY
from tunewise.config import DEFAULT_BASE

RUNS = REPOSITORY / "runs" / "grid"
SIZES = ("50", "300", "all")
BUDGET = "24k"
SEED = 0


@dataclass(frozen=True, slots=True)
class Set:
    """A real set.

    Attributes:
        folder: its folder.
        test_rows: rows of its test that are answered; long answers take long.
        domain: only the rows of this domain, or None for all.
    """

    folder: str
    test_rows: int = 300
    domain: str | None = None


SETS = {
    "reviews3": Set("reviews3"),
    "financial_phrasebank": Set("financial_phrasebank"),
    "tos_clause": Set("tos_clause"),
    "stackoverflow20": Set("stackoverflow20"),
    "clinc150_banking": Set("clinc150", domain="banking"),
    "snips_json": Set("snips_json", 100),
    "mams_aspects": Set("mams_aspects", 100),
    "mts_section": Set("mts_section", 150),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One set at one size, on one base."""

    name: str
    size: str
    base: str = DEFAULT_BASE

    @property
    def folder(self) -> Path:
        """Where its run lies."""
        runs = RUNS if self.base == DEFAULT_BASE else RUNS.with_name(f"{RUNS.name}-{self.base}")
        return runs / f"{self.name}-{self.size}"

    @property
    def is_there(self) -> bool:
        """Whether its run is done."""
        return (self.folder / "comparison.json").exists()


def cases(base: str = DEFAULT_BASE) -> list[Case]:
    """All cases in the order they run."""
    return [Case(name, size, base) for size in SIZES for name in SETS]


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("--only", help="cases such as reviews3-50, separated by commas")
    parser.add_argument("--plan", action="store_true", help="run nothing")
    parser.add_argument("--base", default=DEFAULT_BASE, help="short name of a base model")
    parser.add_argument("flags", nargs="*", help="further flags of `tunewise compare`, after --")
    asked = parser.parse_args()
    wanted = None if asked.only is None else asked.only.split(",")
    known = {f"{case.name}-{case.size}": case for case in cases(asked.base)}
    unknown = [name for name in ([] if wanted is None else wanted) if name not in known]
    if unknown:
        _say(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    code = 0
    for name in known if wanted is None else wanted:
        case = known[name]
        if asked.plan:
            _say(f"{name}: {'done' if case.is_there else 'to run'}")
        elif not case.is_there:
            code = max(code, run(case, asked.flags))
    return code


def run(case: Case, flags: Sequence[str] = ()) -> int:
    """Run one case; returns the exit code of the command."""
    source = SETS[case.name]
    if not (DATA / source.folder).is_dir():
        _say(f"{case.name} is left out: there is no folder {DATA / source.folder}")
        return 0
    data = cut(source, RUNS / "data" / f"{case.name}-{case.size}", case.size)
    command = ["compare", str(data.relative_to(REPOSITORY))]
    command += ["--out", str(case.folder.relative_to(REPOSITORY)), "--all", "--budget", BUDGET]
    command += ["--seeds", "1", "--input", "input"]
    if case.base != DEFAULT_BASE:
        command += ["--base", case.base]
    command += ["--output", "output", "--name", case.name, "--questions", "none", *flags]
    _say(shlex.join(["tunewise", *command]))
    entry = [sys.executable, "-m", "tunewise"]
    done = subprocess.run(
        [*entry, *command], cwd=REPOSITORY, check=False, stdout=subprocess.DEVNULL
    )
    if done.returncode == 0:
        shutil.rmtree(case.folder / "adaptations", ignore_errors=True)
    return done.returncode


def cut(source: Set, folder: Path, size: str) -> Path:
    """The set with so many seeded training rows, and test rows whose labels they have.

    Labels share the rows as they do in the whole set, but each keeps one at least. Validation rows
    are a fifth as many as training rows, 16 at least.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    splits = {name: _rows(source, name) for name in ("train", "validation", "test")}
    train = splits["train"]
    if size != "all":
        train = _stratified(train, int(size), random)
    few = {row["output"] for row in splits["train"]}
    labelled = len(few) <= 0.2 * len(splits["train"])
    known = {row["output"] for row in train}
    kept = {
        name: [row for row in splits[name] if not labelled or row["output"] in known]
        for name in ("validation", "test")
    }
    most = max(16, len(train) // 5)
    chosen = {
        "train": train,
        "validation": _some(kept["validation"], most, random),
        "test": _some(kept["test"], source.test_rows, random),
    }
    for name, rows in chosen.items():
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        write(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
    return folder


def _rows(source: Set, split: str) -> list[dict[str, str]]:
    text = (DATA / source.folder / f"{split}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if source.domain is None or row["domain"] == source.domain]


def _some(
    rows: Sequence[dict[str, str]], most: int, random: np.random.Generator
) -> list[dict[str, str]]:
    if len(rows) <= most:
        return list(rows)
    return [rows[index] for index in sorted(random.choice(len(rows), most, replace=False))]


def _stratified(
    rows: Sequence[dict[str, str]], size: int, random: np.random.Generator
) -> list[dict[str, str]]:
    """Rows in the labels' own shares, one of each label at least where so many are asked for."""
    order = [rows[index] for index in random.permutation(len(rows))]
    first = list({row["output"]: row for row in reversed(order)}.values())
    must = first if len(first) <= size // 2 else []
    taken = {row["id"] for row in must}
    rest = [row for row in order if row["id"] not in taken]
    return (must + rest)[:size]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
