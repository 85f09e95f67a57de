"""How many demonstrations: every kind in one number first, then the best kind in others."""

from __future__ import annotations

from typing import Any

import pytest
from tests.laws.fitting import base_of, context_of, fit, planted_view
from tests.methods.test_prompt_search import notes_of, prompt_of, tried

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.contestant import Contestant
from tunewise.methods.prompt_search import _Search

VIEW = planted_view(40, 60)
KINDS = ("balanced", "coverage", "hard", "random", "nearest")


def search(limit: int | None = None, **settings: Any) -> Adaptation:
    given = {"instructions": 4, "kept": 1, "edits": 2, **settings}
    context = context_of(base_of(), VIEW, limit=limit)
    return fit(context.base, "prompt_search", VIEW, context=context, **given)


def shows(name: str) -> list[tuple[str, int]]:
    """Kind and number, where a candidate shows demonstrations and is no edit."""
    if " + " not in name or ";" in name:
        return []
    kind, number = name.split(" + ")[1].split(",")[0].split()
    return [(kind, int(number))]


def entered(got: Adaptation, name: str) -> list[tuple[str, int]]:
    """What is new in a round, in the order it entered."""
    before: set[str] = set()
    for one, each in tried(got).items():
        names = [told["candidate"] for told in each]
        if one == name:
            return [found for new in names if new not in before for found in shows(new)]
        before |= set(names)
    return []


def plant(monkeypatch: pytest.MonkeyPatch, gains: dict[str, float]) -> None:
    """Prompts that show demonstrations of a kind lose so much less, more with every one."""
    plain = Contestant.losses

    def planted(self: Contestant, until: int | None = None) -> Any:
        shown = shows(self.name)
        gain = gains.get(shown[0][0], 0.0) + 0.1 * shown[0][1] if shown else 0.0
        return plain(self, until) - gain

    monkeypatch.setattr(Contestant, "losses", planted)


def test_every_kind_meets_the_first_number_and_others_follow() -> None:
    got = search()
    assert list(tried(got)) == ["instructions", "demonstrations", "numbers", "edits"]
    first = entered(got, "demonstrations")
    assert {kind for kind, _ in first} == set(KINDS)
    assert dict(first) == {kind: 4 if kind == "nearest" else 8 for kind in KINDS}
    later = set(entered(got, "numbers"))
    assert later == {(kind, n) for kind in KINDS for n in (2, 4, 8, 16)} - set(first)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_that_did_best_is_tried_in_other_numbers_first(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {kind: 5.0})
    got = search()
    assert {each for each, _ in entered(got, "numbers")[:3]} == {kind}
    assert notes_of(got)["rounds"][2]["winner"].endswith(f"{kind} 16")


@pytest.mark.parametrize("settings", [{"demonstrations": 4}, {"demonstrations": 0}])
def test_a_number_that_is_given_needs_no_such_round(settings: dict[str, Any]) -> None:
    assert list(tried(search(**settings))) == ["instructions", "demonstrations", "edits"]


def test_a_budget_that_ends_early_has_tried_every_kind() -> None:
    whole = search()
    spent = notes_of(whole)["rounds"][1]["token_passes"]
    got = search(limit=4 * spent)
    assert any("left_out" in each for each in tried(got)["numbers"])
    paid = [each for each in tried(got)["demonstrations"] if "left_out" not in each]
    assert {kind for each in paid for kind, _ in shows(each["candidate"])} == set(KINDS)


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_a_kind_too_dear_to_confirm_in_its_number_is_tried_in_fewer(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four demonstrations near each row cost more than was left, and nearest was never tried."""
    plain = _Search._is_confirmable

    def confirmable(self: _Search, one: Contestant) -> bool:
        return one.prompt.nearest <= most and plain(self, one)

    monkeypatch.setattr(_Search, "_is_confirmable", confirmable)
    got = search(limit=10**9)
    raced = {
        found
        for each in tried(got)["demonstrations"]
        if "left_out" not in each
        for found in shows(each["candidate"])
    }
    assert {number for kind, number in raced if kind == "nearest"} == ({2} if most > 1 else set())
    assert {kind for kind, _ in raced} >= set(KINDS) - {"nearest"}
    assert prompt_of(got).nearest <= most


def test_what_is_kept_shows_the_number_that_won(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, {"nearest": 9.0})
    got = search(edits=0)
    if notes_of(got)["kept"] != "start":
        assert prompt_of(got).nearest == 16
    assert notes_of(got)["confirmed"]["winner"].endswith("nearest 16")


def test_a_small_budget_looks_at_fewer_rows_and_still_tries() -> None:
    whole = search()
    told = notes_of(whole)["rounds"][0]["tried"][0]
    assert (told["candidate"], told["rows"]) == ("start", 60)
    row = context_of(base_of(), VIEW)
    start = fit(row.base, "zero_shot", VIEW, context=row)
    a_row = start.provenance.work["forward_tokens"] / 60
    # All rows would be 60% of it, and leave nothing to try.
    got = search(limit=round(100 * a_row))
    tries = [each for round_ in tried(got).values() for each in round_ if each["rows"]]
    assert tries[0]["candidate"] == "start"
    assert 24 <= tries[0]["rows"] <= 30
    assert len({each["candidate"] for each in tries}) > 1
    # However small it is, a few rows are looked at.
    least = search(limit=round(40 * a_row))
    assert notes_of(least)["rounds"][0]["tried"][0]["rows"] == 24
