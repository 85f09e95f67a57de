"""`advise`: a prior and a plan, with nothing fitted and nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.cli.conftest import Finished
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import Done, tunewise

from tunewise.cli import show
from tunewise.cli.advise import legend, odds_table
from tunewise.compare.prior import Shape, prior
from tunewise.compare.priorities import Priorities


def advise(tiny: Path, folder: Path, *flags: object) -> Done:
    """`advise` with the tiny base."""
    data = write_rows(folder / "rows.jsonl", two_labels(60))
    done = tunewise("advise", data, "--base", tiny, "--dtype", "float32", *flags)
    assert sorted(path.name for path in folder.iterdir()) == ["rows.jsonl"]
    return done


def test_it_says_that_it_is_a_prior(tiny_folder: Path, tmp_path: Path) -> None:
    done = advise(tiny_folder, tmp_path, "--methods", "zero_shot,lora", "--budget", "20k")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "A prior, not a result: nothing was fitted on your data." in text
    assert "classification, 2 labels: " in text
    assert "low-rank fine-tuning" in text
    assert "near best: on how many sets its score came within 1 point (of 100)" in text
    assert "interval: in what share of many sets like these that would be so, with 95% conf" in text
    assert "a set counts once, however many runs it has" in text
    assert "to know, about" in text
    rows = tmp_path / "rows.jsonl"
    flags = f"--base {tiny_folder} --dtype float32 --methods zero_shot,lora --budget 20k"
    assert done.out.endswith(f"\n  tunewise compare {rows} {flags}\n")


def test_it_says_what_it_waits_for_and_nothing_of_it_on_standard_output(
    tiny_folder: Path, tmp_path: Path
) -> None:
    done = advise(tiny_folder, tmp_path, "--methods", "zero_shot", "--budget", "20k")
    assert done.err.splitlines() == [
        f"reading the data, loading {tiny_folder}",
        "timing this machine",
    ]
    assert "loading" not in done.out


def test_a_long_run_is_offered_within_a_time_unless_a_budget_was_asked_for(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "LONG_SECONDS", 0.0)
    done = advise(tiny_folder, tmp_path, "--methods", "zero_shot")
    assert "or within a time, with less training:" in done.out
    assert done.out.endswith("--methods zero_shot --budget 20min\n")
    told = advise(tiny_folder, tmp_path, "--methods", "zero_shot", "--budget", "20k")
    assert "within a time" not in told.out


def test_as_json(tiny_folder: Path, tmp_path: Path) -> None:
    flags = ("--methods", "lora", "--budget", "20k", "--minimum-quality", "85", "--json")
    done = advise(tiny_folder, tmp_path, *flags)
    assert done.code == 0, done.err
    told = done.json
    assert told["task"]["kind"] == "classification"
    assert told["plan"]["budget"]["per_method"] == 20_000
    assert all(
        0 <= each["near_best"] <= each["sets"] <= each["runs"] for each in told["prior"]["odds"]
    )
    assert told["prior"]["sets"] == len({each["name"] for each in told["prior"]["nearest"]})
    assert told["prior"]["runs"] == len(told["prior"]["nearest"])
    assert all(each["reached"] is not None for each in told["prior"]["odds"])
    assert told["prior"]["nearest"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--minimum-quality", "200"], "minimum_quality"),
        (["--minimum-quality", "high"], "high"),
        (["--minimum-quality", "nan"], "minimum_quality"),
        (["--give-up-points", "-1"], "give_up_points"),
        (["--domains", "3"], "--domains"),
        (["--methods", "lroa"], "lora"),
    ],
)
def test_what_cannot_be_used_is_refused(
    flags: list[str], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    done = advise(tiny_folder, tmp_path, *flags)
    assert done.code == 2
    assert said in done.err


def test_priorities_recommend_anew_from_the_same_measurements(
    finished: Finished, tmp_path: Path
) -> None:
    """A finished run is asked again: no fit is made, another method may be recommended."""
    before = finished.done.json
    out = shutil.copytree(finished.out, tmp_path / "run")
    fits = {path: path.stat().st_mtime_ns for path in (out / "fits").iterdir()}
    flags = (*finished.flags, "--json", "--minimum-quality", "100", "--domains", "4")
    done = tunewise("compare", finished.data, "--out", out, *flags)
    assert done.code == 0, done.err
    told = done.json
    assert told["recommendation"]["priorities"] == {"minimum_quality": 100.0, "domains": 4}
    assert told["pairs"] == before["pairs"]
    assert {path: path.stat().st_mtime_ns for path in (out / "fits").iterdir()} == fits


def test_every_column_of_the_odds_is_explained() -> None:
    """The titles of the table are the first words of the lines below it."""
    wanted = Priorities.model_validate({"minimum_quality": 85, "give_up_points": 2})
    found = prior(Shape("classification", 1000, 2, 20.0), None, wanted)
    headers, rows = odds_table(found)
    lines = legend(found)
    assert [line.split(":")[0] for line in lines[: len(headers)]] == [*headers[1:], "*"]
    assert "within 2 points (of 100)" in lines[0]
    assert "was 85 or more" in lines[4]
    sets, runs = len(found.sets), len(found.nearest)
    assert lines[6].startswith(f"from {sets} sets, {runs} runs: ")
    assert all(len(cells) == len(headers) for cells in rows)
    assert all(
        cells[1].endswith(f" of {each.sets}") for cells, each in zip(rows, found.odds, strict=True)
    )
