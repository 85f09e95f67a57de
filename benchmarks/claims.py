"""Common claims about fine-tuning and prompt tuning beside measured runs, into `docs/claims.md`.

    python -m benchmarks.claims [FOLDER ...]        # `make claims`

Reads every stored run (`runs/results`, `runs/grid`, `runs/aa`, `runs/evidence`, further folders
given, and the tables of docs/results.md). What was read is kept in `benchmarks/claims.json`, so
that the page can be made again when the runs are gone. Nothing is run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.claim_list import CLAIMS, Claim
from benchmarks.families import FOLDERS, Figure, stored_runs
from benchmarks.records import write
from benchmarks.workloads import REPOSITORY
from tunewise.compare.wording import names_text
from tunewise.config import DEFAULT_BASE

PAGE = REPOSITORY / "docs" / "claims.md"
KEPT = REPOSITORY / "benchmarks" / "claims.json"
SHARE = 0.75  # of the figures that must speak one way
LEAST = 3  # figures
HEAD = """# What people say, and what was measured

Common claims about fine-tuning and prompt tuning, each beside the measurement that tests it. The
figures are from the runs behind [results.md](results.md); this page is written by `make claims` and
by nothing else.

**How a claim comes out.** Every run gives a figure that is above zero where it speaks for the
claim. It speaks *for* it where its 95% interval lies above zero, *against* it where the interval
lies below, and is *open* else. A claim **holds** where three quarters of at least three figures
speak for it and none against it, **fails** where three quarters speak against it and none for it,
and **depends** where figures speak both ways. Else it is **open**: too few figures, or too wide
ones. Of a family the entry with the highest test score stands for it, which flatters families with
more entries.

**Where training hardly began.** Both sides of a figure had the token passes of its line, of which
long rows leave few steps. A figure about a fit of fewer than 16 steps stands in its table with
their number, and is not counted; runs of which only the figures are kept do not tell their steps.

All of it is about the default base, smollm2-135m, where no other is named. What a larger base does
may be another matter; figures of one stand in a table of their own and are not counted above.
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One figure of one run for one claim."""

    claim: str
    run: str
    base: str
    train_rows: int
    budget: int
    value: float
    low: float
    high: float
    n: int
    few_steps: int | None = None

    @property
    def says(self) -> str:
        """ "for", "against" or "open"; or that training hardly began, so that it says nothing."""
        if self.few_steps is not None:
            return f"{self.few_steps} steps"
        return "for" if self.low > 0 else "against" if self.high < 0 else "open"


def main() -> int:
    """Write the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="further folders of runs")
    folders = (*FOLDERS, *parser.parse_args().folders)
    held = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    known = {_key(each): each for each in (Told(**one) for one in held)}
    known |= {_key(each): each for each in read(folders)}
    names = {claim.text for claim in CLAIMS}
    found = [known[key] for key in sorted(known) if known[key].claim in names]
    lines = ",\n".join(json.dumps(asdict(each)) for each in found)
    write(KEPT, f"[\n{lines}\n]\n")
    write(PAGE, "\n".join(page(found)) + "\n")
    sys.stderr.write(f"{len(CLAIMS)} claims, {len(found)} figures\n")
    return 0


def read(folders: tuple[Path, ...]) -> Iterator[Told]:
    """Every figure that stored runs have for a claim."""
    for run in stored_runs(folders):
        for claim in CLAIMS:
            found = claim.test(run)
            if found is not None:
                value, low, high = (round(x, 4) for x in (found.value, found.low, found.high))
                size = (run.train_rows, run.budget)
                steps = found.few_steps
                yield Told(claim.text, run.name, run.base, *size, value, low, high, found.n, steps)


def outcome(found: Sequence[Told]) -> str:
    """How a claim comes out; see the page's head."""
    said = [each.says for each in found if each.few_steps is None]
    ayes, noes = said.count("for"), said.count("against")
    if not said:
        return "not measured"
    if ayes and noes:
        return "depends"
    if len(said) >= LEAST and ayes >= SHARE * len(said):
        return "holds"
    if len(said) >= LEAST and noes >= SHARE * len(said):
        return "fails"
    return "open"


def page(found: Sequence[Told]) -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    yield "| | claim | comes out | for | against | open |"
    yield "| ---: | --- | --- | ---: | ---: | ---: |"
    first = [each for each in found if each.base == DEFAULT_BASE]
    others = [each for each in found if each.base != DEFAULT_BASE]
    groups = [(claim, [each for each in first if each.claim == claim.text]) for claim in CLAIMS]
    for number, (claim, mine) in enumerate(groups, start=1):
        said = [each.says for each in mine]
        counts = " | ".join(str(said.count(word)) for word in ("for", "against", "open"))
        yield f"| {number} | {claim.text} | **{outcome(mine)}** | {counts} |"
    for number, (claim, mine) in enumerate(groups, start=1):
        yield ""
        yield from _section(number, claim, mine)
        for base in sorted({each.base for each in others if each.claim == claim.text}):
            there = [each for each in others if (each.claim, each.base) == (claim.text, base)]
            yield ""
            yield f"On {base}: **{outcome(there)}**."
            yield ""
            yield from _table(claim, there)


def _section(number: int, claim: Claim, mine: Sequence[Told]) -> Iterator[str]:
    yield f"## {number}. {claim.text}"
    yield ""
    yield f"**{outcome(mine).capitalize()}.** {claim.figure[0].upper()}{claim.figure[1:]}."
    if not mine:
        yield ""
        if claim.measurement in ("accuracy", "cost"):
            yield "Not measured: no stored run has both families at such a size."
        else:
            yield f"Not measured: no stored run asked `{claim.measurement}` of both families."
        return
    if outcome(mine) == "depends":
        ways = [_where(mine, word) for word in ("for", "against")]
        yield f"For it: {ways[0]}. Against it: {ways[1]}."
    yield ""
    yield from _table(claim, mine)


def _table(claim: Claim, mine: Sequence[Told]) -> Iterator[str]:
    yield "| set | rows to fit | token passes | figure (95% interval) | n | says |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for each in mine:
        told = _text(claim.unit, Figure(each.value, each.low, each.high, each.n))
        n = "counted" if each.low == each.high else f"{each.n:,}"
        yield (
            f"| {each.run} | {each.train_rows:,} | {each.budget:,} | {told} | {n} | {each.says} |"
        )


def _where(mine: Sequence[Told], word: str) -> str:
    return names_text([f"{e.run} ({e.train_rows:,} rows)" for e in mine if e.says == word])


def _text(unit: str, found: Figure) -> str:
    """A figure in its unit; the interval where it is not counted."""
    write_one = {
        "points": lambda x: f"{100 * x:+.1f}",
        "times": lambda x: f"{10**x:,.2g} times",
        "tokens": lambda x: f"{x:+,.0f} tokens",
        "rows": lambda x: f"{x:+,.0f} rows",
        "nats": lambda x: f"{x:+.3f}",
    }[unit]
    if found.low == found.high:
        return write_one(found.value)
    return f"{write_one(found.value)} ({write_one(found.low)} to {write_one(found.high)})"


def _key(each: Told) -> tuple[str, str, str, int, int]:
    return (each.claim, each.run, each.base, each.train_rows, each.budget)


if __name__ == "__main__":
    sys.exit(main())
