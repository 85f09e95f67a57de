"""The climb on planted scores, and once for real."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise
from tests.cli.test_commands import bytes_of

from tunewise import jobs
from tunewise.climb import climb, gains
from tunewise.errors import BudgetTooSmallError
from tunewise.methods._registry import find_method

ROWS = 400


class PlantedJobs:
    """Fits nothing: every method scores what is planted."""

    def __init__(self, scores: dict[str, float], dear: set[str]) -> None:
        self.planted, self.dear = scores, dear
        self.settings = {name: find_method(name).Settings() for name in scores}
        self.calls: list[tuple[Any, ...]] = []
        self.said: list[str] = []
        self.reporter = SimpleNamespace(begin=lambda *a, **k: None, say=self.said.append)

    def fit(self, method: Any, seed: int, *, start: Any = None) -> None:
        self.calls.append((method.name, seed, start))
        if {method.name, f"{method.name} {seed}"} & self.dear:
            raise BudgetTooSmallError("too dear")

    def found(self, method: Any, seed: int) -> str:
        return f"{method.name} {seed}"

    def validated(self, method: Any, seed: int, counted: tuple[int, int]) -> np.ndarray:
        right = round(ROWS * self.planted[method.name])
        return np.array([1.0] * right + [0.0] * (ROWS - right))


def run(
    scores: dict[str, float], dear: set[str] = frozenset()
) -> tuple[PlantedJobs, dict[str, list[int]], dict[str, str]]:
    known = {name: find_method(name) for name in scores}
    planted: Any = PlantedJobs(scores, dear)
    asked = [
        (known[name], seed)
        for name in scores
        for seed in ((0, 1, 2) if known[name].needs.seeds else (0,))
    ]
    done, left_out = climb(planted, asked)
    fitted: dict[str, list[int]] = {}
    for method, seed in done:
        fitted.setdefault(method.name, []).append(seed)
    return planted, fitted, {each.method: each.reason for each in left_out}


def test_it_stops_where_two_rungs_bring_nothing() -> None:
    planted, fitted, left_out = run(
        {
            "full": 0.80,
            "lora": 0.80,
            "prefix": 0.80,
            "soft_prompt": 0.80,
            "prompt_search": 0.80,
            "few_shot": 0.70,
            "zero_shot": 0.60,
            "tfidf": 0.65,
        }
    )
    # Equal scores are no gain, so two rungs end the climb.
    assert set(left_out) == {"lora", "full"}
    assert "not climbed to" in left_out["lora"]
    assert "prompt_search" in left_out["full"]
    assert list(fitted) == [
        "tfidf",
        "zero_shot",
        "few_shot",
        "prompt_search",
        "soft_prompt",
        "prefix",
    ]
    # What ties with the best has the other seeds; few_shot is clearly behind it.
    assert fitted["prompt_search"] == fitted["prefix"] == [0, 1, 2]
    assert fitted["few_shot"] == [0]
    assert not any(call[0] in {"lora", "full"} for call in planted.calls)


def test_trained_rungs_begin_at_the_best_prompt_and_searches_anew() -> None:
    planted, fitted, left_out = run(
        {
            "zero_shot": 0.5,
            "few_shot": 0.4,
            "prompt_search": 0.6,
            "soft_prompt": 0.7,
            "prefix": 0.8,
            "lora": 0.9,
            "full": 0.95,
        }
    )
    assert left_out == {}
    assert fitted["few_shot"] == [0]
    starts = {name: start for name, seed, start in planted.calls if seed == 0}
    assert starts == {
        **dict.fromkeys(("zero_shot", "few_shot", "prompt_search")),
        **dict.fromkeys(("soft_prompt", "prefix", "lora", "full"), "prompt_search 0"),
    }
    assert fitted["full"] == [0, 1, 2]
    # Other seeds begin where the first did.
    assert ("full", 1, "prompt_search 0") in planted.calls
    assert any("a gain that pays" in line for line in planted.said)


def test_a_tie_has_its_seeds_too() -> None:
    _, fitted, _ = run({"zero_shot": 0.5, "soft_prompt": 0.9, "lora": 0.9})
    assert fitted == {"zero_shot": [0], "soft_prompt": [0, 1, 2], "lora": [0, 1, 2]}


def test_a_gain_is_a_point_and_a_standard_error() -> None:
    random = np.random.default_rng(0)
    before = (random.random(ROWS) < 0.8).astype(float)
    noisy = random.permutation(before)
    assert not gains(noisy, before)
    assert not gains(before, before)
    assert gains(np.ones(ROWS), before)
    # A point more on the same rows is a gain; half a point is not.
    wrong = np.flatnonzero(before == 0)
    for more, pays in ((2, False), (4, True)):
        better = before.copy()
        better[wrong[:more]] = 1.0
        assert gains(better, before) == pays


def test_what_the_budget_does_not_pay_is_left_out_and_told() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.6, "lora": 0.7, "full": 0.9}
    _, fitted, left_out = run(scores, dear={"full"})
    assert "too dear" in left_out["full"]
    assert "full" not in fitted


def test_a_rung_that_was_not_paid_for_does_not_end_the_climb() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.9, "prefix": 0.9, "lora": 0.8, "full": 0.5}
    _, fitted, left_out = run(scores, dear={"soft_prompt", "prefix"})
    assert fitted["lora"] == [0, 1, 2]
    assert left_out.keys() == {"soft_prompt", "prefix"}
    assert "not climbed to" not in str(left_out)


def test_a_seed_that_is_too_dear_costs_that_seed_alone() -> None:
    scores = {"zero_shot": 0.5, "lora": 0.8}
    _, fitted, left_out = run(scores, dear={"lora 1"})
    assert fitted == {"zero_shot": [0], "lora": [0, 2]}
    assert left_out == {}


def test_nothing_at_all() -> None:
    _, fitted, left_out = run({"lora": 0.5}, dear={"lora"})
    assert fitted == {}
    assert set(left_out) == {"lora"}


def test_a_climb_for_real_resumes_to_the_same_bytes(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    flags = ["--methods", "tfidf,zero_shot,few_shot,soft_prompt", "--seeds", "2", "--climb"]
    flags += ["--budget", "60k", "--base", str(tiny_folder), "--json"]
    out, whole = tmp_path / "run", tmp_path / "whole"
    done = tunewise("compare", data, "--out", whole, *flags)
    assert done.code == 0, done.err
    assert "judging soft_prompt, seed 0" in done.err
    entry = next(each for each in done.json["entries"] if each["method"] == "soft_prompt")
    work = entry["fit"]["forward_tokens"] + entry["fit"]["backward_tokens"]
    assert 0 < work <= 60_000
    steps = [point["step"] for point in entry["curve"]["0"] if "train_loss" in point]
    assert steps == sorted(steps)

    real, count = jobs.fit, []

    def stopping(*a: Any, **k: Any) -> Any:
        count.append(a[1].name)
        if len(count) == 5:
            raise KeyboardInterrupt
        return real(*a, **k)

    monkeypatch.setattr(jobs, "fit", stopping)
    stopped = tunewise("compare", data, "--out", out, *flags)
    assert stopped.code == 3, stopped.err
    again = tunewise("compare", data, "--out", out, *flags)
    assert again.code == 0, again.err
    assert bytes_of(out / "adaptations") == bytes_of(whole / "adaptations")
    assert not (out / "checkpoints").exists()
    first, second = done.json["entries"], again.json["entries"]
    assert [(e["method"], e["test"]) for e in first] == [(e["method"], e["test"]) for e in second]


def test_a_climb_is_not_planned(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    done = tunewise("compare", data, "--base", tiny_folder, "--climb", "--plan")
    assert done.code == 2
    assert "a climb cannot be planned" in done.err
