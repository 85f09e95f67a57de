"""What the story promises: the test is opened once and last, the base stays, pairs are paired."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise

from tunewise.errors import RunError
from tunewise.methods._registry import discover_methods
from tunewise.model.checksum import weights_checksum
from tunewise.steps import Ground, fit, measure, prepare
from tunewise.task.options import TaskOptions
from tunewise.task.types import LockedTest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty rows."""
    return write_rows(tmp_path / "rows.jsonl", two_labels(60))


@pytest.fixture
def ground(data: Path, tiny_folder: Path) -> Ground:
    """Base and task."""
    return prepare(str(data), TaskOptions.model_validate({}), str(tiny_folder), "float32")


def test_the_test_rows_are_opened_once_and_after_all_fits(
    data: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, opened = data.parent / "run", []
    real = LockedTest.open

    def spy(self: LockedTest) -> Any:
        opened.append(sorted(path.name for path in (out / "adaptations").iterdir()))
        return real(self)

    monkeypatch.setattr(LockedTest, "open", spy)
    flags = ("--methods", "tfidf,few_shot,lora", "--seeds", "2", "--budget", "20k", "--json")
    done = tunewise("compare", data, "--out", out, "--base", tiny_folder, *flags)
    assert done.code == 0, done.err
    assert opened == [
        ["few_shot-seed0", "few_shot-seed1", "lora-seed0", "lora-seed1", "tfidf-seed0"]
    ]
    records = [json.loads(path.read_text("utf-8")) for path in (out / "records").iterdir()]
    ids = [[result["id"] for result in record["test"]] for record in records]
    assert len(ids) == 5
    assert all(each == ids[0] for each in ids)
    assert len(set(ids[0])) == done.json["entries"][0]["test"]["n"]


def test_the_data_check_leaves_the_lock_closed(ground: Ground) -> None:
    assert ground.task.test.times_opened == 0
    assert ground.check.tokens is not None
    assert ground.task.test.checked(len) == len(ground.task.test)


@pytest.mark.parametrize("name", ["few_shot", "soft_prompt", "prefix", "lora", "full"])
def test_the_base_is_as_it_was(name: str, ground: Ground) -> None:
    method = discover_methods()[name]
    before = weights_checksum(ground.base)
    fitted = fit(ground, method, method.Settings(), seed=0, budget=20_000)
    measure(ground.base, fitted.adaptation, ground.task.fit_view.validation)
    assert weights_checksum(ground.base) == before
    work = fitted.adaptation.provenance.work
    assert work["forward_tokens"] + work["backward_tokens"] <= 20_000


def test_a_method_that_changes_the_base_is_found_out(ground: Ground) -> None:
    honest = discover_methods()["majority"]

    def spoil(context: Any, settings: Any) -> Any:
        weight = context.base.model.get_input_embeddings().weight
        weight.data[0, 0] += 1
        return honest.fit(context, settings)

    vandal = SimpleNamespace(name="vandal", needs=honest.needs, fit=spoil)
    with pytest.raises(RunError, match="vandal changed the base"):
        fit(ground, vandal, honest.Settings(), seed=0, budget=None)  # type: ignore[arg-type]


def test_seconds_of_a_resumed_fit_count_the_steps_before(ground: Ground) -> None:
    honest = discover_methods()["majority"]

    def went_on(context: Any, settings: Any) -> Any:
        context.log.step_seconds = [40.0, 2.0]
        return honest.fit(context, settings)

    method = SimpleNamespace(name="majority", needs=honest.needs, fit=went_on)
    fitted = fit(ground, method, honest.Settings(), seed=0, budget=None)  # type: ignore[arg-type]
    assert fitted.seconds == 42.0


def test_rows_too_few_for_a_method(ground: Ground) -> None:
    method = discover_methods()["lora"]
    view = replace(ground.task.fit_view, train=ground.task.fit_view.train[:1])
    small = replace(ground, task=replace(ground.task, fit_view=view))
    with pytest.raises(Exception, match="needs more training rows"):
        fit(small, method, method.Settings(), seed=0, budget=None)


def test_a_chain_is_an_entry_like_any_other(data: Path, tiny_folder: Path) -> None:
    out = data.parent / "run"
    flags = ("--methods", "zero_shot, few_shot > lora", "--seeds", "1", "--budget", "40k", "--json")
    arguments = ("compare", data, "--out", out, "--base", tiny_folder, *flags)
    done = tunewise(*arguments)
    assert done.code == 0, done.err
    entries = {entry["method"]: entry for entry in done.json["entries"]}
    assert set(entries) == {"zero_shot", "few_shot>lora"}
    chain = entries["few_shot>lora"]
    assert chain["parts"] == ["prompt_text", "low_rank"]
    assert chain["adaptation"] == "adaptations/few_shot-then-lora-seed0"
    work = chain["fit"]
    assert 0 < work["forward_tokens"] + work["backward_tokens"] <= 40_000
    predicted = tunewise("predict", out / chain["adaptation"], "abc", "--base", tiny_folder)
    assert predicted.code == 0, predicted.err
    plan = tunewise(*arguments[:2], "--base", tiny_folder, *flags, "--plan")
    assert plan.code == 0, plan.err
    assert "few_shot>lora" in plan.out
