"""What a dear question is asked about: the entries that matter most, as far as its share pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.cli.planted import two_labels, write_rows
from tests.questions.running import Run, planted_context, run_on

from tunewise.measure.evidence import Evidence
from tunewise.measure.questions._contract import QuestionContext, Subject
from tunewise.measure.questions._registry import QUESTIONS
from tunewise.measure.questions._shares import AT_LEAST, REASON, by_weight, left_out_text, within

DEAR = ("data_need", "data_quality", "fragility", "out_of_domain", "update", "wrong_labels")


def planted(scores: dict[str, float], parts: dict[str, tuple[str, ...]]) -> QuestionContext:
    """Entries that get these shares of twenty rows right; each cost 1,000 token passes."""
    lines = {
        name: {0: [float(n < 20 * share) for n in range(20)]} for name, share in scores.items()
    }
    context = planted_context(["a", "b"] * 10, lines)
    subjects = {
        name: tuple(
            Subject(replace(one.record, parts=parts.get(name, ("prompt_text",))), one.load)
            for one in fits
        )
        for name, fits in context.subjects.items()
    }
    return replace(context, subjects=subjects)


def test_the_best_that_is_trained_and_the_best_prompt_come_first() -> None:
    scores = {"plain": 0.9, "shown": 0.6, "soft": 0.7, "lora": 0.8, "linear": 1.0}
    parts = {"soft": ("virtual_tokens",), "lora": ("low_rank",), "linear": ("shallow_model",)}
    context = planted(scores, parts)
    cheap = context.subjects["plain"][0]
    subjects = {
        **context.subjects,
        "plain": (Subject(replace(cheap.record, forward_tokens=1), cheap.load),),
    }
    # The plain instruction is no searched prompt, however well it does; then by score.
    assert by_weight(subjects) == ["lora", "shown", "linear", "plain", "soft"]
    alone = {"plain": subjects["plain"], "soft": subjects["soft"]}
    assert by_weight(alone) == ["soft", "plain"]
    assert by_weight({"linear": subjects["linear"]}) == ["linear"]
    assert by_weight({}) == []


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    "costs", [(900, 800, 700, 0, 100), (0, 0, 500, 5000, 1), (5000, 5000, 0), (10,), ()]
)
def test_pieces_are_kept_as_long_as_the_share_pays(share: float, costs: tuple[int, ...]) -> None:
    context = planted({"one": 0.5, "two": 0.5, "three": 0.5}, {})
    named = dict(enumerate(costs))
    chosen = within(context, named, share, everything=False)
    # The slow twin: one after the other, with what was spent added up anew each time.
    kept: list[int] = []
    for number, cost in named.items():
        spent = sum(named[each] for each in kept)
        if number < AT_LEAST or cost == 0 or spent + cost <= share * 3000:
            kept.append(number)
    assert chosen.kept == tuple(kept)
    assert sorted((*chosen.kept, *chosen.left_out)) == sorted(named)
    assert chosen.cost == sum(named[each] for each in kept)
    whole = within(context, named, share, everything=True)
    assert whole.kept == tuple(named)
    assert whole.left_out == ()


def test_nothing_left_out_is_not_told() -> None:
    assert left_out_text("update", [], 0.2) == ()
    (told,) = left_out_text("update", ["lora", "full"], 0.2)
    assert "lora, full" in told
    assert "0.2 of the work of the run's fits" in told
    assert "[questions.update]" in told


@pytest.mark.parametrize("name", DEAR)
@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf"), "much", None])
def test_bad_shares_are_refused(name: str, share: Any) -> None:
    with pytest.raises(ValidationError):
        QUESTIONS.find(name).Settings(share=share)


def test_every_question_that_fits_again_has_a_share() -> None:
    found = {
        name
        for name, question in QUESTIONS.discover().items()
        if "share" in question.Settings.model_fields
    }
    assert found == set(DEAR)


@pytest.fixture(scope="module")
def wide_run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """Four entries that call the base and one that does not, in two domains."""
    folder = tmp_path_factory.mktemp("wide")
    rows = [
        row | {"domain": ("one", "two")[number % 3 == 0]}
        for number, row in enumerate(two_labels(260))
    ]
    data = write_rows(folder / "rows.jsonl", rows)
    methods = ("tfidf", "zero_shot", "few_shot", "soft_prompt", "lora")
    return run_on(data, folder / "run", tiny_folder, methods, domain="domain", budget=24_000)


@pytest.mark.parametrize(
    ("name", "figure", "settings"),
    [
        ("data_need", "rows_needed", {"fits": 1, "rows": 20}),
        ("fragility", "worst_change", {"rows": 6, "formats": 1, "wordings": 1, "orders": 0}),
        ("out_of_domain", "loss_elsewhere", {"domain": "two"}),
        ("wrong_labels", "change", {"shares": (0.2,), "rows": 20}),
    ],
)
def test_what_is_left_out_is_told(
    name: str, figure: str, settings: dict[str, Any], wide_run: Run, tmp_path: Path
) -> None:
    found = wide_run.ask(name, tmp_path, share=1e-6, **settings)
    assert not found.absent, found.absent
    measured = _about(found, figure, absent=False)
    left_out = _about(found, figure, absent=True)
    # The best that is trained, a prompt, and what never calls the base. An entry that gives all
    # rows one answer is no subject of the questions that fit on fewer or other rows.
    assert len(measured & {"soft_prompt", "lora"}) == 1
    assert len(measured & {"few_shot", "zero_shot"}) == 1
    assert "tfidf" in measured
    assert left_out
    assert left_out <= {"few_shot", "zero_shot", "soft_prompt", "lora"} - measured
    told = found.answered.findings[-1]
    assert told.startswith("Left out: ")
    assert all(entry in told for entry in left_out)
    _kept_to_its_plan(found)


def test_named_entries_are_all_asked(wide_run: Run, tmp_path: Path) -> None:
    names = ("zero_shot", "soft_prompt", "lora")
    settings = {"shares": (0.2,), "rows": 20, "entries": names}
    found = wide_run.ask("wrong_labels", tmp_path, share=1e-6, **settings)
    assert _about(found, "change", absent=False) == set(names)
    assert _about(found, "change", absent=True) == set()
    assert not any("Left out" in text for text in found.answered.findings)
    _kept_to_its_plan(found)


def test_update_takes_rows_before_labels(wide_run: Run, tmp_path: Path) -> None:
    found = wide_run.ask("update", tmp_path, share=1e-6, rows=20, added=(20,))
    assert not found.absent, found.absent
    gained = _about(found, "gain", absent=False)
    assert "few_shot" in gained
    assert len(gained & {"soft_prompt", "lora"}) == 1
    assert len(_about(found, "gain", absent=True)) == 1
    _kept_to_its_plan(found)


def test_data_quality_fits_once_without_its_candidates_in_any_case(
    small_run: Run, tmp_path: Path
) -> None:
    least = small_run.ask("data_quality", tmp_path / "a", entry="lora", share=1e-6, folds=2)
    most = small_run.ask("data_quality", tmp_path / "b", entry="lora", share=9.0, folds=2)
    assert least.planned_passes < most.planned_passes
    for found, seeds in ((least, 1), (most, 2)):
        (gain,) = [e for e in found.answered.measurements if e.name == "gain_without_candidates"]
        assert gain.absent or len(gain.seeds) == seeds
        _kept_to_its_plan(found)


def _about(found: Evidence, figure: str, *, absent: bool) -> set[str]:
    return {
        each.about
        for each in found.answered.measurements
        if each.name == figure and (each.absent == REASON) is absent
    }


def _kept_to_its_plan(found: Evidence) -> None:
    spent = found.work["forward_tokens"] + found.work["backward_tokens"]
    assert 0 < spent <= 1.25 * found.planned_passes
