"""How good the peers' answers are: DSPy's search of demonstrations, and PEFT's prompt tuning.

    python -m benchmarks.peers_quality                    # every set, hours; goes on where it was
    python -m benchmarks.peers_quality --only reviews3 --seeds 0
    python -m benchmarks.peers_quality --tables           # only the tables, of what is there

Both sides have the same base in the same dtype, the same rows and the same splits. DSPy's
BootstrapFewShotWithRandomSearch scores as many rows as our `prompt_search` did with the same seed;
PEFT's prompt tuning has the token passes of one of our fits, with its defaults and with the best of
four learning rates on validation rows (four fits, each with the whole budget). Our two stand beside
them, fitted here with the budget of `tunewise compare`.

Every fit leaves `runs/peers/SET/NAME-seedN.json`; one that is there is not made again. The tables
go into docs/results.md between comments named "peers of SET".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_dspy import bootstrap_search
from benchmarks.peers_prompt_tuning import prompt_tuning
from benchmarks.records import put_block, write
from benchmarks.whole_runs import PAGE, ROWS_PER_LABEL, SETS, cut, say
from benchmarks.workloads import DATA, REPOSITORY
from tunewise.adaptation.bundle import Adaptation
from tunewise.config import parse_budget
from tunewise.methods._registry import find_method
from tunewise.numerics.intervals import mean_interval
from tunewise.steps import Ground, fit, measure, prepare
from tunewise.task.options import TaskOptions
from tunewise.task.types import Row

RUNS = REPOSITORY / "runs" / "peers"
BASE = "smollm2-135m"
# PEFT's own default is the Trainer's; the others are those of its examples and of its paper.
DEFAULT_RATE = 5e-5
RATES = (DEFAULT_RATE, 1e-3, 1e-2, 1e-1)
SEARCH = "prompt_search"
NAMES = {
    SEARCH: "`prompt_search`",
    "dspy": "DSPy BootstrapFewShotWithRandomSearch",
    "soft_prompt": "`soft_prompt`",
    "peft_default": "PEFT prompt tuning, defaults",
    "peft_best": f"PEFT prompt tuning, best of {len(RATES)} learning rates",
}


def main() -> int:
    """Run what is asked for, then write the tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers_quality", description=__doc__)
    parser.add_argument("--only", help=f"sets, separated by commas, of {', '.join(SETS)}")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--sides", help=f"separated by commas, of {', '.join(NAMES)}")
    parser.add_argument("--budget", default="default", help="token passes per fit")
    parser.add_argument("--test-rows", type=int, help="score only so many test rows, the first")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the results are kept")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the tables go")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    asked = parser.parse_args()
    names = SETS if asked.only is None else tuple(asked.only.split(","))
    sides = tuple(NAMES) if asked.sides is None else tuple(asked.sides.split(","))
    unknown = sorted({*names} - {*SETS}) + sorted({*sides} - {*NAMES})
    if unknown:
        say(f"unknown: {', '.join(unknown)}")
        return 2
    seeds = tuple(map(int, asked.seeds.split(",")))
    for name in names:
        if not asked.tables:
            run_set(name, sides, seeds, asked)
        found = read_results(asked.runs / name)
        if found:
            put_block(asked.page, f"peers of {name}", table(found), f"## Peers on {name}")
    return 0


def run_set(name: str, sides: tuple[str, ...], seeds: tuple[int, ...], asked: Any) -> None:
    """Every side of one set that is not there yet."""
    source, rows = ROWS_PER_LABEL.get(name, (name, 0))
    data = asked.data / source
    if not data.is_dir():
        say(f"{name} is left out: there is no folder {data}")
        return
    if rows:
        data = cut(data, asked.runs / "data" / name, rows)
    ground: Ground | None = None
    for seed in seeds:
        for side in sides:
            place = asked.runs / name / f"{side}-seed{seed}.json"
            if place.exists():
                continue
            if ground is None:
                ground = prepare(str(data), TaskOptions.model_validate({}), BASE, "auto")
            # Opened once for the set: only what is stored here reads them.
            test = _test_rows(ground, asked.test_rows)
            budget = parse_budget(asked.budget, mean_row_tokens=ground.mean_row_tokens)
            say(f"{name}: {side}, seed {seed}, {budget:,} token passes")
            result = _SIDES[side](ground, test, budget, seed, place.parent)
            result |= {"side": side, "seed": seed, "budget": budget, "test_rows": len(test)}
            result |= {"metric": ground.task.spec.metric, "dtype": ground.base.dtype_name}
            place.parent.mkdir(parents=True, exist_ok=True)
            write(place, json.dumps(result, indent=1, sort_keys=True) + "\n")


def _test_rows(ground: Ground, most: int | None) -> tuple[Row, ...]:
    return ground.task.test.open()[:most]


def _scored(ground: Ground, found: Adaptation, test: tuple[Row, ...]) -> dict[str, Any]:
    measured = measure(ground.base, found, test)
    return {
        "scores": [each.score for each in measured.results],
        "failed": sum(each.answer is None for each in measured.results),
        "tokens_before_a_request": measured.prompt_tokens_per_request,
        "notes": dict(found.provenance.notes),
    }


def _ours(side: str) -> Callable[..., dict[str, Any]]:
    def run(
        ground: Ground, test: tuple[Row, ...], budget: int, seed: int, folder: Path
    ) -> dict[str, Any]:
        method = find_method(side)
        fitted = fit(ground, method, method.Settings(), seed=seed, budget=budget)
        found = _scored(ground, fitted.adaptation, test)
        work = dict(fitted.adaptation.provenance.work)
        return found | {"work": work, "seconds": fitted.seconds}

    return run


def scored_rows(notes: Mapping[str, Any]) -> int:
    """Rows that a search of ours scored: what a prompt has scored stays, so each counts once.

    Args:
        notes: of its provenance.
    """
    most: dict[str, int] = {}
    for tried in (each for kept in notes["rounds"] for each in kept["tried"]):
        most[tried["candidate"]] = max(most.get(tried["candidate"], 0), tried["rows"])
    confirmed = notes.get("confirmed", {}).get("rows", 0)
    return sum(most.values()) + int(confirmed)


def _dspy(
    ground: Ground, test: tuple[Row, ...], budget: int, seed: int, folder: Path
) -> dict[str, Any]:
    ours = folder / f"{SEARCH}-seed{seed}.json"
    if not ours.exists():
        raise SystemExit(f"{ours} is not there: run the side {SEARCH} first")
    rows = scored_rows(json.loads(ours.read_text(encoding="utf-8"))["notes"])
    return bootstrap_search(ground, test, rows=rows, seed=seed)


def _peft(rates: tuple[float, ...]) -> Callable[..., dict[str, Any]]:
    def run(
        ground: Ground, test: tuple[Row, ...], budget: int, seed: int, folder: Path
    ) -> dict[str, Any]:
        tuned = [prompt_tuning(ground, rate, budget=budget, seed=seed) for rate in rates]
        best = min(tuned, key=lambda each: each.validation_loss)
        told = {
            "validation_losses": {f"{each.rate:g}": each.validation_loss for each in tuned},
            "rate": best.rate,
            "steps": best.steps,
            "seconds": sum(each.seconds for each in tuned),
        }
        return _scored(ground, best.adaptation, test) | told

    return run


_SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    SEARCH: _ours(SEARCH),
    "dspy": _dspy,
    "soft_prompt": _ours("soft_prompt"),
    "peft_default": _peft((DEFAULT_RATE,)),
    "peft_best": _peft(RATES),
}


def read_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What is there of one set, by side, in the order of the seeds.

    Args:
        folder: of the set.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for side in NAMES:
        held = sorted(folder.glob(f"{side}-seed*.json"))
        results = [json.loads(path.read_text(encoding="utf-8")) for path in held]
        if results:
            found[side] = sorted(results, key=lambda each: int(each["seed"]))
    return found


def table(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """The sides of one set as Markdown.

    Args:
        found: results by side.
    """
    first = next(iter(found.values()))[0]
    lines = [
        f"{first['budget']:,} token passes per fit, {first['test_rows']:,} test rows, "
        f"{first['dtype']}.",
        "",
        f"| | {first['metric']} (95% interval) | seeds | failed answers | rows scored | "
        "tokens before a request |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for side, results in found.items():
        interval = mean_interval([each["scores"] for each in results])
        values = ", ".join(f"{100 * np.mean(each['scores']):.1f}" for each in results)
        rows = [_rows_of(each) for each in results]
        cells = (
            NAMES[side],
            f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})",
            values,
            f"{sum(each['failed'] for each in results):,}",
            ", ".join(f"{each:,}" for each in rows if each),
            f"{np.mean([each['tokens_before_a_request'] for each in results]):,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows_of(result: Mapping[str, Any]) -> int:
    if "rows_scored" in result:
        return int(result["rows_scored"])
    notes = result.get("notes", {})
    return scored_rows(notes) if "rounds" in notes else 0


if __name__ == "__main__":
    sys.exit(main())
