"""The search for a prompt: its rounds, its promises to the start, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.laws.fitting import base_of, context_of, fit, generation_view, planted_view, with_spec

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.ensemble import CONTENT_FREE, Ensemble
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.predict import BasePredictor, predictor_for
from tunewise.adaptation.readout import adjusted_scores
from tunewise.errors import ConfigError
from tunewise.methods._contract import parse_settings
from tunewise.methods._registry import find_method
from tunewise.methods._settings.prompt_search import wordings_of
from tunewise.model.base import Base
from tunewise.numerics.calibration import cross_entropy
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import FitView, Kind, Row

# Enough validation rows to keep a third of them from the races.
VIEW = planted_view(24, 60)
SMALL: dict[str, Any] = {"instructions": 5, "demonstrations": 2, "edits": 3, "kept": 2}


def search(base: Base, view: FitView = VIEW, **settings: Any) -> Adaptation:
    return fit(base, "prompt_search", view, **{**SMALL, **settings})


def prompt_of(adaptation: Adaptation) -> PromptText:
    part = adaptation.part(PromptTextPart)
    assert part is not None
    return part.prompt


def notes_of(adaptation: Adaptation) -> dict[str, Any]:
    return dict(adaptation.provenance.notes)


def tried(adaptation: Adaptation) -> dict[str, list[dict[str, Any]]]:
    return {each["round"]: each["tried"] for each in notes_of(adaptation)["rounds"]}


def judged(base: Base, adaptation: Adaptation) -> tuple[float, float]:
    """Accuracy and loss on all validation rows, as stored."""
    with predictor_for(base, adaptation) as predictor:
        assert isinstance(predictor, BasePredictor)
        scores = predictor.readout.label_scores([row.input for row in VIEW.validation])
        scores = adjusted_scores(scores, predictor.readout.renderer, adaptation.decoding)
    gold = np.array([VIEW.spec.labels.index(row.output) for row in VIEW.validation])
    return float((scores.argmax(axis=1) == gold).mean()), cross_entropy(scores, gold)


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_kept_is_asked_about_nothing_and_pays_for_it(number: int) -> None:
    context = context_of(base_of(), VIEW)
    members = [
        Contestant(context, text, PromptText(text), (), VIEW.validation[:20])
        for text in ("Yes or no?", "Is it?")[:number]
    ]
    several = Ensemble(members)
    several.extend(20)
    before, cost = context.ledger.spent, sum(one.label_cost(CONTENT_FREE) for one in members)
    decoding, contextual = several.readout(20)
    assert context.ledger.spent - before == cost > 0
    assert contextual is (decoding != several.verdict(20).decoding)
    poor = context_of(base_of(), VIEW, limit=before + cost - 1)
    poor_members = [Contestant(poor, one.name, one.prompt, (), one.rows) for one in members]
    several = Ensemble(poor_members)
    several.extend(20)
    assert several.readout(20) == (several.verdict(20).decoding, None)


def test_what_does_not_fit_the_context_is_not_asked() -> None:
    """The rows have short neighbours; the longest one is nearest to an input without content."""
    base = base_of()
    pool = (Demonstration("n/a " * base.context_length, "no"), Demonstration("abc", "yes"))
    context = context_of(base, VIEW)
    prompt = PromptText("Yes or no?", pool=pool, nearest=1)
    one = Contestant(context, "long", prompt, (), VIEW.validation[:4])
    assert not one.holds(CONTENT_FREE)
    plain = Contestant(context, "plain", PromptText("Yes or no?"), (), VIEW.validation[:4])
    assert plain.holds(CONTENT_FREE)
    for each in (one, plain):
        each.scores = [np.array([0.0, -1.0])] * 4
    before = context.ledger.spent
    assert Ensemble([plain, one]).readout(4)[1] is None
    assert context.ledger.spent == before


def test_answers_that_are_texts_have_no_labels_to_calibrate() -> None:
    assert notes_of(search(base_of(), generation_view()))["contextual_calibration"] is None
    assert notes_of(search(base_of()))["contextual_calibration"] in (True, False)


def test_three_rounds_each_told_and_the_winner_confirmed_apart() -> None:
    got = search(base_of())
    rounds = tried(got)
    assert list(rounds) == ["instructions", "demonstrations", "edits"]
    assert all(each[0]["candidate"] == "start" for each in list(rounds.values())[:2])
    names = [each["candidate"] for each in rounds["demonstrations"]]
    assert {"balanced", "coverage", "hard", "random", "nearest"} <= {
        name.split()[-2] for name in names if " + " in name
    }
    assert len(rounds["instructions"]) == 5
    notes = notes_of(got)
    if notes["kept"] == "start":
        assert prompt_of(got) == PromptText(VIEW.spec.instruction)
    if "confirmed" in notes:
        assert notes["confirmed"]["rows"] == 20
        assert notes["confirmed"]["apart_from_the_race"] is True
    spent = [each["token_passes"] for each in notes["rounds"]]
    assert spent == sorted(spent)
    assert spent[-1] <= got.provenance.work["forward_tokens"]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_never_below_its_start_on_validation(seed: int) -> None:
    base = base_of(seed=seed)
    accuracy, _ = judged(base, search(base))
    plain, _ = judged(base, fit(base, "zero_shot", VIEW))
    assert accuracy >= plain


@pytest.mark.parametrize(("apart", "sways"), [(-9.0, 0.0), (9.0, 0.0), (1.0, 90.0)])
def test_the_rows_kept_apart_decide(
    apart: float, sways: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All prompts but the start are made good in the races, and good or bad on the other rows.

    Where they are worse there by less than the noise, they are not held for worse.
    """
    plain = Contestant.losses

    def planted(self: Contestant, until: int | None = None) -> Any:
        found = plain(self, until)
        if self.name != "start":
            found[:40] -= 9.0
            found[40:] += apart + sways * (-1.0) ** np.arange(len(found[40:]))
        return found

    monkeypatch.setattr(Contestant, "losses", planted)
    got = search(base_of())
    confirmed = notes_of(got)["confirmed"]
    assert confirmed["winner"] != "start"
    assert (confirmed["loss"] < confirmed["start_loss"]) == (apart < 0)
    # Where the loss is better, the metric must not be worse.
    stays = apart > sways or confirmed["metric"] < confirmed["start_metric"]
    assert (notes_of(got)["kept"] == "start") == stays
    assert (prompt_of(got) == PromptText(VIEW.spec.instruction)) == stays


def test_a_winner_that_is_too_dear_to_confirm_makes_way_for_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search came home with the start: an edit had won that was scored on few rows only."""
    plain, reach = Contestant.losses, Contestant.reach

    def planted(self: Contestant, until: int | None = None) -> Any:
        edits = self.name.count(";")
        return plain(self, until) - 9.0 * (edits + (self.name != "start"))

    def reached(self: Contestant, fewest: int) -> int | None:
        return None if ";" in self.name else reach(self, fewest)

    monkeypatch.setattr(Contestant, "losses", planted)
    monkeypatch.setattr(Contestant, "reach", reached)
    notes = notes_of(search(base_of()))
    assert ";" in notes["rounds"][-1]["winner"]
    assert notes["not_confirmed"] == [f"{notes['rounds'][-1]['winner']}: budget"]
    assert notes["confirmed"]["winner"] == notes["rounds"][1]["winner"] != "start"
    assert notes["confirmed"]["rows"] > 0


def test_few_rows_serve_for_both() -> None:
    got = search(base_of(), planted_view(24, 12))
    confirmed = notes_of(got).get("confirmed")
    assert confirmed is None or (confirmed["rows"], confirmed["apart_from_the_race"]) == (12, False)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.5])
def test_a_small_budget_is_kept_and_still_answers(share: float) -> None:
    whole = context_of(base_of(), VIEW)
    fit(whole.base, "prompt_search", VIEW, context=whole, **SMALL)
    limit = round(share * whole.ledger.spent)
    context = context_of(base_of(), VIEW, limit=limit)
    got = fit(context.base, "prompt_search", VIEW, context=context, **SMALL)
    assert context.ledger.spent <= limit
    if share == 0.0:
        assert prompt_of(got) == PromptText(VIEW.spec.instruction)
        assert got.decoding == Decoding("score")
        assert notes_of(got)["kept"].startswith("start, uncalibrated")
    if share == 0.5:
        left_out = [each for one in tried(got).values() for each in one if "left_out" in each]
        assert left_out


def test_the_start_is_kept_with_all_it_holds_where_nothing_is_affordable() -> None:
    base = base_of()
    shots = (Demonstration("abc0", "no"), Demonstration("abd1", "yes"))
    lora = fit(base, "lora", VIEW, steps=2, rank=2, learning_rate=1e-3, batch_size=8)
    prompt = PromptText("Judge.", demonstrations=shots)
    decoding = Decoding("score", label_bias=(0.5, -0.5))
    others = tuple(part for part in lora.parts if not isinstance(part, PromptTextPart))
    start = replace(lora, parts=(PromptTextPart(prompt), *others), decoding=decoding)
    got = fit(base, "prompt_search", VIEW, start=start, limit=0)
    assert prompt_of(got) == prompt
    assert got.decoding == decoding
    assert set(got.kinds) == {"prompt_text", "low_rank"}
    full = fit(base, "prompt_search", VIEW, start=start, **SMALL)
    assert set(full.kinds) == {"prompt_text", "low_rank"}
    names = [each["candidate"] for each in tried(full)["instructions"]]
    assert names[:2] == ["start", "start alone"]
    names = [each["candidate"] for each in tried(full)["demonstrations"]]
    assert any(name.endswith("the start's demonstrations") for name in names)


def test_behind_a_prefix_in_place_of_the_text_nothing_is_searched() -> None:
    base = base_of()
    start = fit(base, "prefix", VIEW, steps=2, learning_rate=1e-2, batch_size=8)
    got = fit(base, "prompt_search", VIEW, start=start, **SMALL)
    assert prompt_of(got) == prompt_of(start)
    assert notes_of(got)["rounds"] == []


def test_wordings_of_the_user_race_and_a_copied_row_is_refused() -> None:
    long = "one two three four five six seven eight nine"
    view = replace(VIEW, train=(*VIEW.train, Row("long", long, "no", ("no",))))
    got = search(base_of(), view, wordings=f"Which is it? | {long} | ")
    names = {each["candidate"] for each in tried(got)["instructions"]}
    assert "wording 1" in names
    assert "wording 2" not in names
    assert notes_of(got)["refused"] == ["wording 2: it copies a training row"]
    assert notes_of(got)["instructions"]["wording 1"] == "Which is it?"
    assert long not in notes_of(got)["instructions"].values()


def test_the_user_s_own_instruction_stays_even_where_it_quotes_a_row() -> None:
    long = "one two three four five six seven eight nine"
    view = replace(VIEW, train=(*VIEW.train, Row("long", long, "no", ("no",))))
    got = search(base_of(), with_spec(view, instruction=f"Such as {long}."))
    assert tried(got)["instructions"][0]["rows"] == 60
    others = [
        text for name, text in notes_of(got)["instructions"].items() if not name.startswith("start")
    ]
    assert not any(long in text for text in others)


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        ({"demonstrations": 0}, {"demonstrations": 0}),
        ({"edits": 0}, {"edits": 0}),
        ({"instructions": 1}, {"instructions": 0}),
        ({"pick": "coverage", "demonstrations": 1}, {}),
    ],
)
def test_settings_that_leave_a_round_out(settings: dict[str, Any], rounds: dict[str, int]) -> None:
    got = search(base_of(), **settings)
    entered: set[str] = set()
    for name, each in tried(got).items():
        new = {one["candidate"] for one in each} - entered - {"start"}
        assert name not in rounds or len(new) == rounds[name]
        entered |= new
    if "pick" in settings:
        shown = {name.split(" + ")[1].split()[0] for name in entered if " + " in name}
        assert {each.rstrip(";") for each in shown} == {"coverage"}


JSON_ROWS = tuple(
    Row(f"j{i}", f"play song {i}", f'{{"intent":"{word}"}}', (f'{{"intent":"{word}"}}',))
    for i, word in enumerate(("play", "stop") * 6)
)
KINDS = {
    "generation": generation_view(),
    "json": FitView(
        replace(VIEW.spec, kind=Kind.JSON, labels=(), metric="json_f1"), JSON_ROWS, JSON_ROWS[:6]
    ),
    "short answer": with_spec(generation_view(), kind=Kind.SHORT_ANSWER, metric="exact_match"),
    "many labels": with_spec(VIEW, labels=("no", *(f"so{i}" for i in range(12)), "yes")),
}


@pytest.mark.parametrize("which", KINDS)
def test_every_kind_of_task(which: str) -> None:
    base, view = base_of(), KINDS[which]
    got = search(base, view)
    assert got.provenance.notes["rounds"]
    with predictor_for(base, got) as predictor:
        answers = predictor.answers([row.input for row in view.validation[:3]])
    assert len(answers) == 3
    wanted = {"generation": "free", "json": "json", "short answer": "free", "many labels": "trie"}
    assert got.decoding.mode == wanted[which]


@pytest.mark.parametrize("long_rows", [1, 60])
def test_rows_longer_than_the_context_do_not_end_the_search(long_rows: int) -> None:
    long = tuple(replace(row, input="x" * 600) for row in VIEW.validation[:long_rows])
    view = replace(VIEW, validation=(*long, *VIEW.validation[long_rows:]))
    got = search(base_of(), view, demonstrations=0, edits=0)
    assert bool(notes_of(got)["rounds"]) == (long_rows == 1)
    if long_rows == 1:
        assert tried(got)["instructions"][0]["rows"] == 59


def test_the_user_slot_races_with_the_system_slot() -> None:
    got = search(base_of())
    names = {each["candidate"] for each in tried(got)["instructions"]}
    assert "start, in the user slot" in names
    without = search(base_of(), slots=False)
    told = [each["candidate"] for rounds in tried(without).values() for each in rounds]
    assert not any("slot" in name for name in told)


def test_a_base_without_a_chat_template_has_no_slots() -> None:
    got = search(base_of(chat=False))
    told = [each["candidate"] for rounds in tried(got).values() for each in rounds]
    assert not any("slot" in name for name in told)


def test_the_better_slot_is_found_and_kept_through_the_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All prompts in the user slot are made good: whatever wins stands there."""
    plain = Contestant.losses

    def planted(self: Contestant, until: int | None = None) -> Any:
        found = plain(self, until)
        return found * 0.01 if self.prompt.slot == "user" else found

    monkeypatch.setattr(Contestant, "losses", planted)
    got = search(base_of(), demonstrations=2, pick="balanced")
    names = [each["candidate"] for each in tried(got)["demonstrations"]]
    assert any("in the user slot + balanced" in name for name in names)
    kept = got.provenance.notes["kept"]
    assert kept == "start" or prompt_of(got).slot == "user"


WORDS = ("Sort it.", "Which one?\nSay it.")


def test_wordings_from_a_line_a_list_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("\ufeffSort it.\n\n  \nWhich one?\nSay it.\n\nSort it.\n", encoding="utf-8")
    assert wordings_of(f"@{file}") == WORDS
    assert wordings_of(list(WORDS)) == WORDS
    assert wordings_of(" Sort it. | | Which one?\nSay it.|Sort it.") == WORDS
    assert wordings_of(None) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("@no/such.txt", "no/such.txt cannot be read"),
        ("@", "cannot be read"),
        (" | ", "no text"),
        ([], "no text"),
        ([1, "a"], "list of texts"),
        (3, "list of texts"),
        ({"a": "b"}, "list of texts"),
    ],
)
def test_wordings_that_cannot_be_used(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_settings(find_method("prompt_search"), {"wordings": given})


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        parse_settings(find_method("prompt_search"), {"wordings": f"@{tmp_path / 'own.txt'}"})
    (tmp_path / "none.txt").write_text(" \n\n ")
    with pytest.raises(ConfigError, match="no text"):
        parse_settings(find_method("prompt_search"), {"wordings": f"@{tmp_path / 'none.txt'}"})


def test_what_a_file_holds_is_what_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Sort it.\n\nWhich one?")
    got = search(base_of(), wordings=f"@{tmp_path / 'own.txt'}")
    assert got.provenance.settings["wordings"] == ["Sort it.", "Which one?"]
    assert {"Sort it.", "Which one?"} <= set(notes_of(got)["instructions"].values())
