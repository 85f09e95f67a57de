"""Which start is the better one to train from: the plain instruction, a searched prompt, or shots.

    python -m benchmarks.starts --only reviews3,stackoverflow20

Every trained method has the same token passes from every start (finding the start is not counted),
one learning rate and one seed, and is judged often, so that what a few steps show can be held
against what the whole fit brings. A fit leaves `runs/starts/SET/START-METHOD.json`; one that is
there is not made again. What was learned stands in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.records import write
from benchmarks.whole_runs import ROWS_PER_LABEL, SETS, cut, say
from benchmarks.workloads import DATA, REPOSITORY
from tunewise.adaptation.bundle import Adaptation
from tunewise.methods._registry import find_method
from tunewise.steps import Ground, fit, measure, prepare
from tunewise.task.options import TaskOptions

RUNS = REPOSITORY / "runs" / "starts"
BASE = "smollm2-135m"
SEED = 0
# How each start is found; the plain instruction is what a method begins at by itself.
STARTS: Mapping[str, tuple[str, Mapping[str, Any]] | None] = {
    "instruction": None,
    "search": ("prompt_search", {}),
    "shots": ("few_shot", {"demonstrations": 8, "pick": "balanced"}),
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "soft_prompt": {"learning_rate": 1e-2},
    "prefix": {"learning_rate": 1e-2},
    "lora": {"learning_rate": 1e-3},
}


def main() -> int:
    """Run what is asked for, and say what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starts", description=__doc__)
    parser.add_argument("--only", default="reviews3,stackoverflow20", help="sets, by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--budget", type=int, default=60_000, help="token passes per fit")
    parser.add_argument("--test-rows", type=int, default=300)
    asked = parser.parse_args()
    for name in asked.only.split(","):
        if name not in SETS:
            say(f"no such set: {name}; there are {', '.join(SETS)}")
            return 2
        run_set(name, asked)
        for line in told(name):
            say(line)
    return 0


def run_set(name: str, asked: argparse.Namespace) -> None:
    """Every fit of one set that is not there yet."""
    source, rows = ROWS_PER_LABEL.get(name, (name, 0))
    data = DATA / source
    if rows:
        data = cut(data, RUNS / "data" / name, rows)
    ground = prepare(str(data), TaskOptions.model_validate({}), BASE, "auto")
    for start, way in STARTS.items():
        wanted = [
            each for each in asked.methods.split(",") if not place(name, start, each).exists()
        ]
        if not wanted:
            continue
        begun = None if way is None else _fit(ground, *way, budget=asked.budget, start=None)
        for each in wanted:
            say(f"{name}: {each} from {start}")
            settings = {**METHODS[each], "judgements": 6, "validation_rows": 64}
            found = _fit(ground, each, settings, budget=asked.budget, start=begun)
            file = place(name, start, each)
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps(_record(ground, found, asked), indent=1) + "\n")


def place(name: str, start: str, method: str) -> Any:
    """Where a fit is kept."""
    return RUNS / name / f"{start}-{method}.json"


def told(name: str) -> list[str]:
    """A line for every fit: its losses on validation rows by step, and the test rows."""
    lines = []
    for start in STARTS:
        for each in METHODS:
            if not place(name, start, each).exists():
                continue
            kept = json.loads(place(name, start, each).read_text(encoding="utf-8"))
            losses = " ".join(f"{e['step']}:{e['loss']:.3f}" for e in kept["validation"])
            lines.append(
                f"{name} {each} from {start}: {losses}; test {100 * kept['test']:.1f}; "
                f"{kept['tokens']:.0f} tokens before a request"
            )
    return lines


def _fit(
    ground: Ground,
    name: str,
    settings: Mapping[str, Any],
    *,
    budget: int,
    start: Adaptation | None,
) -> Adaptation:
    method = find_method(name)
    made = method.Settings(**settings)
    return fit(ground, method, made, seed=SEED, budget=budget, start=start).adaptation


def _record(ground: Ground, found: Adaptation, asked: argparse.Namespace) -> dict[str, Any]:
    measured = measure(ground.base, found, ground.task.test.open()[: asked.test_rows])
    scores = [each.score for each in measured.results]
    return {
        "validation": found.provenance.notes["validation"],
        "steps": found.provenance.notes["steps"],
        "work": dict(found.provenance.work),
        "test": sum(scores) / len(scores),
        "tokens": measured.prompt_tokens_per_request,
    }


if __name__ == "__main__":
    sys.exit(main())
