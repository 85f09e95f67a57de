"""A chain is its links by hand, in the budget of one method."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.adaptation.samples import assert_same
from tests.laws.fitting import base_of, context_of, fit, planted_view

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.checkpoint import clear_state
from tunewise.adaptation.context import FitContext
from tunewise.errors import BudgetTooSmallError, ConfigError, TunewiseError, UnknownNameError
from tunewise.methods._chain import Chain
from tunewise.methods._contract import parse_settings
from tunewise.methods._registry import find_method
from tunewise.methods._stages import Stages
from tunewise.methods.lora import METHOD as LORA

VIEW = planted_view()
QUICK: dict[str, Any] = {
    "soft_prompt_steps": 3,
    "soft_prompt_batch_size": 8,
    "lora_steps": 3,
    "lora_batch_size": 8,
    "lora_rank": 2,
}


def quick(name: str, **more: Any) -> dict[str, Any]:
    known = find_method(name).Settings.model_fields
    return {key: value for key, value in (QUICK | more).items() if key in known}


@pytest.mark.parametrize("name", ["few_shot>lora", "lora>soft_prompt", "soft_prompt>lora"])
def test_it_is_its_links_by_hand(name: str) -> None:
    base, limit = base_of(), 40_000
    context = context_of(base, VIEW, limit=limit, seed=3)
    reserve = Stages(context, 2).reserve
    assert 0 <= reserve <= 0.06 * limit
    got = fit(base, name, VIEW, context=context, **quick(name))
    start, spent = None, 0
    found = []
    for link, share in zip(name.split(">"), (int(limit / 3), None), strict=True):
        own = context_of(
            base,
            VIEW,
            limit=limit - spent - reserve if share is None else share,
            seed=3,
            start=start,
        )
        settings = {
            key.removeprefix(f"{link}_"): value
            for key, value in QUICK.items()
            if key.startswith(link)
        }
        start = fit(base, link, VIEW, context=own, **settings)
        found.append(start)
        spent += own.ledger.spent
    kept = found[got.provenance.notes["kept_stage"]]
    assert_same(got.parts, kept.parts)
    assert got.decoding == kept.decoding
    assert spent < context.ledger.spent <= limit
    assert got.provenance.work["forward_tokens"] == context.ledger.forward_tokens
    told = got.provenance.notes["links"]
    assert [each["method"] for each in told] == name.split(">")
    assert sum(each["work"]["flops"] for each in told) <= got.provenance.work["flops"]


def test_steps_and_points_of_the_curve_are_counted_on() -> None:
    base = base_of()
    context = context_of(base, VIEW)
    fit(base, "lora>soft_prompt", VIEW, context=context, **quick("lora>soft_prompt"))
    assert len(context.log.losses) == len(context.log.step_seconds) == 6
    trained = [point["step"] for point in context.log.curve if "train_loss" in point]
    assert trained == sorted(trained)
    assert max(point["step"] for point in context.log.curve) == 6.0


def test_a_link_may_come_twice_and_has_its_settings_once() -> None:
    base = base_of()
    name = "few_shot>lora>few_shot"
    got = fit(base, name, VIEW, few_shot_demonstrations=2, **quick(name))
    assert [each["method"] for each in got.provenance.notes["links"]] == name.split(">")
    assert got.provenance.settings["few_shot_demonstrations"] == 2


def test_parameters_that_two_links_train_are_counted_once() -> None:
    base = base_of()
    alone, twice = context_of(base, VIEW), context_of(base, VIEW)
    fit(base, "lora", VIEW, context=alone, steps=1, rank=2)
    fit(base, "lora>lora", VIEW, context=twice, **quick("lora>lora", lora_steps=1))
    assert twice.log.trainable_parameters == alone.log.trainable_parameters


def test_it_tells_what_its_last_link_tells() -> None:
    base = base_of()
    got = fit(base, "zero_shot>few_shot", VIEW, few_shot_demonstrations=2)
    told = dict(got.provenance.notes)
    links, kept = told.pop("links"), told.pop("kept_stage")
    assert [each["method"] for each in told.pop("stages")] == ["zero_shot", "few_shot"]
    assert told == links[kept]["notes"]
    assert ("demonstrations" in told) == (kept == 1)


def test_a_share_that_is_too_small_names_its_link() -> None:
    with pytest.raises(BudgetTooSmallError, match="in the share of lora in a chain") as caught:
        fit(base_of(), "lora>soft_prompt", VIEW, limit=1_500, **quick("lora>soft_prompt"))
    assert "--earlier-share" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("few_shot>lora", [3000, None]),
        ("lora>few_shot", [7000, None]),
        ("few_shot>lora>few_shot", [1500, 7000, None]),
        ("few_shot>zero_shot>few_shot", [1500, 1500, None]),
        ("soft_prompt>lora", [3000, None]),
    ],
)
def test_what_trains_last_has_the_most(name: str, limits: list[int | None]) -> None:
    chain = find_method(name)
    assert isinstance(chain, Chain)
    settings = parse_settings(chain, {"earlier_share": 0.3})
    assert chain._limits(10_000, settings) == limits


def test_settings_keep_their_bounds_and_their_names() -> None:
    method = find_method(" few_shot > lora ")
    assert method.name == "few_shot>lora"
    assert set(method.Settings.model_fields) == {
        "earlier_share",
        "either_start",
        *(f"few_shot_{each}" for each in find_method("few_shot").Settings.model_fields),
        *(f"lora_{each}" for each in LORA.Settings.model_fields),
    }
    assert method.Settings.model_fields["lora_rank"].description
    with pytest.raises(ConfigError, match="--lora-rank 0"):
        parse_settings(method, {"lora_rank": 0})
    with pytest.raises(ConfigError, match="--earlier-share 1"):
        parse_settings(method, {"earlier_share": 1.0})
    with pytest.raises(UnknownNameError, match="lora_rank"):
        parse_settings(method, {"lora_rnk": 4})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tfidf>lora", "nothing can start from tfidf"),
        ("lora>majority", "majority starts from nothing"),
        ("few_shot>lroa", "lora"),
        ("few_shot>", "method"),
        (">", "method"),
    ],
)
def test_chains_that_cannot_be(name: str, words: str) -> None:
    with pytest.raises(TunewiseError, match=words):
        find_method(name)


class _StopError(Exception):
    """In place of a Ctrl-C."""


class _Link:
    """A method that counts its fits and can be stopped."""

    def __init__(self, method: Any) -> None:
        self.method, self.fits, self.stop = method, 0, False
        for name in ("name", "summary", "produces", "needs", "Settings"):
            setattr(self, name, getattr(method, name))

    def fit(self, context: FitContext, settings: Any) -> Adaptation:
        self.fits += 1
        if self.stop:
            raise _StopError
        found: Adaptation = self.method.fit(context, settings)
        return found


def test_an_interrupted_chain_goes_on_with_the_link_it_was_in(tmp_path: Path) -> None:
    base = base_of()
    name = "lora>soft_prompt"
    links: list[Any] = [_Link(find_method(each)) for each in name.split(">")]
    chain = Chain(links)
    settings = parse_settings(chain, quick(name))

    def run(folder: Path | None) -> tuple[FitContext, Adaptation]:
        context = context_of(base, VIEW, limit=60_000, checkpoint_folder=folder)
        return context, chain.fit(context, settings)

    whole_context, whole = run(None)
    folder = tmp_path / "checkpoint"
    links[1].stop = True
    with pytest.raises(_StopError):
        run(folder)
    links[1].stop = False
    assert folder.exists()
    context, got = run(folder)
    assert [link.fits for link in links] == [2, 3]
    assert_same(got, whole)
    assert context.ledger == whole_context.ledger
    assert context.log.losses == whole_context.log.losses
    assert context.log.curve == whole_context.log.curve
    assert context.log.trainable_parameters == whole_context.log.trainable_parameters > 0
    assert context.log.seconds_before > 0
    # A kill while the folder is removed may leave facts without what was found.
    shutil.rmtree(folder / "0-lora-done.adaptation")
    mended, again = run(folder)
    assert_same(again, whole)
    assert mended.ledger == whole_context.ledger
    clear_state(folder)
    assert not folder.exists()
    # What was stored of another fit is not taken for this one's.
    links[1].stop = True
    with pytest.raises(_StopError):
        run(folder)
    links[1].stop = False
    other = context_of(base, VIEW, limit=60_000, checkpoint_folder=folder)
    chain.fit(replace(other, seed=1), settings)
    assert links[0].fits == 5
