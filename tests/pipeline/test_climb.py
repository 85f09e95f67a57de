"""The climb on planted scores, and once for real."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise
from tests.cli.test_commands import bytes_of

from tunewise import jobs
from tunewise.adaptation.parts import PromptTextPart
from tunewise.climb import _for_a_trial, cheapest_within_noise_of_the_best, climb, gains
from tunewise.errors import BudgetTooSmallError
from tunewise.jobs import Jobs
from tunewise.measure.files import read_json, read_record
from tunewise.methods._registry import find_method
from tunewise.task.prompt import Demonstration, PromptText

ROWS = 400


@dataclass(frozen=True)
class Found:
    """Stands for a prompt that was found."""

    name: str
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class PlantedJobs:
    """Fits nothing: every method scores what is planted, in a trial what is planted for it."""

    planted: dict[str, float]
    trials: dict[str, float]
    dear: frozenset[str]
    settings: dict[str, Any]
    budget: int = 1000
    out: Path = Path("run")
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)
    shows_examples: bool = False

    @property
    def reporter(self) -> Any:
        return SimpleNamespace(begin=lambda *a, **k: None, say=self.said.append)

    @property
    def _is_trial(self) -> bool:
        assert (self.out.name == "trials") == (self.budget == 250)
        return self.out.name == "trials"

    def fit(self, method: Any, seed: int, *, start: Any = None) -> None:
        kind = "trial" if self._is_trial else "whole"
        self.calls.append((method.name, seed, None if start is None else start.name, kind))
        least = getattr(self.settings[method.name], "least_steps", None)
        assert least in (None, 16 if self._is_trial else 1)
        if {method.name, f"{method.name} {seed}", f"{method.name} {kind}"} & self.dear:
            raise BudgetTooSmallError("too dear")

    def is_validated(self, method: Any, seed: int) -> bool:
        return False

    def is_fitted(self, method: Any, seed: int) -> bool:
        assert not self._is_trial
        return False

    def drop(self, method: Any, seed: int) -> None:
        assert self._is_trial

    def all_fitted(self) -> None:
        assert self._is_trial

    def steps(self, method: Any, seed: int) -> int | None:
        return self.taken.get(method.name)

    def found(self, method: Any, seed: int) -> Found:
        example = Demonstration("in", "out")
        text = PromptText("do it", (example,) if self.shows_examples else ())
        return Found(f"{method.name} {seed}", (PromptTextPart(text),))

    def validated(self, method: Any, seed: int, counted: tuple[int, int]) -> np.ndarray:
        scores = self.trials if self._is_trial else self.planted
        right = round(ROWS * scores.get(method.name, self.planted[method.name]))
        return np.array([1.0] * right + [0.0] * (ROWS - right))

    def clusters(self) -> None:
        return None

    def fitted(self, kind: str) -> set[str]:
        return {call[0] for call in self.calls if call[3] == kind}


def run(
    scores: dict[str, float],
    dear: set[str] = frozenset(),  # type: ignore[assignment]  # nothing changes it
    trials: dict[str, float] | None = None,
    taken: dict[str, int] | None = None,
    *,
    shows_examples: bool = False,
) -> tuple[PlantedJobs, dict[str, list[int]], dict[str, str]]:
    known = {name: find_method(name) for name in scores}
    settings = {name: method.Settings() for name, method in known.items()}
    planted = PlantedJobs(
        scores,
        trials or {},
        frozenset(dear),
        settings,
        taken=taken or {},
        shows_examples=shows_examples,
    )
    asked = [
        (known[name], seed)
        for name in scores
        for seed in ((0, 1, 2) if known[name].needs.seeds else (0,))
    ]
    jobs: Any = planted
    done, left_out = climb(jobs, asked)
    fitted: dict[str, list[int]] = {}
    for method, seed in done:
        fitted.setdefault(method.name, []).append(seed)
    return planted, fitted, {each.method: each.reason for each in left_out}


@pytest.mark.parametrize(("steps", "climbed"), [(9, True), (16, False)])
def test_fits_of_a_few_steps_end_no_climb(steps: int, climbed: bool) -> None:
    scores = {"lora": 0.90, "prefix": 0.70, "soft_prompt": 0.70, "few_shot": 0.70}
    dear = {f"{name} trial" for name in scores}
    taken = dict.fromkeys(("prefix", "soft_prompt"), steps)
    _, fitted, left_out = run(scores, dear, taken=taken)
    assert ("lora" in fitted) is climbed
    assert ("lora" in left_out) is not climbed


def test_it_stops_where_the_trials_of_two_rungs_bring_nothing() -> None:
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
    assert planted.fitted("trial") == {"soft_prompt", "prefix"}
    assert "not climbed to" in left_out["lora"]
    assert "prompt_search" in left_out["full"]
    # The best trial is fitted whole all the same; of equal ones the cheapest.
    assert "left after its trial" in left_out["prefix"]
    assert left_out.keys() == {"prefix", "lora", "full"}
    # The cheapest within the noise of the best has the other seeds; few_shot is clearly behind it.
    assert fitted == {
        "tfidf": [0],
        "zero_shot": [0],
        "few_shot": [0],
        "prompt_search": [0, 1, 2],
        "soft_prompt": [0],
    }


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
    assert left_out.keys() == {"soft_prompt", "prefix", "lora"}
    assert (
        "25% of the budget: 80.0 on validation rows, where that of full had 95.0"
        in left_out["prefix"]
    )
    trained, untrained = ("soft_prompt", "prefix", "lora", "full"), ("zero_shot", "few_shot")
    assert planted.fitted("trial") == set(trained)
    # A trial begins at the plain instruction.
    assert {call[2] for call in planted.calls if call[3] == "trial"} == {None}
    assert {(call[0], call[2]) for call in planted.calls if call[3] == "whole"} == {
        *((name, None) for name in (*untrained, "prompt_search")),
        ("full", "prompt_search 0"),
    }
    # Other seeds begin where the first did, with the whole budget.
    assert fitted["full"] == [0, 1, 2]
    assert ("full", 1, "prompt_search 0", "whole") in planted.calls
    assert any("a gain that pays" in line for line in planted.said)


@pytest.mark.parametrize(("trial", "start"), [(0.80, "few_shot 0"), (0.95, None)])
def test_a_prompt_with_examples_is_begun_at_where_the_trial_did_not_pass_it(
    trial: float, start: str | None
) -> None:
    scores = {"zero_shot": 0.5, "few_shot": 0.8, "soft_prompt": 0.96}
    planted, fitted, _ = run(scores, trials={"soft_prompt": trial}, shows_examples=True)
    assert fitted["soft_prompt"] == [0, 1, 2]
    begun = {call[2] for call in planted.calls if call[0] == "soft_prompt" and call[3] == "whole"}
    assert begun == {start}


def test_trials_that_tie_leave_the_best_and_the_cheapest() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.9, "prefix": 0.9, "lora": 0.9, "full": 0.9}
    trials = {"soft_prompt": 0.88, "prefix": 0.883, "lora": 0.884, "full": 0.884}
    _, fitted, left_out = run(scores, trials=trials)
    # Whole, they tie, and the cheaper of the two has the other seeds.
    assert fitted == {"zero_shot": [0], "prefix": [0, 1, 2], "lora": [0]}
    assert left_out.keys() == {"soft_prompt", "full"}


def test_a_trial_that_shows_no_gain_yet_is_fitted_whole_if_it_is_the_best() -> None:
    scores = {"zero_shot": 0.5, "prompt_search": 0.8, "soft_prompt": 0.95, "prefix": 0.7}
    _, fitted, _ = run(scores, trials={"soft_prompt": 0.75, "prefix": 0.7})
    assert fitted["soft_prompt"] == [0, 1, 2]


def test_what_is_too_dear_for_a_trial_is_fitted_whole_at_once() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.7, "lora": 0.9}
    planted, fitted, left_out = run(scores, dear={"lora trial"})
    assert fitted == {"zero_shot": [0], "soft_prompt": [0], "lora": [0, 1, 2]}
    assert left_out == {}
    assert [call[3] for call in planted.calls if call[0] == "lora"] == ["trial", *["whole"] * 3]


def test_every_training_within_a_method_is_tried_alike() -> None:
    settings = {
        name: _for_a_trial(find_method(name).Settings())
        for name in ("lora", "prompt_search>lora", "soft_prompt+lora", "few_shot")
    }
    assert settings["lora"].least_steps == 16
    assert settings["lora"].judgements == 1
    assert settings["prompt_search>lora"].lora_least_steps == 16
    assert settings["prompt_search>lora"].lora_validation_rows == 64
    race = find_method("prompt_search>lora").Settings().prompt_search_validation_rows
    assert settings["prompt_search>lora"].prompt_search_validation_rows == race
    assert settings["soft_prompt+lora"].least_steps == 16
    assert settings["few_shot"] == find_method("few_shot").Settings()
    own = find_method("lora").Settings(least_steps=40, validation_rows=10, judgements=2)
    tried = _for_a_trial(own)
    assert (tried.least_steps, tried.validation_rows, tried.judgements) == (40, 10, 1)


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


def test_copies_of_rows_gain_no_more_than_the_rows() -> None:
    """Two of ten rows are won and one is lost; each five times over, they are still ten."""
    before, after = np.array([1.0] * 6 + [0.0] * 4), np.array([0.0] + [1.0] * 7 + [0.0] * 2)
    assert not gains(after, before)
    copies = [np.repeat(each, 5) for each in (after, before)]
    groups = [f"text {row}" for row in range(10) for _ in range(5)]
    assert not gains(copies[0], copies[1], groups)
    assert gains(copies[0], copies[1])
    methods = [find_method(name) for name in ("zero_shot", "lora")]
    scores = {"zero_shot": copies[1], "lora": copies[0]}
    assert cheapest_within_noise_of_the_best(methods, scores, groups).name == "zero_shot"
    assert cheapest_within_noise_of_the_best(methods, scores).name == "lora"


def test_what_the_budget_does_not_pay_is_left_out_and_told() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.6, "lora": 0.7, "full": 0.9}
    _, fitted, left_out = run(scores, dear={"full"})
    assert "too dear" in left_out["full"]
    assert "full" not in fitted


def test_a_rung_that_was_not_paid_for_does_not_end_the_climb() -> None:
    scores = {"zero_shot": 0.5, "soft_prompt": 0.9, "prefix": 0.9, "lora": 0.8, "full": 0.5}
    _, fitted, left_out = run(scores, dear={"soft_prompt", "prefix"})
    assert fitted["lora"] == [0, 1, 2]
    assert "left after its trial" in left_out.pop("full")
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


def no_fit(*a: Any, **k: Any) -> Any:
    raise AssertionError("a fit that is there is made again")


def test_a_climb_for_real_resumes_to_the_same_bytes(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    flags = ["--methods", "tfidf,zero_shot,few_shot,soft_prompt", "--seeds", "2", "--climb"]
    flags += ["--budget", "120k", "--base", str(tiny_folder), "--json"]
    out, whole = tmp_path / "run", tmp_path / "whole"
    done = tunewise("compare", data, "--out", whole, *flags)
    assert done.code == 0, done.err
    assert "judging soft_prompt, seed 0" in done.err
    entry = next(each for each in done.json["entries"] if each["method"] == "soft_prompt")
    work = entry["fit"]["forward_tokens"] + entry["fit"]["backward_tokens"]
    assert 0 < work <= 120_000
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
    # Of a trial its scores and its cost are kept, and it is not made again.
    kept = {path.relative_to(out / "trials").as_posix() for path in (out / "trials").rglob("*.*")}
    name = "fits/soft_prompt-seed0"
    assert kept == {f"{name}.json", f"{name}.validation.json"}
    monkeypatch.setattr(jobs, "fit", no_fit)
    third = tunewise("compare", data, "--out", out, *flags)
    assert third.code == 0, third.err
    first, second = done.json["entries"], again.json["entries"]
    assert [(e["method"], e["test"]) for e in first] == [(e["method"], e["test"]) for e in second]


def test_what_a_climb_judged_is_not_answered_again(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[tuple[str, ...]] = []
    real = jobs.measure

    def measure(base: Any, adaptation: Any, rows: Any, *a: Any, **k: Any) -> Any:
        answered.append((adaptation.provenance.method, rows[0].id))
        return real(base, adaptation, rows, *a, **k)

    monkeypatch.setattr(jobs, "measure", measure)
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    flags = ["--methods", "majority,zero_shot,few_shot", "--base", str(tiny_folder), "--json"]
    flags += ["--seeds", "1", "--budget", "20k", "--questions", "none"]
    climbed = tunewise("compare", data, "--out", tmp_path / "climb", *flags, "--climb")
    assert climbed.code == 0, climbed.err
    assert len(answered) == len(set(answered)) == 6
    everything = tunewise("compare", data, "--out", tmp_path / "all", *flags)
    assert everything.code == 0, everything.err
    for name in ("majority", "zero_shot", "few_shot"):
        one, other = (
            read_record(tmp_path / folder / "records" / f"{name}-seed0.json")
            for folder in ("climb", "all")
        )
        assert one is not None
        assert other is not None
        assert one.validation == other.validation
    # What fits and answers took, each row once: a climb judges what calls the base.
    seconds = 0.0
    for path in (tmp_path / "climb" / "records").iterdir():
        record = read_record(path)
        assert record is not None
        judged = read_json(tmp_path / "climb" / "fits" / f"{path.stem}.validation.json")
        assert (judged is None) == (record.method == "majority")
        rows = len(record.test) + (len(record.validation) if judged is None else 0)
        seconds += record.seconds + record.milliseconds_per_row * rows / 1000
        seconds += 0.0 if judged is None else judged["seconds"]
    run = Jobs(None, {}, 0, tmp_path / "climb", None)  # type: ignore[arg-type]  # reads files only
    assert run.seconds() == pytest.approx(seconds)


def test_a_climb_that_nothing_can_be_paid_for_leaves_no_folder(
    tmp_path: Path, tiny_folder: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(60))
    out = tmp_path / "run"
    flags = ["--methods", "few_shot>lora", "--seeds", "1", "--climb", "--base", str(tiny_folder)]
    done = tunewise("compare", data, "--out", out, *flags, "--budget", "300")
    assert done.code == 2
    assert "does not pay" in done.err
    assert not out.exists()
