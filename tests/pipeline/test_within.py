"""A budget that is a time: the largest round one that keeps to it, settled once for a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise

from tunewise.config import parse_time
from tunewise.measure.records import SkippedMethod
from tunewise.planning.records import JobPlan, RunPlan
from tunewise.planning.within import plan_within, rows_within


class Planned:
    """A planner to which every token pass takes as long, beside what measuring takes."""

    def __init__(self, per_pass: float, measuring: float, least: int = 0) -> None:
        self.per_pass, self.measuring, self.least, self.asked = per_pass, measuring, least, 0

    def __call__(self, budget: int, questions: int = 0) -> RunPlan:
        self.asked += 1
        job = JobPlan("x", 0, budget, 0, 0, False, self.per_pass * budget, self.measuring, 1)
        seconds = questions * self.per_pass
        dear = () if budget >= self.least else (SkippedMethod("full", "too dear"),)
        return RunPlan((job,), dear, budget, 1.0, questions, seconds)


@pytest.mark.parametrize("per_pass", [1e-6, 3.3e-4, 2e-3])
@pytest.mark.parametrize("minutes", [2, 11, 600])
def test_it_is_the_largest_round_budget_that_keeps_to_the_time(
    per_pass: float, minutes: int
) -> None:
    planner = Planned(per_pass, 60.0)
    found = plan_within(planner, 60.0 * minutes).budget
    digits = str(found).rstrip("0")
    assert digits in {"1", "12", "15", "2", "25", "3", "4", "5", "6", "8"}
    assert found * per_pass + 60 <= 60 * minutes
    assert found == 80_000_000 or found * 1.34 * per_pass + 60 > 60 * minutes
    assert planner.asked < 20


@pytest.mark.parametrize(("share", "budget"), [(0, 60_000), (1, 30_000), (9, 6_000)])
def test_questions_are_counted(share: int, budget: int) -> None:
    planner = Planned(1e-3, 0.0)
    found = plan_within(lambda passes: planner(passes, share * passes), 60.0)
    assert found.budget == budget


def test_no_method_is_left_out_for_want_of_time() -> None:
    planner = Planned(1e-3, 10.0, least=17_000)
    assert plan_within(planner, 60.0).budget == 50_000
    # Too short a time: the least that pays for every method, and how long it takes.
    for seconds in (24.0, 1.0, 0.0):
        found = plan_within(planner, seconds)
        assert (found.budget, found.seconds) == (20_000, 30.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10min", 600.0), ("1.5h", 5400.0), (" 2 H ", 7200.0), ("10", None), ("10m", None)],
)
def test_times_are_read(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["10 minutes", "-3min", "1e3min", "min", "10s", "nanmin"])
def test_what_is_no_time_is_refused(tmp_path: Path, tiny_folder: Path, text: str) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(40))
    done = tunewise(
        "compare", data, "--base", tiny_folder, "--budget", text, "--out", tmp_path / "run"
    )
    assert done.code == 2
    assert "--budget" in done.err
    assert "20min" in done.err


def test_a_fit_alone_takes_no_time(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(40))
    done = tunewise(
        "fit", "lora", data, "--base", tiny_folder, "--budget", "5min", "--out", tmp_path / "run"
    )
    assert done.code == 2
    assert "the budget cannot be read" in done.err


def test_a_run_settles_its_budget_once(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    command = (
        "compare",
        data,
        "--base",
        tiny_folder,
        "--dtype",
        "float32",
        "--out",
        tmp_path / "run",
    )
    command += ("--methods", "zero_shot,soft_prompt", "--seeds", "1", "--budget", "0.1min")
    first = tunewise(*command, "--questions", "none")
    assert first.code == 0, first.err
    settled = json.loads((tmp_path / "run" / "budget.json").read_text())["token_passes"]
    told = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert told["budget"]["per_method"] == settled
    assert f"{settled:,} token passes per fit, planned to take" in " ".join(first.err.split())
    (tmp_path / "run" / "budget.json").write_text(json.dumps({"token_passes": 1_234}))
    again = tunewise(*command, "--questions", "none")
    assert again.code == 0, again.err
    told = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert told["budget"]["per_method"] == 1_234


def test_the_plan_tells_what_a_time_pays_for(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    flags = ("--base", tiny_folder, "--methods", "zero_shot,lora", "--plan", "--json")
    done = tunewise("compare", data, *flags, "--budget", "0.2min")
    assert done.code == 0, done.err
    totals = done.json["totals"]
    assert done.json["budget"]["per_method"] >= 1_000
    assert totals["fit_seconds"] + totals["measure_seconds"] > 0


def test_a_time_holds_for_what_is_asked_too(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    always = ("--base", tiny_folder, "--dtype", "float32", "--methods", "zero_shot,lora")
    always += ("--seeds", "1", "--budget", "0.2min")
    plans = {}
    for flags in (("--questions", "none"), ("--evidence",), ("--questions", "forgetting")):
        done = tunewise("compare", data, *always, *flags, "--plan", "--json")
        assert done.code == 0, done.err
        plans[flags[-1]] = done.json
    for asked in ("--evidence", "forgetting"):
        assert plans[asked]["questions"]["guessed"]
        assert plans[asked]["questions"]["at_most_token_passes"] > 0
    totals = plans["--evidence"]["totals"]
    assert totals["fit_seconds"] + totals["measure_seconds"] <= 6.0
    # Half of the time at most is kept for them, so that fits are worth asking about.
    told = plans["--evidence"]["questions"]
    assert told["cut"]
    assert told["seconds"] == pytest.approx(6.0)
    assert not plans["forgetting"]["questions"]["cut"]
    # What no time pays for is left out and told; what is named is asked all the same.
    always = (*always[:-1], "0.0001min", "--out", tmp_path / "run")
    done = tunewise("compare", data, *always, "--evidence")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "run" / "comparison.json").read_text())["evidence"]
    absent = {each["question"]: each["absent"] for each in told}
    assert not absent["cost_to_fit"]
    assert "left of the run's time; `--questions forgetting`" in absent["forgetting"]
    done = tunewise("compare", data, *always, "--questions", "forgetting")
    assert done.code == 0, done.err
    (told,) = json.loads((tmp_path / "run" / "comparison.json").read_text())["evidence"]
    assert not told["absent"]


@pytest.mark.parametrize(
    ("rows", "a_row", "besides", "found"),
    [
        (844, 0.25, 29.0, 844),  # two fifths of the time
        (844, 0.25, 29.1, 800),
        (844, 0.5, 50.0, 300),
        (844, 0.5, 140.0, 200),
        (844, 5.0, 0.0, 200),  # too short for any number
        (844, 0.0, 500.0, 200),
        (150, 5.0, 0.0, 150),
        (201, 5.0, 0.0, 200),
    ],
)
def test_answering_has_two_fifths_of_a_time(
    rows: int, a_row: float, besides: float, found: int
) -> None:
    asked: list[int] = []

    def takes(count: int) -> float:
        asked.append(count)
        return besides + a_row * count

    assert rows_within(rows, takes, 600.0) == found
    assert set(asked) <= {rows, 200}
    numbers = [count for count in range(200, rows) if besides + a_row * count <= 240.0]
    assert found >= rows or found == 200 or found in numbers


def test_a_short_time_is_kept_to_by_answering_fewer_rows(tmp_path: Path, tiny_folder: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(1200))
    command = ("compare", data, "--base", tiny_folder, "--dtype", "float32", "--seeds", "1")
    command += ("--methods", "zero_shot,soft_prompt", "--questions", "none")
    short = ("--budget", "0.002min", "--out", tmp_path / "run")
    first = tunewise(*command, *short)
    assert first.code == 0, first.err
    settled = json.loads((tmp_path / "run" / "budget.json").read_text())
    assert settled["test_rows"] == 200
    told = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert told["data"]["rows"]["test"] == 200
    assert {each["test"]["n"] for each in told["entries"]} == {200}
    said = "200 of 360 test rows are answered, drawn at random, to keep to 0.002min"
    assert said in " ".join(first.err.split())
    assert said in (tmp_path / "run" / "report.html").read_text()
    again = tunewise(*command, *short)
    assert again.code == 0, again.err
    # Who says how many rows has so many, and whatever time they take.
    plan = tunewise(*command, "--budget", "0.002min", "--test-rows", "300", "--plan", "--json")
    assert plan.code == 0, plan.err
    assert any("300 of 360" in each for each in plan.json["data_warnings"])
    plan = tunewise(*command, "--budget", "20k", "--plan", "--json")
    assert not any("test rows are answered" in each for each in plan.json["data_warnings"])
    # The rows are part of what a run is.
    other = tunewise(*command, *short, "--test-rows", "300")
    assert other.code == 2
