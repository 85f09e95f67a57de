"""Priorities keep out, decide what is cheap, and are refused when they cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.compare.planted import CONTEXT, SPEC, compare, plant

from tunewise.compare.changes import break_even
from tunewise.compare.contract import Comparison, Recommendation, Verdict
from tunewise.compare.decide import decide
from tunewise.compare.priorities import Priorities, month_of, priorities_from
from tunewise.compare.recommend import recommend
from tunewise.compare.table import build_comparison, with_evidence
from tunewise.errors import ConfigError
from tunewise.measure.evidence import Answered, Evidence, Measurement

TRUTH = {"majority": 0.33, "tfidf": 0.7, "zero_shot": 0.6, "few_shot": 0.75}
CLEAR = {**TRUTH, "soft_prompt": 0.8, "lora": 0.94, "full": 0.88}
UNTIMED = " (timed at different minutes; --questions cost_to_serve takes turns)."
TIE = {**TRUTH, "soft_prompt": 0.925, "prefix": 0.925, "lora": 0.93, "full": 0.925}


def advised(made: Comparison, base_bytes: int = 0, **wanted: Any) -> Recommendation:
    priorities = Priorities.model_validate(wanted)
    return recommend(made.entries, made.pairs, priorities, (), base_bytes)


def test_without_any_the_recommendation_is_the_tables() -> None:
    made = compare(TIE, 400)
    assert advised(made) == made.recommendation
    assert made.recommendation.priorities == {}


def test_room_keeps_out_what_does_not_fit() -> None:
    made = compare(CLEAR, 800)
    assert made.recommendation.method == "lora"
    # 1,000 domains: 9.8 GB of low-rank changes beside a base of 0.3 GB.
    found = advised(made, 269_000_000, domains=1000, most_gigabytes=2.0)
    assert found.method == "soft_prompt"
    assert "above 2 GB" in found.unmet["lora"][0]
    assert any("lora scores" in each and "does not meet" in each for each in found.reasons)
    assert any("Without these priorities lora would lead" in each for each in found.would_change)
    assert found.priorities == {"domains": 1000, "most_gigabytes": 2.0}


def test_a_minimum_that_nothing_reaches_is_said() -> None:
    found = advised(compare(CLEAR, 800), minimum_quality=99)
    assert found.method == "lora"
    assert "Nothing measured meets the priorities" in found.headline
    assert "below the 99 wanted" in found.unmet["lora"][0]
    assert not any(each.startswith("Ship") for each in found.next_steps)


def test_speed_keeps_out_the_slow() -> None:
    records, rows = plant(CLEAR, 600)
    records = [
        replace(each, milliseconds_per_row=80.0) if each.method == "lora" else each
        for each in records
    ]
    made = build_comparison(SPEC, records, [], CONTEXT, rows)
    found = advised(made, most_milliseconds=50.0)
    assert found.method == "full"
    assert found.unmet == {"lora": ("takes 80.0 ms a request, above 50",)}


def test_requests_decide_what_is_cheap() -> None:
    """At few requests fitting costs most, at many answering does: computed here by hand."""
    records, rows = plant(TIE, 400)
    cost = {"soft_prompt": (100.0, 30.0), "lora": (4000.0, 10.0)}  # seconds a fit, ms a row
    records = [
        replace(each, seconds=cost[each.method][0], milliseconds_per_row=cost[each.method][1])
        for each in records
        if each.method in cost
    ]
    made = build_comparison(SPEC, records, [], CONTEXT, rows)
    few = advised(made, requests_a_month=1000, changes_a_month=1, give_up_points=3)
    many = advised(made, requests_a_month=10_000_000, changes_a_month=1, give_up_points=3)
    assert (few.method, many.method) == ("soft_prompt", "lora")
    # 3,900 s more to fit, 0.02 s less a request.
    wanted = Priorities.model_validate(
        {"requests_a_month": 1000, "changes_a_month": 1, "give_up_points": 3}
    )
    found = decide(made.entries, made.pairs, wanted)
    assert break_even(found, made.entry("lora")) == pytest.approx(3900 / 0.020)
    assert any("Above about 200,000 requests a month lora" in x for x in few.would_change)
    assert any("Below about 200,000 requests a month soft" in x for x in many.would_change)


def test_the_best_prompt_is_held_against_what_was_trained() -> None:
    """lora is clearly better, but a prompt that is slower to answer is quicker to find."""
    records, rows = plant(CLEAR, 600)
    cost = {"few_shot": (10.0, 40.0), "lora": (4000.0, 10.0)}
    records = [
        replace(each, seconds=cost[each.method][0], milliseconds_per_row=cost[each.method][1])
        if each.method in cost
        else each
        for each in records
    ]
    made = build_comparison(SPEC, records, [], CONTEXT, rows)
    found = advised(made, changes_a_month=1)
    assert found.method == "lora"
    (told,) = [each for each in found.would_change if "requests a month" in each]
    # 3,990 s less to fit, 0.03 s more a request.
    assert told.startswith("Below about 140,000 requests a month few_shot")
    assert "; it is lower by " in told


def test_a_month_is_requests_and_refits() -> None:
    entry = compare(CLEAR, 60).entry("lora")
    wanted = Priorities.model_validate(
        {"requests_a_month": 7200, "changes_a_month": 3, "domains": 4, "price_an_hour": 2.0}
    )
    month = month_of(entry, wanted)
    assert month.serve_seconds == pytest.approx(7200 * 12.5 / 1000)
    assert month.fit_seconds == pytest.approx(12 * 100.0)
    assert month.price == pytest.approx(2.0 * (90 + 1200) / 3600)
    yearly = month_of(entry, Priorities.model_validate({}))
    assert yearly.fit_seconds == pytest.approx(100 / 12)
    assert yearly.price is None


def test_nobody_to_fit_again_leaves_what_need_not_be() -> None:
    made = compare(CLEAR, 600)
    found = advised(made, maintainers=0, changes_a_month=1)
    assert found.method == "few_shot"
    assert "must be fitted again" in found.unmet["lora"][0]
    assert advised(made, maintainers=1, changes_a_month=1).method == "lora"
    assert advised(made, maintainers=0).method == "lora"


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ({"notes": {"data_left": True}}, True),
        ({"settings": {"proposer": "https://models.example.org/v1#large"}}, True),
        ({"settings": {"proposer": "http://127.0.0.1:8000/v1#small"}}, False),
        ({"settings": {"proposer": "http://[::1]:8000/v1#small"}}, False),
        ({"settings": {"proposer": "local"}}, False),
        ({"settings": {"proposer": None}}, False),
    ],
)
def test_data_that_may_not_leave(told: dict[str, Any], left: bool) -> None:
    records, rows = plant(CLEAR, 600)
    records = [replace(each, **told) if each.method == "lora" else each for each in records]
    made = build_comparison(SPEC, records, [], CONTEXT, rows)
    assert made.recommendation.method == ("full" if left else "lora")
    assert advised(made, data_may_leave=True).method == "lora"


def test_giving_up_nothing_takes_the_best_and_more_takes_the_cheaper() -> None:
    made = compare(TIE, 400)
    assert advised(made, give_up_points=0).method == "lora"
    assert advised(made, give_up_points=1).method == "soft_prompt"


def test_the_runner_up_is_what_would_be_taken_without_the_first() -> None:
    made = compare(TIE, 400)
    assert made.recommendation.runner_up == "prefix"
    without = [each for each in made.entries if each.method != "soft_prompt"]
    pairs = [each for each in made.pairs if "soft_prompt" not in (each.a, each.b)]
    assert recommend(without, pairs).method == "prefix"
    assert compare({"lora": 0.9}, 100).recommendation.runner_up is None


def test_every_reason_names_its_measurement() -> None:
    found = compare(TIE, 400).recommendation
    assert len(found.reason_sources) == len(found.reasons)
    kinds = {each.measurement for each in found.reason_sources}
    assert kinds == {"accuracy", "paired_difference", "cost"}
    for text, source in zip(found.reasons, found.reason_sources, strict=True):
        assert source.rows == 400
        assert all(name in text for name in source.methods)


def test_what_is_next() -> None:
    assert compare(CLEAR, 800).recommendation.next_steps[-1].startswith("Ship lora")
    few = compare({"zero_shot": 0.8, "lora": 0.85}, 30).recommendation
    assert few.verdict is Verdict.NOT_ENOUGH_DATA
    assert "30 test rows cannot tell" in few.next_steps[0]
    assert not any(each.startswith("Ship") for each in few.next_steps)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[priorities]\nminimum_qualty = 3", "did you mean minimum_quality"),
        ("[priorities]\nminimum_quality = 101", "101"),
        ("[priorities]\nminimum_quality = -1", "-1"),
        ("[priorities]\ndomains = 0", "domains: found 0"),
        ("[priorities]\ndomains = 1.5", "1.5"),
        ('[priorities]\nrequests_a_month = "many"', "many"),
        ("[priorities]\nrequests_a_month = -5", "-5"),
        ("[priorities]\nmost_milliseconds = 0", "most_milliseconds"),
        ("[priorities]\nmost_gigabytes = 0", "most_gigabytes"),
        ("[priorities]\nmaintainers = -1", "maintainers"),
        ("[priorities]\ngive_up_points = 200", "give_up_points"),
        ("[priorities]\nprice_an_hour = -0.1", "price_an_hour"),
        ("[priorities]\nchanges_a_month = -2", "changes_a_month"),
        ("priorities = 3", "expected a table"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "task.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        priorities_from(file, {})
    assert said in str(caught.value)


def test_flags_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "task.toml"
    file.write_text("[priorities]\ndomains = 3\nminimum_quality = 50", encoding="utf-8")
    found = priorities_from(file, {"domains": 7, "maintainers": None})
    assert found.given() == {"domains": 7, "minimum_quality": 50.0}
    assert priorities_from(None, {}) == Priorities.model_validate({})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        priorities_from(None, {"domains": 0, "give_up_points": -1})
    assert "domains" in str(caught.value)
    assert "give_up_points" in str(caught.value)


def test_what_does_not_meet_the_priorities_is_no_cheaper_way_out() -> None:
    made = compare(CLEAR, 600)
    assert any("cheaper answer, take" in each for each in made.recommendation.would_change)
    wanted = 100 * min(each.test.value for each in made.entries if each.method == "lora") - 1
    found = advised(made, minimum_quality=wanted)
    assert found.method == "lora"
    kept_out = set(found.unmet)
    for told in found.would_change:
        assert not any(f"cheaper answer, take {name} " in told for name in kept_out), told


def test_a_break_even_says_how_often_each_domain_is_fitted() -> None:
    records, rows = plant(TIE, 400)
    slow = [
        replace(each, milliseconds_per_row=25.0, seconds=10.0) if each.method == "lora" else each
        for each in records
    ]
    made = build_comparison(SPEC, slow, [], CONTEXT, rows)
    for wanted, words in (
        ({}, "fitted once a year"),
        ({"changes_a_month": 2}, "fitted 2 times a month"),
        ({"changes_a_month": 0.01}, "fitted once a year"),
        ({"domains": 30, "changes_a_month": 2}, "each of 30 domains fitted 2 times a month"),
    ):
        told = [each for each in advised(made, **wanted).would_change if "requests a month" in each]
        assert told, wanted
        assert all(each.endswith(f"{words}{UNTIMED}") for each in told), told


@pytest.mark.parametrize("apart", [True, False])
def test_a_break_even_is_of_times_taken_in_turns(apart: bool) -> None:
    """The table's times are of different minutes; where turns do not part the two, none is told."""
    records, rows = plant(TIE, 400)
    slow = [
        replace(each, milliseconds_per_row=25.0, seconds=10.0) if each.method == "lora" else each
        for each in records
    ]
    made = build_comparison(SPEC, slow, [], CONTEXT, rows)
    chosen = made.recommendation.method
    assert any("against" in each and "ms a request" in each for each in advised(made).would_change)
    times = [
        Measurement(
            "milliseconds_batched", each.method, "milliseconds",
            40.0 if each.method == "lora" else 20.0, 5, "planted", 10.0, 50.0,
        )
        for each in made.entries
    ]  # fmt: skip
    pair = Measurement(
        "break_even_requests", chosen, "requests", 9.0 if apart else None, 5, "planted",
        beside="lora", absent="" if apart else "the two cannot be told apart per request",
    )  # fmt: skip
    asked = Evidence("cost_to_serve", "Cost", "what?", Answered((*times, pair)))
    told = recommend(made.entries, made.pairs, None, (asked,)).would_change
    lines = [each for each in told if "lora takes less of this machine" in each]
    assert len(lines) == apart
    assert all("40.0 against 20.0 ms a request" in each for each in lines)
    assert all(each.endswith("fitted once a year.") for each in lines)


def test_a_crossing_without_limits_is_not_told() -> None:
    """Too many of its drawings do not cross for 95% limits to be had."""
    made = compare(CLEAR, 600)
    sure = Measurement(
        "crossing_rows", "lora", "rows", 120.0, 200, "x", 80.0, 200.0, beside="few_shot"
    )
    for figure, count in ((sure, 1), (replace(sure, low=None, high=None), 0)):
        asked = Evidence("data_need", "Data need", "how many?", Answered((figure,)))
        told = with_evidence(made, (asked,)).recommendation.would_change
        assert sum("above about 120 training rows" in each for each in told) == count
