"""What following the recommendation costs, over the runs of `grid.py`, into `docs/results.md`.

    python -m benchmarks.regret            # of the runs that are there

For every run and every profile of priorities: the regret is the score of the best entry that meets
the priorities minus that of the recommended entry. It is told on the rows that were recommended
from, and on others: the test rows are halved, one half recommends and the other judges, and the
other way round. On other rows the best of many entries is partly luck, so a regret is held for real
only where the lower limit of its interval, corrected for the number of entries, is above a point.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.grid import RUNS, SETS, SIZES
from benchmarks.records import write
from benchmarks.stored import Stored, read
from benchmarks.workloads import REPOSITORY
from tunewise.compare.contract import Comparison
from tunewise.compare.decide import decide
from tunewise.compare.priorities import Priorities
from tunewise.compare.table import base_bytes
from tunewise.compare.wording import points

PAGE = REPOSITORY / "docs" / "results.md"
KEPT = REPOSITORY / "benchmarks" / "regret.json"
POINT = 0.01
PROFILES = {
    "one task": Priorities.model_validate({}),
    "200 clients in 2 GB": Priorities.model_validate({"domains": 200, "most_gigabytes": 2.0}),
}


@dataclass(frozen=True, slots=True)
class Regret:
    """One run under one profile.

    Attributes:
        run, profile: which; `train_rows`, `test_rows`: of the run.
        chosen, verdict: recommended from all test rows.
        best: the highest entry that meets the priorities, on the same rows.
        same_rows: regret on the rows that were recommended from.
        other_rows: mean regret on rows that had no part in it.
        shown: whether on other rows more than a point is shown to be lost, in either half.
    """

    run: str
    profile: str
    train_rows: int
    test_rows: int
    chosen: str
    verdict: str
    best: str
    same_rows: float
    other_rows: float
    shown: bool


def main() -> int:
    """Write the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=RUNS, help="of the runs")
    folder = parser.parse_args().folder
    held = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    known = {(each["run"], each["profile"]): Regret(**each) for each in held}
    for size in SIZES:
        for name in SETS:
            run = read(folder / f"{name}-{size}")
            for each in [] if run is None else regrets(run):
                known[each.run, each.profile] = each
    order = {f"{name}-{size}": place for place, (size, name) in enumerate(_places())}
    found = sorted(known.values(), key=lambda each: (order[each.run], each.profile))
    write(KEPT, json.dumps([asdict(each) for each in found], indent=1) + "\n")
    put("regret", "\n".join(table(found)))
    sys.stderr.write(f"{len(found)} of {len(order) * len(PROFILES)} cases\n")
    return 0


def regrets(run: Stored) -> Iterator[Regret]:
    """A run under every profile."""
    ids = np.array([result.id for result in run.records[0].test])
    shuffled = np.random.default_rng(0).permutation(ids)
    halves = (shuffled[: len(ids) // 2].tolist(), shuffled[len(ids) // 2 :].tolist())
    for profile, wanted in PROFILES.items():
        whole = run.comparison(None, wanted)
        advice = whole.recommendation
        best, lost, _ = _lost(whole, whole, wanted)
        tables = [run.comparison(half, wanted) for half in halves]
        across = [_lost(tables[a], tables[b], wanted) for a, b in ((0, 1), (1, 0))]
        yield Regret(
            run=run.folder.name,
            profile=profile,
            train_rows=run.context.data.rows["train"],
            test_rows=len(ids),
            chosen=advice.method,
            verdict=advice.verdict.value,
            best=best,
            same_rows=lost,
            other_rows=float(np.mean([each[1] for each in across])),
            shown=any(each[2] for each in across),
        )


def _lost(advised: Comparison, judged: Comparison, wanted: Priorities) -> tuple[str, float, bool]:
    """The best entry of one table, what the other's recommendation loses on it, and whether
    losing more than a point is shown.
    """
    size = base_bytes(judged.context.base)
    found = decide(judged.entries, judged.pairs, wanted, size)
    chosen = judged.entry(advised.recommendation.method)
    if found.best.method == chosen.method:
        return chosen.method, 0.0, False
    pair = found.pair(found.best, chosen)
    corrected = pair.p_value if pair.p_value_holm is None else pair.p_value_holm
    return found.best.method, pair.difference, pair.low > POINT and corrected < 0.05


def table(found: Sequence[Regret]) -> Iterator[str]:
    """As Markdown: the sum first, then every case."""
    yield ""
    yield f"{len(found)} of {len(_places()) * len(PROFILES)} cases are measured."
    if not found:
        return
    yield ""
    yield "| | cases | share |"
    yield "| --- | ---: | ---: |"
    for what, kept in (
        ("within 1 point of the best on the same rows", [r.same_rows <= POINT for r in found]),
        ("within 1 point of the best on other rows", [r.other_rows <= POINT for r in found]),
        ("not shown to lose more than 1 point on other rows", [not r.shown for r in found]),
    ):
        yield f"| {what} | {sum(kept)} of {len(kept)} | {100 * sum(kept) / len(kept):.0f}% |"
    yield ""
    yield (
        "| set | rows to fit | test rows | priorities | recommended | verdict | best | "
        "lost, same rows | lost, other rows |"
    )
    yield "| --- | ---: | ---: | --- | --- | --- | --- | ---: | ---: |"
    for each in found:
        cells = (
            each.run.rsplit("-", 1)[0], f"{each.train_rows:,}", str(each.test_rows), each.profile,
            each.chosen, each.verdict, each.best, points(each.same_rows),
            points(each.other_rows) + (" (shown)" if each.shown else ""),
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def put(name: str, text: str) -> None:
    """Put a text into the page between two comments with its name, which must be there."""
    page = PAGE.read_text(encoding="utf-8")
    place = re.compile(f"<!-- {name} -->.*<!-- end of {name} -->", re.DOTALL)
    block = f"<!-- {name} -->\n{text}\n\n<!-- end of {name} -->"
    write(PAGE, place.sub(lambda _: block, page))


def _places() -> list[tuple[str, str]]:
    return [(size, name) for size in SIZES for name in SETS]


if __name__ == "__main__":
    sys.exit(main())
