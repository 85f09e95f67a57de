"""A fit by gradient: step 0, budgets to the last pass, interruptions, exact steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.laws.fitting import (
    base_of,
    context_of,
    fit,
    generation_view,
    planted_view,
    rates,
    with_spec,
)

from tunewise.adaptation import training
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.checkpoint import clear_state, load_state, save_state
from tunewise.adaptation.store import fingerprint_of
from tunewise.errors import BudgetTooSmallError, StorageError
from tunewise.methods._registry import discover_methods, find_method

GRADIENT = (
    *(name for name, method in discover_methods().items() if method.needs.gradients),
    "soft_prompt+lora",
)
RACE: dict[str, Any] = {"batch_size": 8, "epochs": 16.0}


class InterruptedFitError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", GRADIENT)
def test_step_0_is_kept_where_training_makes_it_worse(name: str) -> None:
    base, view = base_of(), planted_view()
    settings = {"steps": 6, "warmup_steps": 0, "batch_size": 8}
    ruined = fit(base, name, view, **settings, **rates(name, 1e4))
    assert ruined.provenance.notes["best_step"] == 0
    small = fit(base, name, view, **settings, **rates(name, 1e-20))
    for one, other in zip(ruined.parts, small.parts, strict=True):
        for attribute in ("tensors", "embeddings", "keys", "values"):
            a, b = getattr(one, attribute, None), getattr(other, attribute, None)
            if isinstance(a, dict):
                assert all((a[key] - b[key]).abs().max() < 1e-12 for key in a)
            elif isinstance(a, tuple):
                assert all((x - y).abs().max() < 1e-12 for x, y in zip(a, b, strict=True))
            elif a is not None:
                assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("rate", [1e-3, 1.0, 1e6])
def test_the_best_judged_step_is_kept_and_step_0_is_one_of_them(name: str, rate: float) -> None:
    """Of generated text only the loss is judged; what blew up counts as no loss at all."""
    notes = fit(
        base_of(), name, generation_view(), steps=6, batch_size=8, **rates(name, rate)
    ).provenance.notes
    losses = {point["step"]: point["loss"] for point in notes["validation"]}
    finite = {step: loss for step, loss in losses.items() if math.isfinite(loss)}
    assert set(losses) == {0, 2, 4, 6}
    assert 0 in finite
    assert notes["best_step"] == min(finite, key=lambda step: finite[step])


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", GRADIENT)
def test_exactly_the_steps_that_are_asked(name: str, steps: int) -> None:
    base, view = base_of(), planted_view()
    context = context_of(base, view)
    adaptation = fit(base, name, view, context=context, steps=steps, batch_size=5)
    assert len(context.log.losses) == len(context.log.step_seconds) == steps
    assert adaptation.provenance.notes["steps"] == steps
    points = [point for point in context.log.curve if "train_loss" in point]
    assert [point["step"] for point in points] == list(range(steps))
    assert context.log.trainable_parameters > 0


def method_rates(name: str) -> tuple[float, ...]:
    """Its candidates, the default first."""
    method: Any = find_method(name)
    return tuple(each.learning_rate for each in method.candidates(method.Settings()))


@pytest.mark.parametrize(("loss", "taken"), [(0.95, 0), (0.89, 1), (1.5, 0), (math.nan, 0)])
def test_the_default_rate_stays_unless_another_is_clearly_lower(
    loss: float, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, trials = training.Training._verdict, iter((1.0, loss))

    def planted(self: Any, judge: Any) -> Any:
        verdict = real(self, judge)
        return replace(verdict, loss=next(trials)) if judge is self.trial_judge else verdict

    monkeypatch.setattr(training.Training, "_verdict", planted)
    notes = fit(base_of(), "lora", planted_view(), **RACE).provenance.notes
    assert notes["learning_rate"] == method_rates("lora")[taken]


@pytest.mark.parametrize("name", GRADIENT)
def test_the_race_takes_the_better_learning_rate(name: str) -> None:
    base, view = base_of(), planted_view()
    context = context_of(base, view)
    method = find_method(name)
    notes = method.fit(context, method.Settings(**RACE)).provenance.notes
    trials = notes["validation"][1:3]
    assert notes["steps"] == 48
    assert [trial["trial"] for trial in trials] == [8, 8]
    assert len({trial["learning_rate"] for trial in trials}) == 2
    default, other = trials
    assert default["learning_rate"] == method_rates(name)[0]
    better = other if other["loss"] < 0.9 * default["loss"] else default
    assert notes["learning_rate"] == better["learning_rate"]
    # Two trials of eight steps, and one of them goes on.
    assert len(context.log.losses) == 8 + 48
    judged = [point for point in notes["validation"] if "step" in point]
    best = next(point for point in judged if point["step"] == notes["best_step"])
    assert best["metric"] >= judged[0]["metric"]
    no_worse = [point for point in judged if point["metric"] >= judged[0]["metric"]]
    assert best["loss"] == min(point["loss"] for point in no_worse)


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("kind", ["labels", "long labels", "text"])
def test_a_budget_is_never_exceeded_and_well_used(name: str, kind: str) -> None:
    """Long labels make judging dearer than the rows' own tokens; steps are of unequal cost."""
    base = base_of()
    view = generation_view() if kind == "text" else planted_view()
    if kind == "long labels":
        names = {"no": "no, this row is not of the kind asked for", "yes": "yes indeed it is"}
        rows = [
            [type(row)(row.id, row.input, names[row.output], (names[row.output],)) for row in part]
            for part in (view.train, view.validation)
        ]
        view = type(view)(
            with_spec(view, labels=tuple(sorted(names.values()))).spec, *map(tuple, rows)
        )
    refused, spent = 0, []
    for limit in (5, 500, 3000, 9000, 25000, 60000):
        context = context_of(base, view, limit=limit)
        if not runs(name, context):
            assert not spent, "a larger budget is refused though a smaller one was enough"
            assert context.log.losses == []
            refused += 1
            continue
        assert 0 < context.ledger.spent <= limit
        assert len(context.log.losses) >= 1
        spent.append(context.ledger.spent)
    assert refused
    assert spent
    assert spent == sorted(spent)


def runs(name: str, context: Any) -> bool:
    """Run a fit; whether the budget was enough for it."""
    try:
        fit(context.base, name, context.view, context=context, **RACE)
    except BudgetTooSmallError:
        return False
    return True


@pytest.mark.parametrize("name", GRADIENT)
def test_the_budget_named_in_the_refusal_is_enough(name: str) -> None:
    base, view = base_of(), planted_view()
    context = context_of(base, view, limit=400)
    with pytest.raises(BudgetTooSmallError) as caught:
        fit(base, name, view, context=context, batch_size=4)
    words = caught.value.expected.replace(",", "").split()
    needed = next(int(word) for word in words if word.isdigit()) + context.ledger.spent
    enough = context_of(base, view, limit=needed)
    fit(base, name, view, context=enough, batch_size=4)
    assert enough.ledger.spent <= needed
    with pytest.raises(BudgetTooSmallError):
        fit(base, name, view, limit=needed - 1, batch_size=4)


@pytest.mark.parametrize("name", GRADIENT)
def test_a_small_budget_is_for_training_and_not_for_judging(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    run = training.Training.run

    def seen(self: Any) -> Any:
        made.append(self)
        return run(self)

    monkeypatch.setattr(training.Training, "run", seen)
    base, view = base_of(), planted_view(validation=200)
    limits = (12_000, 40_000, 4_000_000)
    for limit in limits:
        context = context_of(base, view, limit=limit)
        fit(base, name, view, context=context, batch_size=4, epochs=1.0)
    rows = [len(each.judge.rows) for each in made]
    assert rows == sorted(rows)
    assert 32 <= rows[0] < rows[-1] == 128
    for each, limit in zip(made, limits, strict=True):
        judging = 4 * (each.judge.cost + each.trainable.prefix_positions)
        assert judging <= 0.3 * limit or len(each.judge.rows) == 32


def test_steps_that_the_budget_does_not_cover_are_refused_before_the_first() -> None:
    base, view = base_of(), planted_view()
    context = context_of(base, view, limit=20_000)
    with pytest.raises(BudgetTooSmallError, match="does not pay for 500 optimizer steps"):
        fit(base, "lora", view, context=context, steps=500)
    assert context.log.losses == []


def test_fewer_steps_than_are_worth_it_are_refused_before_the_first() -> None:
    base, view = base_of(), planted_view()
    context = context_of(base, view, limit=20_000)
    with pytest.raises(BudgetTooSmallError, match="does not pay for 400 optimizer steps"):
        fit(base, "lora", view, context=context, least_steps=400, epochs=1000.0)
    assert context.log.losses == []
    # A race that leaves fewer steps is no way around it.
    rate = {"learning_rate": None, "epochs": 1000.0}
    raced = fit(base, "soft_prompt", view, limit=40_000, batch_size=4, **rate)
    steps = raced.provenance.notes["steps"]
    assert any("trial" in each for each in raced.provenance.notes["validation"])
    alone = fit(
        base, "soft_prompt", view, limit=40_000, batch_size=4, least_steps=steps + 1, **rate
    )
    assert alone.provenance.notes["steps"] > steps
    assert not any("trial" in each for each in alone.provenance.notes["validation"])
    # What the rows themselves allow at most is no matter of the budget.
    found = fit(base, "lora", view, context=context, least_steps=400, epochs=1.0)
    assert 0 < found.provenance.notes["steps"] < 400


def interrupted(
    name: str, view: Any, folder: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Run until so many states are stored, then die; whether it died."""
    stored = 0

    def store_and_die(*args: Any) -> None:
        nonlocal stored
        save_state(*args)
        stored += 1
        if stored == after:
            raise InterruptedFitError

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", store_and_die)
        try:
            fit(base_of(), name, view, folder=folder, limit=10**6, **RACE)
        except InterruptedFitError:
            return True
    return False


def whole(name: str, view: Any) -> Adaptation:
    return fit(base_of(), name, view, limit=10**6, **RACE)


@pytest.mark.parametrize("name", GRADIENT)
def test_interrupted_after_any_stage_it_ends_with_the_same_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = planted_view()
    wanted = fingerprint_of(whole(name, view))
    for after in range(1, 6):
        folder = tmp_path / str(after)
        assert interrupted(name, view, folder, after, monkeypatch)
        context = context_of(base_of(), view, limit=10**6, checkpoint_folder=folder)
        resumed = fit(context.base, name, view, context=context, **RACE)
        assert fingerprint_of(resumed) == wanted
        assert len(context.log.losses) == 56
        # Whoever gave the folder clears it, once what was found is stored.
        assert folder.exists()
        clear_state(folder)
        assert not list(tmp_path.iterdir())
    assert not interrupted(name, view, tmp_path / "end", 6, monkeypatch)


@pytest.mark.parametrize(("identity", "goes_on"), [("", True), ("another start", False)])
def test_a_state_of_another_fit_is_not_gone_on_from(
    identity: str, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, judged = planted_view(), []
    assert interrupted("lora", view, tmp_path / "state", 3, monkeypatch)
    real = training.Training._judge

    def noted(self: Any, step: int) -> Any:
        judged.append(step)
        return real(self, step)

    monkeypatch.setattr(training.Training, "_judge", noted)
    context = context_of(base_of(), view, limit=10**6, checkpoint_folder=tmp_path / "state")
    fit(context.base, "lora", view, context=replace(context, identity=identity), **RACE)
    assert (0 not in judged) == goes_on


@pytest.mark.parametrize("at", [3, 11, 55])
@pytest.mark.parametrize("name", GRADIENT)
def test_interrupted_at_any_step_it_ends_with_the_same_bytes(
    name: str, at: int, tmp_path: Path
) -> None:
    view = planted_view()
    base = base_of()
    context = context_of(base, view, limit=10**6, checkpoint_folder=tmp_path / "state")

    def die(done: int, total: int | None, text: str) -> None:
        if len(context.log.losses) == at:
            raise InterruptedFitError

    context.log.report = die
    with pytest.raises(InterruptedFitError):
        fit(base, name, view, context=context, **RACE)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    # The same base goes on: an interruption leaves no trace on it.
    resumed = fit(base, name, view, folder=tmp_path / "state", limit=10**6, **RACE)
    assert fingerprint_of(resumed) == fingerprint_of(whole(name, view))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"settings": {"batch_size": 6}}, {"settings": {"rank": 4}}], ids=str
)
def test_the_state_of_another_fit_is_not_taken_up(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = planted_view()
    assert interrupted("lora", view, tmp_path / "state", 2, monkeypatch)
    settings = {**RACE, **change.get("settings", {})}
    seed = change.get("seed", 0)
    base = base_of()
    got = fit(base, "lora", view, seed=seed, folder=tmp_path / "state", limit=10**6, **settings)
    wanted = fit(base, "lora", view, seed=seed, limit=10**6, **settings)
    assert fingerprint_of(got) == fingerprint_of(wanted)


def test_a_state_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    folder = tmp_path / "state"
    assert load_state(folder) is None
    save_state(folder, {"a": torch.ones(2)}, {"step": 1})
    monkeypatch.setattr("tunewise.adaptation.checkpoint.save_file", full_disk)
    with pytest.raises(StorageError, match="a checkpoint cannot be written"):
        save_state(folder, {"a": torch.zeros(2)}, {"step": 2})
    stored = load_state(folder)
    assert stored is not None
    assert stored[1] == {"step": 1}
    assert stored[0]["a"].tolist() == [1.0, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    # A kill between the two renames leaves the old state beside.
    folder.rename(tmp_path / "state.old")
    again = load_state(folder)
    assert again is not None
    assert again[1] == {"step": 1}


def full_disk(*args: Any) -> None:
    raise OSError(28, "No space left on device")
