"""Stored runs as claims read them: families, paired differences, figures of questions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.stored import read
from benchmarks.workloads import REPOSITORY
from tunewise.compare.entries import COST_LADDER, FEW_STEPS, rung

PAGE = REPOSITORY / "docs" / "results.md"
FOLDERS = tuple(REPOSITORY / "runs" / name for name in ("results", "grid", "aa", "evidence"))
_BLOCK = re.compile(r"<!-- (\w+) -->(.*?)<!-- end of \1 -->", re.DOTALL)
_SCORE = re.compile(r"([-\d.]+) \(([-\d.]+) to ([-\d.]+)\)")
_ROWS = re.compile(
    r"([\d,]+) token passes per fit; .* ([\d,]+) training, [\d,]+ validation, ([\d,]+) test rows"
)
_UNITS = {"bytes": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one run.

    Attributes:
        value, low, high: with its 95% interval; equal limits where it is counted.
        n: rows.
        few_steps: optimizer steps of what hardly began to train among those it is about; None
            where all had their chance, or nothing is known of it.
    """

    value: float
    low: float
    high: float
    n: int
    few_steps: int | None = None

    def negative(self) -> Figure:
        """The same with its sign turned."""
        return Figure(-self.value, -self.high, -self.low, self.n, self.few_steps)


@dataclass(frozen=True, slots=True)
class Run:
    """A stored run: its set, base, rows to fit, token passes per fit, and its `comparison.json`."""

    name: str
    base: str
    train_rows: int
    budget: int
    told: Mapping[str, Any]

    def best(self, family: str) -> Mapping[str, Any] | None:
        """The highest entry of a family, or None."""
        mine = [entry for entry in self.told["entries"] if family in families_of(entry)]
        return max(mine, key=lambda entry: float(entry["test"]["value"]), default=None)

    def worst(self, family: str) -> Mapping[str, Any] | None:
        """The lowest entry of a family, or None."""
        mine = [entry for entry in self.told["entries"] if family in families_of(entry)]
        return min(mine, key=lambda entry: float(entry["test"]["value"]), default=None)

    def difference(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> Figure | None:
        """Score of one entry minus score of another on the same rows; None where it is not told."""
        for pair in self.told["pairs"]:
            figure = pair["difference"], pair["low"], pair["high"], pair["n"]
            found = Figure(*figure, few_steps(a, b))
            if (pair["a"], pair["b"]) == (a["method"], b["method"]):
                return found
            if (pair["b"], pair["a"]) == (a["method"], b["method"]):
                return found.negative()
        return None

    def figure(
        self, question: str, name: str, entry: Mapping[str, Any], part: Mapping[str, Any]
    ) -> Figure | None:
        """What a question told of an entry; None where it was not asked or has no figure."""
        for each in self.told.get("evidence", []):
            if each["question"] != question:
                continue
            for one in each["answered"]["measurements"]:
                mine = (one["name"], one["about"]) == (name, entry["method"])
                if mine and part.items() <= one["part"].items() and one["value"] is not None:
                    value = one["value"]
                    low = value if one["low"] is None else one["low"]
                    high = value if one["high"] is None else one["high"]
                    return Figure(value, low, high, one["n"])
        return None


def families_of(entry: Mapping[str, Any]) -> set[str]:
    """The families an entry belongs to, by role and parts."""
    role = entry["role"]
    if role == "constant":
        return {"constant"}
    if role == "shallow":
        return {"classifier"}
    if role == "untouched_base":
        return {"untouched", "text"}
    if role == "prompt_text":
        return {"text", "searched", "instruction" if rewords(entry) else "demonstrations"}
    part = COST_LADDER[rung(entry["parts"])]
    family = {"virtual_tokens": "soft", "kv_prefix": "soft"}.get(part, "weights")
    return {"trained", family, part} | ({"weights_alone"} if part == "weights" else set())


def few_steps(*entries: Mapping[str, Any]) -> int | None:
    """Steps of the entry with the fewest, where these are too few to have begun to train."""
    taken = [entry.get("notes", {}).get("steps") for entry in entries if is_trained(entry)]
    few = [steps for steps in taken if steps is not None and steps < FEW_STEPS]
    return min(few, default=None)


def is_trained(entry: Mapping[str, Any]) -> bool:
    """Whether an entry was found by gradients."""
    return "trained" in families_of(entry)


def rewords(entry: Mapping[str, Any]) -> bool:
    """Whether the instruction was searched too, as the settings tell; a page has none."""
    settings = entry.get("settings")
    return entry["method"] == "prompt_search" if settings is None else "instructions" in settings


def minus(a: Figure, b: Figure) -> Figure:
    """One figure minus another that is independent of it (Newcombe 1998, method 10)."""
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Figure(value, low, high, min(a.n, b.n))


def stored_runs(folders: tuple[Path, ...] = FOLDERS) -> Iterator[Run]:
    """Runs in folders, and those whose tables stand in docs/results.md."""
    for folder in folders:
        for path in sorted(folder.glob("*/comparison.json")):
            told = _anew(path.parent)
            rows, budget = told["data"]["rows"]["train"], told["budget"]["per_method"]
            yield Run(told["task"]["name"], told["base"]["name"], rows, budget, told)
    yield from page_runs(PAGE.read_text(encoding="utf-8"))


def _anew(folder: Path) -> Mapping[str, Any]:
    """A run's `comparison.json`, its pairs computed again where the answers are still there."""
    run = read(folder)
    if run is None or not run.records:
        return dict(json.loads((folder / "comparison.json").read_text(encoding="utf-8")))
    return {**run.told, "pairs": run.comparison().as_dict()["pairs"]}


def page_runs(page: str) -> Iterator[Run]:
    """The runs whose tables stand in the page, as far as the page tells."""
    for name, text in _BLOCK.findall(page):
        about = _ROWS.search(text)
        if about is None:
            continue
        budget, rows, tests = (int(each.replace(",", "")) for each in about.groups())
        entries, _, differences = text.partition("| difference")
        told = {
            "entries": list(_entries(entries, tests)),
            "pairs": list(_pairs(differences, tests)),
        }
        yield Run(name, "smollm2-135m", rows, budget, told)


def _entries(text: str, rows: int) -> Iterator[dict[str, Any]]:
    for cells in _lines(text):
        score = _SCORE.fullmatch(cells[2]) if len(cells) > 7 else None
        if score is None:
            continue
        value, low, high = (round(float(each) / 100, 4) for each in score.groups())
        method, parts = cells[0].split(" ")[0].strip("*"), cells[1].split(" + ")
        size, unit = cells[7].split(" ")
        yield {
            "method": method,
            "parts": parts,
            "role": _role(method, parts),
            "test": {"value": value, "low": low, "high": high, "n": rows},
            "seed_values": [float(each) / 100 for each in cells[3].split(", ") if each],
            "bytes_on_disk": float(size.replace(",", "")) * _UNITS[unit],
            "prompt_tokens_per_request": float(cells[6].replace(",", "")),
        }


def _role(method: str, parts: list[str]) -> str:
    """The page has no column for it; it names the two entries that are told by their fit."""
    told = {"majority": "constant", "zero_shot": "untouched_base"}
    if method in told or parts == ["shallow_model"]:
        return told.get(method, "shallow")
    return "trained" if len(parts) > 1 else "prompt_text"


def _pairs(text: str, rows: int) -> Iterator[dict[str, Any]]:
    lines = list(_lines(f"| difference{text}"))
    others = [cell.removeprefix("from ") for cell in lines[0][1:]] if lines else []
    for cells in lines[2:]:
        for other, cell in zip(others, cells[1:], strict=True):
            value, low, high = (round(float(x) / 100, 4) for x in _SCORE.findall(cell)[0])
            yield {
                "a": cells[0], "b": other, "difference": value, "low": low, "high": high, "n": rows
            }  # fmt: skip


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]
