"""An interrupted run goes on to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise
from tests.cli.test_commands import bytes_of

from tunewise import jobs
from tunewise.adaptation.contestant import Contestant

METHODS = ("majority", "lora", "soft_prompt")


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    # A shell starts what runs in its background deaf to SIGINT, and children inherit that.
    hear = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{hear}from tunewise.cli.main import main; main()"]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def _stop_at(process: subprocess.Popen[str], place: Path, how: signal.Signals) -> tuple[int, str]:
    """Send a signal as soon as something appears; returns the exit code and what was said."""
    until = time.monotonic() + 300
    while not place.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_stopped_and_killed_fits_end_in_the_same_bytes(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    out, whole = tmp_path / "run", tmp_path / "whole"
    flags = ["--base", str(tiny_folder), "--methods", ",".join(METHODS), "--seeds", "1"]
    flags += ["--budget", "250k"]
    arguments = ["compare", str(data), "--out", str(out), *flags]

    code, err = _stop_at(
        _start(arguments), out / "checkpoints/lora-seed0/state.json", signal.SIGINT
    )
    assert code == 3, err
    assert "the same command goes on from the last checkpoint" in err
    assert "Traceback" not in err
    assert not (out / "adaptations/lora-seed0").exists()
    assert (out / "adaptations/majority-seed0").exists()

    place = out / "checkpoints/soft_prompt-seed0/state.json"
    code, err = _stop_at(_start(arguments), place, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "fitting majority" not in err  # it is there already
    assert "fitting lora" in err
    assert not (out / "adaptations/soft_prompt-seed0").exists()
    assert not (out / "comparison.json").exists()

    fitted = _spy_on_fits(monkeypatch)
    done = tunewise(*arguments, "--json")
    assert done.code == 0, done.err
    assert fitted == ["soft_prompt"]
    assert not list((out / "checkpoints").glob("*"))

    fitted.clear()
    uninterrupted = tunewise("compare", data, "--out", whole, *flags, "--json")
    assert uninterrupted.code == 0, uninterrupted.err
    assert fitted == list(METHODS)
    assert bytes_of(out / "adaptations") == bytes_of(whole / "adaptations")
    for one, other in zip(done.json["entries"], uninterrupted.json["entries"], strict=True):
        assert one["test"] == other["test"]
        assert one["fit"]["flops"] == other["fit"]["flops"]
        steps = [point["step"] for point in one["curve"].get("0", ())]
        assert steps == [point["step"] for point in other["curve"].get("0", ())]


def test_stopped_in_the_middle_of_a_race_the_winner_is_the_same(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    out, whole = tmp_path / "run", tmp_path / "whole"
    flags = ["--base", str(tiny_folder), "--methods", "zero_shot,prompt_search", "--seeds", "1"]
    flags += ["--budget", "100k", "--questions", "none"]
    scored = Contestant.extend
    calls: list[int] = []

    def stopped(self: Contestant, count: int) -> None:
        calls.append(count)
        if len(calls) == 12:
            raise KeyboardInterrupt
        scored(self, count)

    with monkeypatch.context() as patch:
        patch.setattr(Contestant, "extend", stopped)
        done = tunewise("compare", data, "--out", out, *flags)
    assert done.code == 3, done.err
    assert len(calls) == 12
    assert not (out / "adaptations/prompt_search-seed0").exists()
    for place in (out, whole):
        done = tunewise("compare", data, "--out", place, *flags)
        assert done.code == 0, done.err
    assert bytes_of(out / "adaptations") == bytes_of(whole / "adaptations")


def _spy_on_fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the methods that are fitted from now on."""
    fitted: list[str] = []
    real = jobs.fit

    def spy(ground: Any, method: Any, *a: Any, **k: Any) -> Any:
        fitted.append(method.name)
        return real(ground, method, *a, **k)

    monkeypatch.setattr(jobs, "fit", spy)
    return fitted


def test_a_kill_between_adaptation_and_facts_is_mended(tmp_path: Path, tiny_folder: Path) -> None:
    data, out = write_rows(tmp_path / "rows.jsonl", two_labels(60)), tmp_path / "run"
    command = ("compare", data, "--out", out, "--base", tiny_folder, "--methods", "majority,lora")
    command += ("--seeds", "1", "--budget", "20k", "--json")
    first = tunewise(*command)
    assert first.code == 0, first.err
    before = bytes_of(out / "adaptations")
    (out / "fits/lora-seed0.json").unlink()
    (out / "records/lora-seed0.json").unlink()
    (out / "records/majority-seed0.json").write_text('{"method": "ma', encoding="utf-8")
    again = tunewise(*command)
    assert again.code == 0, again.err
    assert bytes_of(out / "adaptations") == before
    for one, other in zip(first.json["entries"], again.json["entries"], strict=True):
        assert (one["method"], one["test"]) == (other["method"], other["test"])


def test_a_run_begun_by_other_rules_goes_on_and_says_so(tmp_path: Path, tiny_folder: Path) -> None:
    data, out = write_rows(tmp_path / "rows.jsonl", two_labels(60)), tmp_path / "run"
    command = ("compare", data, "--out", out, "--base", tiny_folder, "--questions", "none")
    command += ("--methods", "majority,zero_shot")
    said = "this run was begun on"
    assert said not in tunewise(*command).err
    assert said not in tunewise(*command).err
    held = json.loads((out / "started.json").read_text())
    del held["fit_rules"]  # as it was before there was a number
    (out / "started.json").write_text(json.dumps(held))
    again = tunewise(*command)
    assert again.code == 0, again.err
    assert f"mind: {said} {held['started']}" in " ".join(again.err.split())
    assert said in (out / "report.html").read_text()
