"""Whole runs of `tunewise compare` on the real sets, and their tables in `docs/results.md`.

    python -m benchmarks.whole_runs                    # every set, some hours; goes on where it was
    python -m benchmarks.whole_runs --only reviews3    # some of them
    python -m benchmarks.whole_runs --tables           # only the tables, of runs that are there

A run lies in `runs/results/SET`. Its table stands in the page between two comments with its name;
what is written around them stays.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import put_block, write
from benchmarks.workloads import DATA, REPOSITORY
from tunewise.compare.wording import flops_text, points, seconds_text, size_text, tokens_text

RUNS = REPOSITORY / "runs" / "results"
PAGE = REPOSITORY / "docs" / "results.md"
SETS = (
    "reviews3",
    "financial_phrasebank",
    "tos_clause",
    "mts_section",
    "stackoverflow20",
    "banking77_10",
    "snips_json",
    "viggo",
)
# Rows of every label that the cut sets keep for fitting.
ROWS_PER_LABEL = {"banking77_10": ("banking77", 10)}
# What is fitted: every method that suits, and what trains in the place of a searched prompt.
METHODS = (
    "majority",
    "zero_shot",
    "tfidf",
    "few_shot",
    "prompt_search",
    "soft_prompt",
    "prefix",
    "lora",
    "full",
    "prompt_search>soft_prompt",
    "prompt_search>prefix",
)
# Test rows answered: written answers cost ten times what labels cost.
TEST_ROWS = 600
WRITTEN_TEST_ROWS = 200
_WRITTEN = ("snips_json", "viggo")
_DIFFERENCES_FROM = ("zero_shot", "tfidf", "few_shot", "prompt_search")


def main() -> int:
    """Run what is asked for, then write the tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_runs", description=__doc__)
    parser.add_argument("--only", help=f"sets, separated by commas, of {', '.join(SETS)}")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("flags", nargs="*", help="further flags of `tunewise compare`, after --")
    asked = parser.parse_args()
    names = SETS if asked.only is None else tuple(asked.only.split(","))
    unknown = [name for name in names if name not in SETS]
    if unknown:
        say(f"no such set: {', '.join(unknown)}; there are {', '.join(SETS)}")
        return 2
    code = 0
    for name in names:
        if not asked.tables:
            code = max(code, _run(name, asked.flags))
        comparison = RUNS / name / "comparison.json"
        if comparison.exists():
            put_table(name, json.loads(comparison.read_text(encoding="utf-8")))
    return code


def put_table(name: str, comparison: Mapping[str, Any]) -> None:
    """Put the table of a run into the page, in place of the one before, or at its end."""
    put_block(PAGE, name, table(comparison), f"## {name}")


def table(comparison: Mapping[str, Any]) -> str:
    """A run as Markdown: what it was, its entries, the differences that matter."""
    return "\n\n".join(
        "\n".join(part)
        for part in (_about(comparison), _entries(comparison), _differences(comparison))
    )


def _about(comparison: Mapping[str, Any]) -> Iterator[str]:
    rows, machine, seeds = (comparison[key] for key in ("data", "machine", "seeds"))
    split = rows["rows"]
    yield f"`{comparison['command']}`"
    yield ""
    yield (
        f"{comparison['started'][:10]}; {comparison['budget']['per_method']:,} token passes per "
        f"fit; seeds {', '.join(map(str, seeds))}; {split['train']:,} training, "
        f"{split['validation']:,} validation, {split['test']:,} test rows; {machine['processor']}, "
        f"{machine['cores']} cores, {machine['threads']} threads."
    )


def _entries(comparison: Mapping[str, Any]) -> Iterator[str]:
    advice = comparison["recommendation"]
    metric = comparison["task"]["metric"]
    yield (
        f"| method | parts | {metric} (95% interval) | seeds | work to fit | time to fit | "
        "tokens before a request | size |"
    )
    yield "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |"
    for entry in sorted(comparison["entries"], key=lambda each: -each["test"]["value"]):
        name, test, fit = entry["method"], entry["test"], entry["fit"]
        if name == advice["method"]:
            name = f"**{name}** (recommended)"
        elif name in advice["tied_with"]:
            name += " (ties)"
        values = entry["seed_values"] if len(entry["seed_values"]) > 1 else []
        cells = (
            name,
            " + ".join(entry["parts"]),
            f"{points(test['value'])} ({points(test['low'])} to {points(test['high'])})",
            ", ".join(map(points, values)),
            flops_text(fit["flops"]),
            seconds_text(fit["seconds"]),
            tokens_text(entry["prompt_tokens_per_request"]),
            size_text(entry["bytes_on_disk"]),
        )
        yield f"| {' | '.join(cells)} |"


def _differences(comparison: Mapping[str, Any]) -> Iterator[str]:
    """Paired differences of what trains from what does not."""
    pairs = {}
    for pair in comparison["pairs"]:
        low, value, high = (pair[key] for key in ("low", "difference", "high"))
        pairs[pair["a"], pair["b"]] = (low, value, high)
        pairs[pair["b"], pair["a"]] = (-high, -value, -low)
    known = {entry["method"]: entry["role"] for entry in comparison["entries"]}
    columns = [name for name in _DIFFERENCES_FROM if name in known]
    yield f"| difference | {' | '.join(f'from {name}' for name in columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for name, role in known.items():
        if role != "trained":
            continue
        cells = []
        for other in columns:
            low, value, high = map(points, pairs[name, other])
            cells.append(f"{value} ({low} to {high})")
        yield f"| {name} | {' | '.join(cells)} |"


def _run(name: str, flags: list[str]) -> int:
    data = data_of(name)
    if data is None:
        return 0
    command = [*arguments(name, data, RUNS / name), "--methods", ",".join(METHODS), *flags]
    say(shlex.join(["tunewise", *command]))
    entry = [str(Path(sys.executable).with_name("tunewise"))]
    return subprocess.run([*entry, *command], cwd=REPOSITORY, check=False).returncode


def data_of(name: str) -> Path | None:
    """The folder of a set, cut where it is a cut one; None, and said, where there is none."""
    source, rows = ROWS_PER_LABEL.get(name, (name, 0))
    data = DATA / source
    if not data.is_dir():
        say(f"{name} is left out: there is no folder {data}")
        return None
    return cut(data, RUNS / "data" / name, rows) if rows else data


def arguments(name: str, data: Path, out: Path) -> list[str]:
    """Those of `tunewise` for a whole run, but the methods.

    Args:
        name: of the set.
        data: its folder.
        out: of the run.
    """
    told = Path("..") / data.relative_to(REPOSITORY.parent)
    inside = data.is_relative_to(REPOSITORY)
    command = ["compare", str(data.relative_to(REPOSITORY) if inside else told)]
    command += ["--out", str(out.relative_to(REPOSITORY))]
    rows = WRITTEN_TEST_ROWS if name in _WRITTEN else TEST_ROWS
    return [*command, "--test-rows", str(rows)]


def cut(source: Path, folder: Path, rows: int) -> Path:
    """The set with so many seeded training rows a label; the other splits as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        lines = (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        if split == "train":
            by_label: dict[str, list[int]] = {}
            for index, line in enumerate(lines):
                by_label.setdefault(json.loads(line)["output"], []).append(index)
            kept = [
                int(index)
                for _, indices in sorted(by_label.items())
                for index in random.choice(indices, min(rows, len(indices)), replace=False)
            ]
            lines = [lines[index] for index in sorted(kept)]
        write(folder / f"{split}.jsonl", "\n".join(lines) + "\n")
    return folder


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
