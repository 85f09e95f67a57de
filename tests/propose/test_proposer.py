"""Proposals from failures: through an endpoint or the base itself, on training rows only."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.adaptation.samples import assert_same
from tests.architecture.source import SOURCE
from tests.laws.fitting import base_of, context_of, fit, generation_view, planted_view
from tests.propose.server import Scripted, scripted

from tunewise.adaptation.bundle import Adaptation
from tunewise.errors import ConfigError, RunError, UnavailableError, UnknownNameError
from tunewise.methods._proposals import PROPOSALS_SHARE
from tunewise.model import decode as decoding
from tunewise.model.ledger import Ledger
from tunewise.propose._asking import Asker, LocalModel, asker_for
from tunewise.propose._contract import Brief, Outcome
from tunewise.propose._registry import PROPOSERS, find_proposer
from tunewise.propose._words import each_once, instruction_in
from tunewise.task.types import FitView

openai = pytest.importorskip("openai")
VIEW = planted_view(24, 30)
SMALL: dict[str, Any] = {"instructions": 12, "demonstrations": 0, "edits": 0, "kept": 1}
WAYS = ("plain", "gepa", "mipro")


def need(way: str) -> None:
    for package in filter(None, [find_package(way)]):
        pytest.importorskip(package)


def find_package(way: str) -> str:
    return PROPOSERS.discover()[way].package


def better(number: int, question: str) -> str:
    """Different every time, and readable by every library."""
    text = f"Look at the last letter, and say yes or no ({number})."
    if "[[ ##" not in question:
        return f"Here is the new instruction:\n```\n{text}\n```"
    name = "proposed_instruction" if "proposed_instruction" in question else "summary"
    if "observations" in question and "summary" not in question:
        name = "observations"
    return f"[[ ## {name} ## ]]\n{text}\n\n[[ ## completed ## ]]"


def search(server: Scripted | str, view: FitView = VIEW, **settings: Any) -> Adaptation:
    proposer = server if isinstance(server, str) else server.proposer
    return fit(base_of(), "prompt_search", view, **{**SMALL, "proposer": proposer, **settings})


def notes_of(found: Adaptation) -> dict[str, Any]:
    return dict(found.provenance.notes["proposer"])


@pytest.mark.parametrize("way", WAYS)
def test_what_is_proposed_races_and_is_recorded(way: str) -> None:
    need(way)
    with scripted(better) as server:
        got = search(server, propose_through=way, proposals=2)
    notes = notes_of(got)
    assert notes["through"] == way
    assert notes["model"] == "scripted"
    assert notes["proposed"]
    assert all(text.startswith("Look at the last letter") for text in notes["proposed"])
    assert len(notes["calls"]) == len(server.requests) >= 2
    assert notes["calls"][0]["their_tokens"] == 10
    names = [each["candidate"] for each in got.provenance.notes["rounds"][0]["tried"]]
    assert "proposal 1" in names
    assert notes["proposed"][0] in got.provenance.notes["instructions"].values()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("view", [VIEW, generation_view(20, 12)], ids=["labels", "text"])
def test_a_proposer_reads_training_rows_only(way: str, view: FitView) -> None:
    need(way)
    marked = tuple(
        replace(row, input=f"HELD{row.id}OUT {row.input}", domain="held") for row in view.validation
    )
    with scripted(better) as server:
        search(server, replace(view, validation=marked), propose_through=way, proposals=2)
    assert "HELD" not in server.read
    assert sum(json.dumps(row.input)[1:-1] in server.read for row in view.train) >= 2


@pytest.mark.parametrize("way", ["plain", "gepa"])
def test_the_same_answers_give_the_same_bytes(way: str) -> None:
    need(way)
    found = []
    for _ in range(2):
        with scripted(better) as server:
            found.append(search(server, propose_through=way, proposals=2))
    one, two = (replace(each, provenance=replace(each.provenance, settings={})) for each in found)
    assert_same(one, two)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", ["", "   \n", None], ids=["empty", "blank", "null"])
def test_empty_answers_are_recorded_and_end(way: str, answer: str | None) -> None:
    need(way)
    with scripted(lambda number, question: answer) as server:
        got = search(server, propose_through=way, proposals=2)
    notes = notes_of(got)
    assert notes["proposed"] == []
    assert notes["empty_answers"] == len(notes["calls"]) == len(server.requests) > 0
    assert len(server.requests) < 40


def test_an_empty_answer_of_the_base_is_recorded_and_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def emptied(*args: Any, **given: Any) -> Any:
        made = decoding.decode(*args, **given)
        for each in made:
            each.tokens.clear()
        return made

    monkeypatch.setattr("tunewise.propose._asking.decode", emptied)
    # Its letters are its tokens, so a question takes more than the tiny base's own context.
    base = replace(base_of(), context_length=4096)
    context = context_of(base, VIEW, limit=200_000)
    settings = {**SMALL, "proposer": "local", "proposals": 3}
    got = fit(base, "prompt_search", VIEW, context=context, **settings)
    notes = notes_of(got)
    assert notes["empty_answers"] == len(notes["calls"]) == 3
    assert all(call["token_passes"] > 0 and call["empty"] for call in notes["calls"])
    asked = sum(call["token_passes"] for call in notes["calls"])
    assert asked < notes["token_passes"] <= PROPOSALS_SHARE * 200_000
    without = context_of(base, VIEW, limit=200_000)
    fit(base, "prompt_search", VIEW, context=without, **SMALL)
    assert got.provenance.work["forward_tokens"] == context.ledger.forward_tokens
    assert context.ledger.spent <= 200_000
    # Nothing was proposed, so the races are the same: the difference is what asking took.
    assert context.ledger.spent - without.ledger.spent == notes["token_passes"]


def test_the_base_is_asked_with_what_its_own_ledger_counts() -> None:
    base = base_of()
    ledger = Ledger(base.body_parameters, base.head_parameters, None)
    ask = Asker("tiny", LocalModel(base, ledger))
    ask("What is better?")
    ask("x" * 10_000)
    assert ask.calls[0]["token_passes"] == ledger.spent > len("What is better?")
    assert ask.calls[1]["answer"] == ""
    assert ask.calls[1]["too_long_tokens"] > 10_000


@pytest.mark.parametrize("limit", [4_000, 12_000])
def test_a_share_that_is_used_up_ends_the_proposals(limit: int) -> None:
    base = base_of()
    context = context_of(base, VIEW, limit=limit)
    got = fit(base, "prompt_search", VIEW, context=context, proposer="local", **SMALL)
    told = got.provenance.notes.get("proposer", {"token_passes": 0})
    assert told["token_passes"] <= PROPOSALS_SHARE * limit
    assert context.ledger.spent <= limit


def test_a_proposal_that_copies_a_training_row_is_refused() -> None:
    words = "the quick brown fox jumps over nine lazy dogs today"
    rows = tuple(replace(row, input=f"{words} {row.input}") for row in VIEW.train)
    with scripted(lambda number, question: f"Say yes where it is: {words}.") as server:
        got = search(server, replace(VIEW, train=rows), proposals=1)
    refused = got.provenance.notes["refused"]
    assert refused == ["proposal 1: it copies a training row"]


def test_an_endpoint_that_is_not_there_is_told() -> None:
    with scripted(better) as server:
        gone = server.proposer
    with pytest.raises(UnavailableError, match="cannot be reached"):
        search(gone, proposals=1)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_an_endpoint_that_refuses_is_told(status: int) -> None:
    with scripted(better, status) as server, pytest.raises(RunError, match="refuses"):
        search(server, proposals=1)


@pytest.mark.parametrize(
    "text", ["", "remote", "http://127.0.0.1:1/v1", "127.0.0.1#x", "#x", "http://h#", "ftp://h#m"]
)
def test_a_model_that_is_not_clear_is_refused(text: str) -> None:
    base = base_of()
    with pytest.raises(ConfigError, match="not clear"):
        asker_for(text, base, Ledger(1, 1, None), 0)


def test_ways_of_proposing_are_found_and_their_packages_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = SOURCE / "tunewise" / "propose"
    assert set(PROPOSERS.discover()) == {path.stem for path in folder.glob("[!_]*.py")}
    with pytest.raises(UnknownNameError, match="did you mean 'mipro'"):
        find_proposer("miprov")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_proposer("plain").package == ""
    for way in ("gepa", "mipro"):
        with pytest.raises(UnavailableError, match=r"tunewise\[propose\]"):
            find_proposer(way)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Say yes.", "Say yes."),
        ("  'Say yes.'\n", "Say yes."),
        ("Here is the improved instruction:\n\nSay yes.", "Say yes."),
        ("Instruction: Say yes.", "Say yes."),
        ("I think.\n```text\nSay yes.\n```\nDone.", "Say yes."),
        ("```\nfirst\n```\n```\nSay yes.\n```", "Say yes."),
        ("Answer with one of: yes, no.", "Answer with one of: yes, no."),
        ("", ""),
        ("``````", ""),
        ("x" * 3000, ""),
    ],
)
def test_the_instruction_in_an_answer(answer: str, text: str) -> None:
    assert instruction_in(answer) == text


def test_each_proposal_once_and_never_the_instruction_there_is() -> None:
    brief = Brief(VIEW.spec, " Say yes or no. ", ())
    texts = ["", "a", "Say yes or no.", "a", "b", "c"]
    assert each_once(texts, brief, 2) == ["a", "b"]


def test_failures_are_what_is_below_the_best_score() -> None:
    outcomes = tuple(
        Outcome(row, "yes", score)
        for row, score in zip(VIEW.train[:3], (1.0, 0.5, 0.0), strict=True)
    )
    assert [each.score for each in Brief(VIEW.spec, "x", outcomes).failures] == [0.5, 0.0]
