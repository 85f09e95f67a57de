"""The plan against what then happens: positions are equal; seconds and bytes add up."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.planted import summaries, two_labels, write_rows
from tests.model.deep import deep

from tunewise.methods._contract import Method, parse_settings
from tunewise.methods._registry import discover_methods, find_method
from tunewise.model import calibrate
from tunewise.model.answers import Example
from tunewise.model.calibrate import seconds_per_position, spread
from tunewise.model.checksum import weights_checksum
from tunewise.planning import pace as pacing
from tunewise.planning.pace import Paces, PlannedTask
from tunewise.planning.plan import Planner, answer_work
from tunewise.planning.records import JobPlan, RunPlan
from tunewise.steps import Ground, fit, measure, prepare
from tunewise.task.options import TaskOptions
from tunewise.task.tokens import PieceTokenizer

BUDGET = 12_000
TRAINED = ("soft_prompt", "prefix", "lora", "full")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Ground:
    """Base and a task of sixty rows with two labels."""
    data = write_rows(tmp_path_factory.mktemp("labels") / "rows.jsonl", two_labels(60))
    return prepare(str(data), TaskOptions.model_validate({}), str(tiny_folder), "float32")


@pytest.fixture(scope="module")
def text_ground(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Ground:
    """Base and a task whose answers are generated."""
    data = write_rows(tmp_path_factory.mktemp("text") / "rows.jsonl", summaries(40))
    return prepare(str(data), TaskOptions.model_validate({}), str(tiny_folder), "float32")


def planned(
    ground: Ground, name: str, *, seed: int = 0, budget: int = BUDGET, **given: Any
) -> tuple[RunPlan, Method, Any]:
    """The plan of one method's one fit, the method, and its settings."""
    method = find_method(name)
    settings = parse_settings(method, given)
    return Planner(ground, [(method, seed)], {name: settings}).plan((), budget), method, settings


def assert_as_counted(ground: Ground, job: JobPlan, method: Method, settings: Any) -> None:
    """The fit's own ledger says the same."""
    fitted = fit(ground, method, settings, seed=job.seed, budget=BUDGET)
    work = fitted.adaptation.provenance.work
    assert job.forward_tokens == work["forward_tokens"]
    assert job.backward_tokens == work["backward_tokens"]
    assert job.flops == work["flops"]


@pytest.mark.parametrize("name", [*TRAINED, "zero_shot"])
def test_the_planned_work_is_the_counted_work(ground: Ground, name: str) -> None:
    plan, method, settings = planned(ground, name, seed=1)
    (job,) = plan.jobs
    assert not job.at_most
    assert 0 < job.token_passes <= BUDGET
    assert_as_counted(ground, job, method, settings)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("soft_prompt", {"virtual_tokens": 5, "steps": 6}),
        ("soft_prompt", {"epochs": 5.0, "batch_size": 4, "most_positions": 100}),
        ("prefix", {"positions": 7, "learning_rate": 0.01}),
        ("prefix", {"distill": 4}),
        ("prefix", {"distill": 2, "steps": 4, "learning_rate": 0.01}),
        ("lora", {"rank": 2, "judgements": 1, "row_order": "file"}),
        ("lora", {"last_layers": 1, "steps": 4}),
        ("full", {"last_layers": 1, "steps": 4}),
        # Rows often enough for the lower layers' activations to be kept.
        ("lora", {"last_layers": 1, "batch_size": 8, "steps": 12}),
        ("full", {"last_layers": 1, "epochs": 5.0}),
        ("zero_shot", {"validation_rows": 3}),
    ],
)
def test_settings_are_planned_with(ground: Ground, name: str, given: dict[str, Any]) -> None:
    plan, method, settings = planned(ground, name, **given)
    assert_as_counted(ground, plan.jobs[0], method, settings)


@pytest.mark.parametrize("name", ["soft_prompt", "zero_shot"])
def test_generated_answers_are_planned_with(text_ground: Ground, name: str) -> None:
    plan, method, settings = planned(text_ground, name)
    assert_as_counted(text_ground, plan.jobs[0], method, settings)


def test_every_text_is_turned_into_tokens_once(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was done for every fit and budget: with 1,700 rows a plan within a time took minutes."""
    made: list[str] = []
    plain = PieceTokenizer.plain

    def counted(self: PieceTokenizer, text: str) -> tuple[int, ...]:
        made.append(text)
        return plain(self, text)

    methods = [find_method(name) for name in ("lora", "soft_prompt", "zero_shot")]
    settings = {method.name: parse_settings(method, {}) for method in methods}
    planner = Planner(ground, [(method, 0) for method in methods], settings)
    planner.plan((), BUDGET)
    monkeypatch.setattr(PieceTokenizer, "plain", counted)
    for budget in (BUDGET, 2 * BUDGET, 3 * BUDGET):
        planner.plan((), budget)
    assert planner.on(ground).plan((), BUDGET) == planner.plan((), BUDGET)
    own = {text for text in made if any(text == row.input for row in ground.task.fit_view.train)}
    assert own == set()


def test_a_search_is_given_its_budget_and_says_so(ground: Ground) -> None:
    plan, method, settings = planned(ground, "few_shot", budget=3000)
    (job,) = plan.jobs
    fitted = fit(ground, method, settings, seed=0, budget=3000)
    work = fitted.adaptation.provenance.work
    assert job.at_most
    assert work["forward_tokens"] <= job.forward_tokens == 3000
    assert job.backward_tokens == work["backward_tokens"] == 0


def test_every_row_is_measured_behind_every_prompt(ground: Ground) -> None:
    method = find_method("prompt_search")
    settings = [parse_settings(method, {"ensemble": count}) for count in (1, 4)]
    planner = Planner(ground, [(method, 0)], {method.name: settings[0]})
    one = planner.plan((), 3000).jobs[0].measure_seconds
    planner.settings = {method.name: settings[1]}
    assert planner.plan((), 3000).jobs[0].measure_seconds == pytest.approx(4 * one)


def test_what_never_calls_the_base_costs_nothing_of_it(ground: Ground) -> None:
    (job,) = planned(ground, "tfidf")[0].jobs
    assert job.token_passes == job.flops == 0
    assert job.fit_seconds == job.measure_seconds == 0.0
    assert job.peak_bytes > 0


def test_a_budget_too_small_is_told_as_the_run_would(ground: Ground) -> None:
    plan, _, _ = planned(ground, "lora", budget=100)
    assert plan.jobs == ()
    (skipped,) = plan.skipped
    assert skipped.method == "lora"
    assert "100 token passes" in skipped.reason
    assert plan.totals["peak_bytes"] == 0


def test_the_base_is_left_as_it_was(ground: Ground) -> None:
    base, names = ground.base, [name for name, _ in ground.base.model.named_parameters()]
    before = weights_checksum(base)
    methods = [method for name, method in discover_methods().items() if name in TRAINED]
    settings = {method.name: method.Settings() for method in methods}
    Planner(ground, [(method, 0) for method in methods], settings).plan((), BUDGET)
    assert weights_checksum(base) == before
    assert [name for name, _ in base.model.named_parameters()] == names
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert all(parameter.grad is None for parameter in base.model.parameters())
    assert ground.task.test.times_opened == 0


def test_the_answering_work_is_the_work_of_answering(ground: Ground) -> None:
    method = find_method("zero_shot")
    adaptation = fit(ground, method, method.Settings(), seed=0, budget=BUDGET).adaptation
    count = 0

    def counted(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal count
        hidden = args[0] if args else kwargs["hidden_states"]
        count += hidden.shape[:2].numel()

    handle = ground.base.model.model.layers[0].register_forward_pre_hook(counted, with_kwargs=True)
    rows = ground.task.fit_view.validation
    with handle:
        measure(ground.base, adaptation, rows)
    task = PlannedTask(ground)
    without_test = replace(ground.task, test=type(ground.task.test)(rows))
    task.ground = replace(ground, task=without_test)
    positions, generated = answer_work(task, trained=False)
    assert generated == 0
    # Validation rows stand for test rows here, so everything is counted twice.
    assert positions == 2 * (count - len(task.renderer.shared_tokens))


def test_an_untrained_model_is_expected_to_ramble(text_ground: Ground) -> None:
    task = PlannedTask(text_ground)
    positions, ended = answer_work(task, trained=True)
    same, rambling = answer_work(task, trained=False)
    rows = len(text_ground.task.fit_view.validation) + len(text_ground.task.test)
    assert positions == same
    assert 0 < ended < rambling == rows * (task.decoding.max_new_tokens - 1)


def test_seconds_are_the_work_times_the_pace(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "forward_seconds", lambda *_, **__: 0.001)
    monkeypatch.setattr(calibrate, "step_pace", lambda *_: (0.01, 1.0))
    job = planned(ground, "prefix", steps=3)[0].jobs[0]
    # With the base frozen every forward position of a step has one backward one.
    stepped = job.backward_tokens
    wanted = 0.01 * stepped + 0.001 * (job.forward_tokens - stepped)
    assert wanted <= job.fit_seconds < wanted + 5


def test_a_search_is_as_slow_as_rows_behind_demonstrations(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(base: Any, prefix: Any, *_: Any, **__: Any) -> float:
        return float(prefix.length)

    monkeypatch.setattr(calibrate, "forward_seconds", seconds)
    searched, plain = (planned(ground, name)[0].jobs[0] for name in ("few_shot", "zero_shot"))
    position = plain.fit_seconds / plain.token_passes
    assert searched.at_most
    assert searched.fit_seconds / searched.token_passes > 1.5 * position
    # What is found is measured as if it were the plain instruction.
    assert searched.measure_seconds == plain.measure_seconds


def test_longer_rows_and_more_trained_numbers_hold_more_memory(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the process holds already changes from one plan to the next.
    memory = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=0))
    monkeypatch.setattr("tunewise.planning.plan.psutil.Process", lambda: memory)
    small, large = (planned(ground, "lora", rank=rank, steps=3)[0].jobs[0] for rank in (1, 30))
    assert large.peak_bytes > small.peak_bytes


def test_no_peak_is_below_that_of_a_fit_before_it(ground: Ground) -> None:
    methods = [find_method(name) for name in ("full", "zero_shot", "tfidf")]
    settings = {method.name: method.Settings() for method in methods}
    plan = Planner(ground, [(method, 0) for method in methods], settings).plan((), BUDGET)
    peaks = [job.peak_bytes for job in plan.jobs]
    assert peaks[0] == peaks[1] == peaks[2] == plan.totals["peak_bytes"]


def test_fewer_trained_layers_cost_less(ground: Ground) -> None:
    method = find_method("full")
    task, settings = PlannedTask(ground), parse_settings(method, {"last_layers": 1})
    whole = Paces(task, [method], {"full": method.Settings()}).of(method)
    half = Paces(task, [method], {"full": settings}).of(method)
    assert half.backward_passes == whole.backward_passes / 2 == 1.0
    assert half.trained == whole.trained / 2 == ground.base.parameters / 2


class Clock:
    """Stands still but for what the planted work takes."""

    def __init__(self, per_row: float, positions: int) -> None:
        self.now, self.per_row, self.positions = 0.0, per_row, positions
        self.calls: list[int] = []

    def __call__(self) -> float:
        return self.now

    def work(self, rows: int) -> int:
        """So many positions a row."""
        self.calls.append(rows)
        self.now += self.per_row * rows
        return self.positions * rows


@pytest.mark.parametrize(
    ("per_row", "positions", "most", "rows"),
    [
        (0.1, 100, 16, [1, 2, 5, 5]),
        (0.01, 100, 16, [1, 2, 16, 16]),
        (3.0, 1000, 16, [1, 2]),
        (3.0, 1000, 1, [1, 1]),
        # Too slow for the time, but fewer positions would tell nothing.
        (3.0, 100, 16, [1, 2, 3]),
        (3.0, 10, 16, [1, 2, 16]),
    ],
)
def test_as_many_rows_are_timed_as_the_time_allows(
    per_row: float, positions: int, most: int, rows: list[int]
) -> None:
    clock = Clock(per_row, positions)
    found = seconds_per_position(clock.work, most, allowance=1.1, clock=clock)
    assert clock.calls == rows
    assert found == pytest.approx(per_row / positions)


@pytest.mark.parametrize(
    ("expected", "most", "rows"),
    [
        # One call to warm up, two that are timed: what is known need not be tried.
        (0.001, 16, [2, 5, 5]),
        (0.1, 16, [2, 3, 3]),
        (0.0, 16, [2, 16, 16]),
        (0.001, 1, [1, 1, 1]),
        (0.001, 2, [2, 2, 2]),
    ],
)
def test_what_is_expected_need_not_be_tried(expected: float, most: int, rows: list[int]) -> None:
    clock = Clock(0.1, 100)
    found = seconds_per_position(clock.work, most, 1.1, expected, clock)
    assert clock.calls == rows
    assert found == pytest.approx(0.1 / 100)


def test_a_moment_in_which_the_machine_stood_still_does_not_count() -> None:
    clock = Clock(0.1, 100)

    def work(rows: int) -> int:
        clock.now += 50.0 if len(clock.calls) == 1 else 0.0
        return clock.work(rows)

    assert seconds_per_position(work, 16, 1.1, 0.001, clock) == pytest.approx(0.1 / 100)


def test_what_is_timed_is_spread_over_the_lengths() -> None:
    examples = [Example((7,) * length, (1,)) for length in range(1, 101)]
    chosen = [len(each.row) for each in spread(examples[::-1], 4)]
    assert chosen == [13, 38, 63, 88]
    assert len(spread(examples, 1000)) == 100
    assert all(a < b for a, b in pairwise(chosen))


def test_kept_bytes_are_those_of_the_graph(ground: Ground) -> None:
    method = find_method("soft_prompt")
    task = PlannedTask(ground)
    pace = Paces(task, [method], {"soft_prompt": method.Settings()}).of(method)
    # Two layers, 32 and 64 wide, in float32: at least the inputs of norms and MLPs are kept, and
    # no more than a hundred numbers of each width.
    least = 2 * 4 * (32 + 64)
    assert least < pace.saved_bytes < 100 * least
    assert pace.trained == len(task.renderer.shared_tokens) * 32


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_base_cut_short_is_told_as_the_whole_one(
    architecture: str, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [find_method(name) for name in TRAINED]
    settings = {method.name: method.Settings() for method in methods}
    task = PlannedTask(replace(ground, base=deep(architecture)))
    short = Paces(task, methods, settings)
    monkeypatch.setattr(pacing, "shortened", lambda _: nullcontext(calibrate.WHOLE))
    whole = Paces(task, methods, settings)
    for one, other in zip(map(short.of, methods), map(whole.of, methods), strict=True):
        assert one.saved_bytes == pytest.approx(other.saved_bytes, rel=0.05)
        for fact in ("trained", "laid_out_bytes", "backward_passes", "prefix_positions", "begun"):
            assert getattr(one, fact) == getattr(other, fact), fact


def test_generating_is_timed_where_answers_are_generated(
    ground: Ground, text_ground: Ground
) -> None:
    method = find_method("zero_shot")
    settings = {"zero_shot": method.Settings()}
    assert Paces(PlannedTask(ground), [method], settings).decode == 0.0
    assert Paces(PlannedTask(text_ground), [method], settings).decode >= 0.0


def test_the_update_of_all_weights_is_timed_apart(ground: Ground) -> None:
    method = find_method("full")
    pace = Paces(PlannedTask(ground), [method], {"full": method.Settings()}).of(method)
    assert pace.update > 0.0
    assert pace.trained == ground.base.parameters
    assert pace.backward_passes == 2.0


def test_the_plan_is_json() -> None:
    job = JobPlan("lora", 0, 30, 20, 10**12, False, 1.5, 0.5, 10**9)
    plan = RunPlan((job, replace(job, seed=1, peak_bytes=5)), (), 60, 2.0)
    told = json.loads(json.dumps(plan.as_dict()))
    assert told["budget"] == {"unit": "token_passes", "per_method": 60}
    assert told["jobs"][1] == {**told["jobs"][0], "seed": 1, "peak_bytes": 5}
    assert told["jobs"][0]["token_passes"] == 50
    assert told["totals"] == {
        "token_passes": 100,
        "flops": 2 * 10**12,
        "fit_seconds": 3.0,
        "measure_seconds": 1.0,
        "peak_bytes": 10**9,
    }
    assert told["questions"] == {
        "at_most_token_passes": 0,
        "seconds": 0.0,
        "guessed": False,
        "cut": False,
    }


@pytest.mark.parametrize("limit", [0, 500])
def test_the_plan_tells_what_questions_may_take(ground: Ground, limit: int) -> None:
    method = find_method("zero_shot")
    settings = {"zero_shot": method.Settings()}
    plan = Planner(ground, [(method, 0)], settings).plan((), BUDGET, limit)
    assert plan.questions_passes == limit
    assert (plan.questions_seconds == 0) == (limit == 0)
