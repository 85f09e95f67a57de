"""The most that a climb takes, against climbs on planted scores, and once for real."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise
from tests.pipeline.test_climb import run

from tunewise.climb import TRIAL_SHARE, at_most
from tunewise.config import RunConfig
from tunewise.errors import BudgetTooSmallError
from tunewise.methods._registry import find_method
from tunewise.planning.records import JobPlan, RunPlan
from tunewise.planning.within import plan_within
from tunewise.task.options import TaskOptions

BUDGET = 1000
NAMES = ("zero_shot", "few_shot", "prompt_search", "soft_prompt", "prefix", "lora", "full")


@dataclass(frozen=True)
class PlantedPlanner:
    """Every method costs what is planted for it, times its budget."""

    jobs: tuple[tuple[Any, int], ...]
    costs: dict[str, float]
    dear: frozenset[str]

    def job(
        self, method: Any, seed: int, budget: int, *, trial: Callable[[Any], Any] | None = None
    ) -> JobPlan:
        kind = "whole" if trial is None else "trial"
        if {method.name, f"{method.name} {kind}", f"{method.name} {seed}"} & self.dear:
            raise BudgetTooSmallError("too dear")
        seconds = self.costs[method.name] * budget
        return JobPlan(method.name, seed, budget, 0, 0, False, seconds, 0.0, 1, trial is not None)

    def together(
        self, jobs: Sequence[JobPlan], skipped: Any, budget: int, questions: int | None
    ) -> RunPlan:
        return RunPlan(tuple(jobs), tuple(skipped), budget, 0.0, questions, 0.0)


def planted(costs: dict[str, float], dear: frozenset[str] = frozenset()) -> PlantedPlanner:
    methods = [find_method(name) for name in NAMES]
    jobs = [
        (method, seed) for method in methods for seed in ((0, 1, 2) if method.needs.seeds else (0,))
    ]
    return PlantedPlanner(tuple(jobs), costs, dear)


def plan(planner: Any) -> RunPlan:
    return at_most(planner, (), BUDGET)


def test_it_is_every_prompt_every_trial_two_wholes_and_the_seeds_of_one() -> None:
    costs = dict.fromkeys(NAMES, 1.0) | {"lora": 2.0, "full": 3.0}
    found = plan(planted(costs))
    assert found.climbs
    assert found.as_dict()["at_most"]
    trials = [job.method for job in found.jobs if job.trial]
    assert trials == ["soft_prompt", "prefix", "lora", "full"]
    assert {job.forward_tokens for job in found.jobs if job.trial} == {TRIAL_SHARE * BUDGET}
    whole = [(job.method, job.seed) for job in found.jobs if not job.trial]
    assert whole == [
        ("zero_shot", 0),
        ("few_shot", 0),
        ("prompt_search", 0),
        ("full", 0),
        ("lora", 0),
        ("full", 1),
        ("full", 2),
    ]


def test_what_is_too_dear_for_a_trial_is_whole_and_what_is_too_dear_whole_is_left_out() -> None:
    found = plan(planted(dict.fromkeys(NAMES, 1.0), frozenset({"lora trial", "full"})))
    assert [job.method for job in found.jobs if job.trial] == ["soft_prompt", "prefix"]
    assert {job.method for job in found.jobs if not job.trial} == {*NAMES} - {"full"}
    assert [each.method for each in found.skipped] == ["full"]


def test_a_seed_that_is_too_dear_is_left_out_alone() -> None:
    costs = dict.fromkeys(NAMES, 1.0) | {"full": 3.0}
    found = plan(planted(costs, frozenset({"full 1"})))
    assert [job.seed for job in found.jobs if job.method == "full" and not job.trial] == [0, 2]
    assert found.skipped == ()


@pytest.mark.parametrize("seed", range(40))
def test_no_climb_takes_more(seed: int) -> None:
    random = np.random.default_rng(seed)
    costs = {name: float(random.uniform(0.1, 3.0)) for name in NAMES}
    scores = {name: float(random.uniform(0.4, 0.95)) for name in NAMES}
    trials = {name: float(random.uniform(0.4, 0.95)) for name in NAMES[3:]}
    dear = {f"{name} trial" for name in NAMES[3:] if random.random() < 0.2}
    dear |= {name for name in NAMES[1:] if random.random() < 0.1}
    made, _, _ = run(scores, dear=dear, trials=trials)
    spent = sum(
        costs[name] * BUDGET * (TRIAL_SHARE if kind == "trial" else 1.0)
        for name, _, _, kind in made.calls
        if not {name, f"{name} {kind}"} & dear
    )
    ceiling = plan(planted(costs, frozenset(dear)))
    assert spent <= ceiling.seconds + 1e-9
    everything = sum(costs[method.name] * BUDGET for method, _ in planted(costs).jobs)
    assert ceiling.seconds < everything


def test_a_climb_for_real_keeps_to_its_plan(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    out = tmp_path / "run"
    flags = ["--methods", "tfidf,zero_shot,few_shot,soft_prompt,lora", "--seeds", "2", "--climb"]
    flags += ["--budget", "120k", "--base", str(tiny_folder), "--questions", "none"]
    told = tunewise("compare", data, *flags, "--plan", "--json")
    assert told.code == 0, told.err
    assert not out.exists()
    planned = told.json
    assert planned["at_most"]
    assert {job["method"] for job in planned["jobs"] if job["trial"]} == {"soft_prompt", "lora"}
    done = tunewise("compare", data, "--out", out, *flags)
    assert done.code == 0, done.err
    # What every fit spent, trials among them, stands beside what it found.
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in out.rglob("*-seed?.json")
        if path.parent.name == "fits"
    ]
    spent = sum(each["forward_tokens"] + each["backward_tokens"] for each in records)
    assert 0 < spent <= planned["totals"]["token_passes"]


def test_the_table_of_a_climb_says_that_it_is_a_ceiling(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    flags = ("--methods", "zero_shot,soft_prompt", "--climb", "--plan", "--budget", "120k")
    done = tunewise("compare", data, "--base", tiny_folder, *flags)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "120,000 token passes per whole fit" in text
    assert "soft_prompt (trial) 1" in text
    assert "soft_prompt 3" in text
    assert "a climb makes no more than this" in text


def test_a_time_pays_for_more_where_it_climbs() -> None:
    planner: Any = planted(dict.fromkeys(NAMES, 1.0))

    def everything(budget: int) -> RunPlan:
        made = [planner.job(method, seed, budget) for method, seed in planner.jobs]
        return planner.together(made, (), budget, 0)  # type: ignore[no-any-return]  # planted

    climbed = plan_within(lambda budget: at_most(planner, (), budget), 1e6)
    # One prompt, two searches, four quarters, two wholes and two seeds; else one and six times
    # three.
    assert climbed.budget == 120_000
    assert plan_within(everything, 1e6).budget == 50_000
    assert climbed.seconds <= 1e6


@pytest.mark.parametrize(
    ("flags", "climbs"),
    [
        ([], True),
        (["--all"], False),
        (["--methods", "zero_shot,soft_prompt,lora"], False),
        (["--methods", "zero_shot,soft_prompt,lora", "--climb"], True),
    ],
)
def test_a_comparison_climbs_unless_all_is_asked_for_or_methods_are_named(
    tmp_path: Path, tiny_folder: Path, flags: list[str], climbs: bool
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    always = ("--base", tiny_folder, "--plan", "--budget", "120k", "--seeds", "1", "--json")
    done = tunewise("compare", data, *always, *flags)
    assert done.code == 0, done.err
    assert done.json["at_most"] is climbs


def test_a_run_goes_on_whether_its_climb_was_typed_or_not() -> None:
    def identity(**told: object) -> str:
        config = RunConfig.model_validate({"source": "x", "options": TaskOptions(), **told})
        return config.plan("hash")

    assert identity() == identity(climb=True) != identity(climb=False)
    some = {"methods": ("lora", "full")}
    assert identity(**some) == identity(**some, climb=False) != identity(**some, climb=True)
