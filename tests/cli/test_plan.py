"""`compare --plan`: what it says, and that it does nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import Done, tunewise

from tunewise.compare.wording import duration
from tunewise.methods._registry import discover_methods
from tunewise.task.types import Kind


def plan(tiny: Path, folder: Path, *flags: object) -> Done:
    """`compare --plan` with the tiny base, and a folder that must stay away."""
    data = write_rows(folder / "rows.jsonl", two_labels(60))
    done = tunewise(
        "compare",
        data,
        "--plan",
        "--out",
        folder / "run",
        "--base",
        tiny,
        "--dtype",
        "float32",
        *flags,
    )
    assert sorted(path.name for path in folder.iterdir()) == ["rows.jsonl"]
    return done


def test_all_methods_are_planned_as_json(tiny_folder: Path, tmp_path: Path) -> None:
    done = plan(tiny_folder, tmp_path, "--all", "--seeds", "2", "--budget", "20k", "--json")
    assert done.code == 0, done.err
    told = done.json
    assert told["budget"] == {"unit": "token_passes", "per_method": 20_000}
    assert told["calibration_seconds"] > 0
    assert told["questions"]["at_most_token_passes"] == 20_000
    assert told["questions"]["seconds"] > 0
    jobs = {(job["method"], job["seed"]): job for job in told["jobs"]}
    kind = Kind.CLASSIFICATION
    known = {name for name, one in discover_methods().items() if kind in one.needs.kinds}
    assert {name for name, _ in jobs} == known
    assert told["skipped"] == []
    assert ("lora", 1) in jobs
    assert ("majority", 1) not in jobs
    for job in told["jobs"]:
        assert job["token_passes"] == job["forward_tokens"] + job["backward_tokens"] <= 20_000
        assert job["peak_bytes"] > 0
    for name in ("token_passes", "flops", "fit_seconds", "measure_seconds"):
        assert told["totals"][name] == pytest.approx(sum(job[name] for job in told["jobs"]))


def test_the_table_has_a_line_for_each_method(tiny_folder: Path, tmp_path: Path) -> None:
    flags = ("--methods", "lead,zero_shot,few_shot,lora", "--seeds", "2", "--budget", "20k")
    done = plan(tiny_folder, tmp_path, *flags)
    assert done.code == 0, done.err
    lines = {words[0]: words for words in map(str.split, done.out.splitlines()) if words}
    assert lines["zero_shot"][1] == "1"
    assert lines["lora"][1] == "2"
    assert lines["few_shot"][1:4] == ["2", "<", "40,000"]
    assert lines["all"][1] == "5"
    assert lines["lead"][1:3] == ["left", "out:"]
    assert "20,000 token passes per fit" in done.out
    assert "at most" in done.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "and questions: at most 20,000 token passes, about "),
        (("--questions", "none"), "and no questions"),
        (("--questions", "accuracy"), "and questions that run no model"),
        (("--questions", "consistency"), "they are counted once the fits are there"),
        (("--evidence",), "they are counted once the fits are there"),
    ],
)
def test_what_questions_add_is_told(
    tiny_folder: Path, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    done = plan(tiny_folder, tmp_path, "--methods", "zero_shot", "--budget", "20k", *flags)
    assert done.code == 0, done.err
    assert told in " ".join(done.out.split())


def test_what_answering_takes_does_not_depend_on_the_budget(
    tiny_folder: Path, tmp_path: Path
) -> None:
    flags = ("--methods", "zero_shot", "--questions", "consistency", "--json")
    told = [plan(tiny_folder, tmp_path, *flags, "--budget", each).json for each in ("8k", "80k")]
    first, second = (each["questions"]["at_most_token_passes"] for each in told)
    assert first == second >= 40_000


def test_what_the_budget_does_not_pay_for_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    flags = ("--methods", "majority,lora", "--budget", "100", "--json")
    done = plan(tiny_folder, tmp_path, *flags)
    assert done.code == 0, done.err
    assert [each["method"] for each in done.json["skipped"]] == ["lora"]
    assert "100 token passes" in done.json["skipped"][0]["reason"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--methods", "lroa"),
        ("--budget", "much"),
        ("--seeds", "0"),
        ("--dtype", "float8"),
        ("--methods", "lead"),
    ],
)
def test_what_a_run_refuses_a_plan_refuses(
    tiny_folder: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    done = plan(tiny_folder, tmp_path, *flags)
    assert done.code == 2
    assert flags[-1] in done.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (119.0, "119 s"),
        (720.0, "12 min"),
        (7199.0, "120 min"),
        (12_600.0, "3.5 h"),
    ],
)
def test_seconds_are_told_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_priorities_change_no_plan(tiny_folder: Path, tmp_path: Path) -> None:
    done = plan(tiny_folder, tmp_path, "--requests-a-month", "5", "--domains", "2")
    assert done.code == 2
    assert "--requests-a-month, --domains with --plan" in done.err


def test_a_method_with_settings_counts_as_named(tiny_folder: Path, tmp_path: Path) -> None:
    task = tmp_path / "task.toml"
    task.write_text("[methods.lead]\nwords = 5\n", encoding="utf-8")
    folder = tmp_path / "planned"
    folder.mkdir()
    done = plan(tiny_folder, folder, "--task", task, "--seeds", "1", "--budget", "20k", "--json")
    assert done.code == 0, done.err
    assert [each["method"] for each in done.json["skipped"]] == ["lead"]
