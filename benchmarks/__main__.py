"""Command line: `python -m benchmarks` measures the works, with `scaling` how cost grows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.growth_run import GROWTHS, run_growths
from benchmarks.machine import kind_of_machine, own_dtype
from benchmarks.records import Options, load_record, put_block, run_group, save, write
from benchmarks.tables import results_block
from benchmarks.workloads import REPOSITORY
from benchmarks.works import Group, groups, quick
from tunewise.model.base import default_threads

HERE = Path(__file__).resolve().parent
RECORDS = REPOSITORY / "runs" / "benchmarks"


def main() -> int:
    """Parse, measure, write; returns the exit code."""
    asked = _parser().parse_args()
    options = Options(
        steps=_either(asked.steps, 1 if asked.quick else 3),
        repeats=_either(asked.repeats, 1 if asked.quick else 3),
        threads=_either(asked.threads, default_threads()),
    )
    only = asked.only.split(",") if asked.only else []
    # A quick run tries whether all works; its numbers stay away from the measured ones.
    records = RECORDS / "quick" if asked.quick else RECORDS
    pages = records if asked.quick else HERE
    own = own_dtype()
    records.mkdir(parents=True, exist_ok=True)
    known = GROWTHS if asked.what == "scaling" else tuple(g.name for g in groups(1, 1, own))
    unknown = [name for name in only if name not in known]
    if unknown:
        _say(f"no such work: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    if asked.what == "scaling":
        page = run_growths(only, options, records, _say, quick=asked.quick)
        if page is not None:
            write(pages / "scaling.md", page)
        return 0
    everything = groups(options.steps, options.repeats, own)
    chosen = tuple(map(quick, everything)) if asked.quick else everything
    return _results(only, options, chosen, records, pages / "results.md")


def _results(
    only: list[str], options: Options, everything: tuple[Group, ...], records: Path, page: Path
) -> int:
    if not page.exists():
        write(page, "# Results of the benchmarks\n")
    for group in everything:
        if only and group.name not in only:
            continue
        _say(f"{group.name}: {group.about}")
        save(run_group(group, options, _say), records)
        found = [(each, load_record(each.name, records)) for each in everything]
        measured = [(each, record) for each, record in found if record is not None]
        kind = kind_of_machine()
        put_block(page, kind, results_block(measured, options, own_dtype()), f"## {kind}")
    _say(f"written: {page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("results", "scaling"), default="results")
    parser.add_argument("--only", help="names of works, separated by commas; others stay as stored")
    parser.add_argument("--steps", type=int, help="optimizer steps in a block (3)")
    parser.add_argument("--repeats", type=int, help="measured blocks of each side (3)")
    parser.add_argument("--threads", type=int, help="of each side (the cores there are)")
    parser.add_argument("--quick", action="store_true", help="one step, one block; written apart")
    return parser


def _either(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
