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

from tunewise import climb as climbing
from tunewise import jobs
from tunewise.climb import climb, gains, may_gain
from tunewise.errors import BudgetTooSmallError
from tunewise.methods._registry import find_method

ROWS = 400


class PlantedJobs:
    """Fits nothing: every method scores what is planted, on a trial and in the end."""

    def __init__(self, scores: dict[str, float], trials: dict[str, float], dear: set[str]) -> None:
        self.planted, self.trials, self.dear = scores, trials, dear
        self.settings = {name: find_method(name).Settings() for name in scores}
        self.calls: list[tuple[Any, ...]] = []
        self.said: list[str] = []
        self.reporter = SimpleNamespace(begin=lambda *a, **k: None, say=self.said.append)

    def _book(self, kind: str, method: Any, seed: int, start: Any) -> None:
        self.calls.append((kind, method.name, seed, start))
        dearest = method.name if method.name in self.dear else f"{method.name} {seed}"
        if dearest in self.dear:
            raise BudgetTooSmallError("too dear")

    def fit(self, method: Any, seed: int, *, start: Any = None) -> None:
        self._book("fit", method, seed, start)

    def try_out(self, method: Any, seed: int, *, start: Any = None) -> None:
        self._book("try", method, seed, start)

    def go_on(self, method: Any, seed: int) -> None:
        self._book("go on", method, seed, None)

    def found(self, method: Any, seed: int) -> str:
        return f"{method.name} {seed}"

    def validated(
        self, method: Any, seed: int, counted: tuple[int, int], *, trial: bool = False
    ) -> np.ndarray:
        planted = self.trials if trial and method.name in self.trials else self.planted
        right = round(ROWS * planted[method.name])
        return np.array([1.0] * right + [0.0] * (ROWS - right))


def run(
    scores: dict[str, float], trials: dict[str, float] | None = None, dear: set[str] = frozenset()
) -> tuple[PlantedJobs, dict[str, list[int]], dict[str, str]]:
    known = {name: find_method(name) for name in scores}
    planted: Any = PlantedJobs(scores, trials or {}, dear)
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
    # Equal scores cannot gain a point, so the trials of two rungs end the climb.
    assert set(left_out) == {"soft_prompt", "prefix", "lora", "full"}
    assert "80.0 with 33% of the budget on 400 validation rows" in left_out["soft_prompt"]
    assert "not climbed to" in left_out["lora"]
    assert "prompt_search" in left_out["full"]
    assert list(fitted) == ["tfidf", "zero_shot", "few_shot", "prompt_search"]
    # Only the best has the other seeds: few_shot is clearly behind it.
    assert fitted["prompt_search"] == [0, 1, 2]
    assert fitted["few_shot"] == [0]
    assert not any(call[1] in {"lora", "full"} for call in planted.calls)


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
    starts = {call[1]: call[3] for call in planted.calls if call[0] == "try" and call[2] == 0}
    assert starts == dict.fromkeys(("soft_prompt", "prefix", "lora", "full"), "prompt_search 0")
    searched = [call for call in planted.calls if call[1] in {"few_shot", "prompt_search"}]
    assert [call[0] for call in searched if call[2] == 0] == ["fit", "fit"]
    assert all(call[3] is None for call in searched)
    assert ("go on", "full", 0, None) in planted.calls
    assert fitted["full"] == [0, 1, 2]
    # Other seeds go the same way as the first.
    assert [call[0] for call in planted.calls if call[1:3] == ("full", 1)] == ["try", "go on"]
    assert any("a gain that pays" in line for line in planted.said)


def test_a_tie_has_its_seeds_too() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.9, "lora": 0.9}
    _, fitted, _ = run(scores, trials={"lora": 0.95})
    assert fitted == {"zero_shot": [0], "soft_prompt": [0, 1, 2], "lora": [0, 1, 2]}


def test_a_slow_start_gets_the_rest_where_it_may_still_pay() -> None:
    """As good in the mean, but on other rows: a point more may hide in that noise."""
    random = np.random.default_rng(0)
    before = (random.random(ROWS) < 0.8).astype(float)
    noisy = random.permutation(before)
    assert may_gain(noisy, before)
    assert not gains(noisy, before)
    assert not may_gain(before, before)
    assert not gains(before, before)
    assert gains(np.ones(ROWS), before)


def test_what_the_budget_does_not_pay_is_left_out_and_told() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.6, "lora": 0.7, "full": 0.9}
    planted, fitted, left_out = run(scores, dear={"full"})
    assert "too dear" in left_out["full"]
    assert "full" not in fitted
    # A trial that is too dear does not end it: the whole budget is asked.
    assert [call[0] for call in planted.calls if call[1] == "full"] == ["try", "fit"]


def test_a_rung_that_was_not_paid_for_does_not_end_the_climb() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.9, "prefix": 0.9, "lora": 0.8, "full": 0.5}
    _, fitted, left_out = run(scores, dear={"soft_prompt", "prefix"})
    assert fitted["lora"] == [0, 1, 2]
    assert left_out.keys() == {"soft_prompt", "prefix", "full"}
    assert "not climbed to" not in str(left_out)


def test_a_seed_that_is_too_dear_costs_that_seed_alone() -> None:
    scores = {"zero_shot": 0.5, "lora": 0.8}
    planted, fitted, left_out = run(scores, dear={"lora 1"})
    assert fitted == {"zero_shot": [0], "lora": [0, 2]}
    assert left_out == {}
    assert [call[0] for call in planted.calls if call[1:3] == ("lora", 1)] == ["try", "fit"]


@pytest.mark.parametrize("name", ["few_shot>lora", "few_shot", "lora"])
def test_only_training_goes_on_from_a_trial(name: str) -> None:
    planted, _, _ = run({"zero_shot": 0.5, name: 0.8})
    kinds = [call[0] for call in planted.calls if call[1:3] == (name, 0)]
    assert kinds == (["try", "go on"] if name == "lora" else ["fit"])


def test_nothing_at_all() -> None:
    _, fitted, left_out = run({"lora": 0.5}, dear={"lora"})
    assert fitted == {}
    assert set(left_out) == {"lora"}


def test_a_climb_for_real_resumes_to_the_same_bytes(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever a tiny model's trials show, they go on.
    monkeypatch.setattr(climbing, "may_gain", lambda scores, before: True)
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    flags = ["--methods", "tfidf,zero_shot,few_shot,soft_prompt", "--seeds", "2", "--climb"]
    flags += ["--budget", "60k", "--base", str(tiny_folder), "--json"]
    out, whole = tmp_path / "run", tmp_path / "whole"
    done = tunewise("compare", data, "--out", whole, *flags)
    assert done.code == 0, done.err
    assert "trying soft_prompt, seed 0" in done.err
    entry = next(each for each in done.json["entries"] if each["method"] == "soft_prompt")
    work = entry["fit"]["forward_tokens"] + entry["fit"]["backward_tokens"]
    assert 60_000 / 3 < work <= 60_000
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
