"""What the terminal shows, piece by piece."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunewise.cli import show
from tunewise.measure.evidence import NOT_ASKED, Answered, Evidence
from tunewise.planning.records import JobPlan, RunPlan


def test_a_long_plan_says_how_it_would_take_less(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, climbs, wanted in ((4000.0, False, True), (4000.0, True, True), (60.0, 0, False)):
        text = io.StringIO()
        monkeypatch.setattr(show, "OUT", Console(file=text, width=120))
        job = JobPlan("lora", 0, 10, 10, 0, False, seconds, 0.0, 1)
        show.show_plan(RunPlan((job,), (), 20, 1.0, climbs=bool(climbs)))
        assert ("`--budget 20min` keeps to a time" in text.getvalue()) == wanted
        assert ("or --climb" in text.getvalue()) == (wanted and not climbs)


def test_questions_left_out_for_their_cost_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(show, "OUT", Console(file=text, width=80))
    nothing = Answered(())
    show._show_evidence(
        (
            Evidence("accuracy", "Where it is right", "?", Answered((), ("It is right.", "More."))),
            Evidence("structure", "Structure", "?", nothing, absent="the answers are no JSON"),
            Evidence("update", "Update", "?", nothing, f"{NOT_ASKED}too dear", {}, 18_660),
            Evidence("fragility", "Fragility", "?", nothing, f"{NOT_ASKED}too dear", {}, 57_657),
        )
    )
    told = " ".join(text.getvalue().split())
    assert "Where it is right: It is right. (and 1 more) Structure: not answered: the" in told
    assert "are kept for questions: fragility 57,657, update 18,660;" in told
    assert "too dear" not in told


def test_facts_have_the_digits_that_say_something(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(show, "OUT", Console(file=text, width=80))
    facts = {"share": 0.5233644859813084, "tokens": {"p90": 25.099999999999994}, "rows": 1200}
    show.show_mapping({**facts, "bytes_free": 123456.78, "exact": True, "name": "a.b", "none": 0.0})
    assert text.getvalue().splitlines() == [
        "share: 0.5234",
        "tokens",
        "  p90: 25.1",
        "rows: 1200",
        "bytes free: 123,456.8",
        "exact: True",
        "name: a.b",
        "none: 0",
    ]
