"""A search that is asked for several prompts: which it takes, what it tells, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.adaptation.samples import contents
from tests.laws.fitting import base_of, context_of, counted_positions, fit, generation_view
from tests.methods.test_prompt_search import KINDS, SMALL, VIEW, judged, notes_of

from tunewise.adaptation import store
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.ensemble import CONTENT_FREE, Ensemble
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.errors import ConfigError
from tunewise.methods._contract import parse_settings, prompts_at_most
from tunewise.methods._ensemble import gathered
from tunewise.methods._registry import find_method
from tunewise.model.base import Base
from tunewise.numerics.calibration import cross_entropy
from tunewise.task.prompt import PromptText


def search(base: Base, count: int = 3, **settings: Any) -> Adaptation:
    return fit(base, "prompt_search", VIEW, ensemble=count, **{**SMALL, **settings})


def test_it_finds_as_many_different_prompts_and_the_same_bytes_again(tmp_path: Path) -> None:
    base = base_of()
    for place in ("one", "two"):
        store.save(search(base), tmp_path / place)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    got = store.load(tmp_path / "one")
    assert len(got.prompts) == len(set(got.prompts)) == 3
    assert got.decoding.mode == "score"
    # The first is what the search would have found alone.
    alone = fit(base, "prompt_search", VIEW, **SMALL)
    assert got.prompts[0] == alone.prompts[0]
    assert notes_of(got)["kept"] == notes_of(alone)["kept"]
    assert "ensemble" not in notes_of(alone)


def test_the_record_holds_both_judgements_on_rows_of_their_own() -> None:
    base = base_of()
    got = search(base)
    told = notes_of(got)["ensemble"]
    assert (told["wanted"], len(told["prompts"])) == (3, 3)
    assert told["prompts"][0] == notes_of(got)["kept"]
    assert (told["rows"], told["apart_from_the_races"], told["readout_rows"]) == (20, True, 60)
    assert told["positions_per_request"] > told["single_positions_per_request"]
    # `metric` is that of the stored adaptation on all rows it was scored on.
    accuracy, _ = judged(base, got)
    assert accuracy == pytest.approx(told["metric"])
    shown = sum(len(each.demonstrations) + each.nearest for each in got.prompts)
    assert notes_of(got)["demonstrations"] == shown


def test_prompts_are_added_one_by_one_by_what_all_say_together() -> None:
    """Planted scores: the best two alone agree on everything, the third knows what they do not."""
    context = context_of(base_of(), VIEW)
    rows = VIEW.validation
    gold = np.array([VIEW.spec.labels.index(row.output) for row in rows])
    sign = np.where(gold == 1, 1.0, -1.0)
    half = np.arange(len(rows)) % 4 < 2

    def one(name: str, margin: Any) -> Contestant:
        made = Contestant(context, name, PromptText(name), (), rows)
        made.scores = list(np.stack([-sign * margin / 2, sign * margin / 2], axis=1))
        return made

    kept = one("kept", np.where(half, 3.0, -1.0))
    twin = one("twin", np.where(half, 3.1, -1.0))
    other = one("other", np.where(half, -1.0, 2.9))
    part, _, told = gathered(kept, [kept, twin, other], 2, 40)
    assert [each.instruction for each in part.prompts] == ["kept", "other"]
    assert told["ensemble"]["loss_lower_by_more_than_noise"] is True
    assert told["ensemble"]["loss"] < told["ensemble"]["single_loss"]
    # Choosing costs nothing; what both say where there is nothing to read is all that is asked.
    fresh = [one("kept", half), one("other", half)]
    assert context.ledger.spent == sum(each.label_cost(CONTENT_FREE) for each in fresh)
    both = Ensemble([kept, other])
    scores = (np.array(kept.scores) + np.array(other.scores)) / 2
    assert cross_entropy(scores, gold) == pytest.approx(float(both.verdict(60).loss), rel=0.3)
    all_three, _, _ = gathered(kept, [twin, other], 5, 40)
    assert len(all_three.prompts) == 3


def test_work_is_counted() -> None:
    base = base_of()
    context = context_of(base, VIEW)
    fit(base, "zero_shot", VIEW)  # what is tried on a base once is not counted
    with counted_positions(base) as counts:
        fit(base, "prompt_search", VIEW, context=context, ensemble=3, **SMALL)
    assert context.ledger.forward_tokens == counts["plain"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6])
def test_a_budget_is_kept_and_told(share: float) -> None:
    base = base_of()
    whole = context_of(base, VIEW)
    fit(base, "prompt_search", VIEW, context=whole, ensemble=4, **SMALL)
    limit = round(share * whole.ledger.spent)
    context = context_of(base, VIEW, limit=limit)
    got = fit(base, "prompt_search", VIEW, context=context, ensemble=4, **SMALL)
    assert context.ledger.spent <= limit
    told = notes_of(got)["ensemble"]
    if share == 0.0:
        assert len(got.prompts) == 1
        assert told == "not made: nothing was raced"
    else:
        assert len(told["prompts"]) == len(got.prompts) <= 4
        assert told["wanted"] == 4
        assert told["readout_rows"] <= 60
    with predictor_for(base, got) as predictor:
        assert predictor.answers(["abc0"])[0].text in VIEW.spec.labels


@pytest.mark.parametrize("which", ["generation", "json", "many labels"])
def test_answers_without_scores_are_refused(which: str) -> None:
    base, view = base_of(), KINDS[which]
    with pytest.raises(ConfigError, match="cannot answer this task together") as told:
        fit(base, "prompt_search", view, ensemble=2, **SMALL)
    assert told.value.fix == "leave --ensemble out"


@pytest.mark.parametrize("value", [0, 9, "x", 2.5])
def test_a_number_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="ensemble"):
        parse_settings(find_method("prompt_search"), {"ensemble": value})


def test_behind_a_prefix_in_place_of_the_text_there_is_none() -> None:
    base = base_of()
    start = fit(base, "prefix", VIEW, steps=2, learning_rate=1e-2, batch_size=8)
    got = search(base, start=start)
    assert len(got.prompts) == 1
    assert notes_of(got)["ensemble"] == "not made: nothing was raced"


def test_behind_a_lora_all_prompts_are_read_through_it() -> None:
    base = base_of()
    lora = fit(base, "lora", VIEW, steps=2, rank=2, learning_rate=1e-3, batch_size=8)
    got = search(base, count=2, start=lora)
    assert set(got.kinds) == {"prompt_text", "low_rank"}
    assert len(got.prompts) == 2


def test_a_chain_goes_on_from_the_first_and_judges_all_stages() -> None:
    base = base_of()
    name = "prompt_search>lora"
    settings = {f"prompt_search_{key}": value for key, value in SMALL.items()}
    settings |= {"lora_steps": 3, "lora_batch_size": 8, "lora_rank": 2}
    method = find_method(name)
    given = parse_settings(method, {"ensemble": 2})
    assert prompts_at_most(given) == 2
    assert prompts_at_most(parse_settings(method, {})) == 1
    got = fit(base, name, VIEW, limit=150_000, prompt_search_ensemble=2, **settings)
    first, second = got.provenance.notes["links"]
    assert len(first["notes"]["ensemble"]["prompts"]) == 2
    assert second["notes"]["began_behind"] == "the first of the start's 2 prompts"
    stages = got.provenance.notes["stages"]
    assert [each["method"] for each in stages] == ["prompt_search", "lora"]
    assert all("loss" in each for each in stages)
    kept = got.provenance.notes["kept_stage"]
    assert len(got.prompts) == (2 if kept == 0 else 1)
    # What was judged is what answers.
    with predictor_for(base, got) as predictor:
        assert isinstance(predictor, BasePredictor)
        assert 1 + len(predictor.readout.others) == len(got.prompts)


def test_the_other_kinds_of_task_know_nothing_of_it() -> None:
    got = fit(base_of(), "prompt_search", generation_view(), ensemble=1, **SMALL)
    assert len(got.prompts) == 1
    assert "ensemble" not in notes_of(got)
