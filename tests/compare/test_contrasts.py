"""Seven contrasts, every cell a measured figure or the reason why there is none."""

from __future__ import annotations

import dataclasses

import pytest
from tests.compare.planted import compare

from tunewise.compare.changes import crossings
from tunewise.compare.contrasts import Cell, Contrast, contrasts
from tunewise.compare.decide import decide
from tunewise.compare.priorities import Priorities
from tunewise.compare.table import base_bytes, with_evidence
from tunewise.measure.evidence import Answered, Evidence, Measurement, absent

TRUTH = {"zero_shot": 0.6, "soft_prompt": 0.9, "lora": 0.91}
NAMES = [
    "data requirement",
    "training cost",
    "model size",
    "flexibility",
    "performance",
    "scalability",
    "maintenance",
]


def needed() -> Evidence:
    """What `data_need` tells of three entries: one figure, one absent, one not told of."""
    how = "planted"
    return Evidence(
        "data_need",
        "Data need",
        "how many rows?",
        Answered(
            (
                Measurement("rows_needed", "lora", "rows", 410.0, 5, how, 300.0, 600.0),
                absent("rows_needed", "soft_prompt", "rows", "its curve is flat"),
                Measurement(
                    "crossing_rows", "lora", "rows", 420.0, 5, how, 350.0, 500.0,
                    beside="soft_prompt",
                ),
                Measurement(
                    "gain_of_more_rows", "soft_prompt", "score", 0.021, 5, how, 0.011, 0.03,
                    part={"more_rows": 1000},
                ),
            )
        ),
    )  # fmt: skip


def test_all_seven_for_every_entry() -> None:
    made = compare(TRUTH, 300)
    found = contrasts(made)
    assert [each.name for each in found] == NAMES
    assert all(len(each.cells) == 3 for each in found)
    assert all(cell.text for each in found for cell in each.cells)


def test_figures_are_the_tables() -> None:
    made = compare(TRUTH, 300)
    cells = {each.name: each.cells for each in contrasts(made)}
    for place, entry in enumerate(made.entries):
        test = entry.test
        told = f"{100 * test.value:.1f} ({100 * test.low:.1f} to {100 * test.high:.1f}), n = 300"
        assert cells["performance"][place].text == told
    lora = [entry.method for entry in made.entries].index("lora")
    assert base_bytes(made.context.base) == 2 * 134_515_008
    # 0.27 GB of the base and 1,000 times 9.8 MB.
    assert cells["scalability"][lora].text.startswith("10 GB, 12.5 ms")
    assert cells["model size"][lora].text == "9.8 MB, 2.4 million trained"


def test_what_was_not_asked_says_so() -> None:
    cells = {each.name: each.cells for each in contrasts(compare(TRUTH, 300))}
    assert all(cell.absent for cell in cells["data requirement"])
    assert cells["data requirement"][0].text == "not asked (--questions data_need)"
    assert not any(cell.absent for cell in cells["maintenance"])


def test_evidence_fills_cells_and_reasons_stay() -> None:
    made = with_evidence(compare(TRUTH, 300), [needed()])
    by_method = {
        entry.method: cell
        for entry, cell in zip(made.entries, contrasts(made)[0].cells, strict=True)
    }
    assert by_method["lora"].text == "410 (300 to 600), n = 5"
    assert by_method["soft_prompt"].text == "not measured: its curve is flat"
    assert by_method["zero_shot"].text == "not measured: the question did not take it in"


def test_evidence_changes_what_is_told() -> None:
    made = compare(TRUTH, 300)
    asked = with_evidence(made, [needed()])
    told = asked.recommendation
    assert told.method == made.recommendation.method == "soft_prompt"
    wanted = "lora above about 420 training rows (350 to 500), soft_prompt below"
    assert any(each.startswith(wanted) for each in told.would_change)
    gain = "Collect more rows: another 1,000 would bring 2.1 points (1.1 to 3.0)."
    assert gain in told.next_steps
    assert list(crossings(decide(made.entries, made.pairs), [])) == []


@pytest.mark.parametrize("reason", ["the budget did not pay for it", "one domain only"])
def test_a_question_that_was_left_out_says_why(reason: str) -> None:
    left = dataclasses.replace(needed(), answered=Answered(()), absent=reason)
    made = with_evidence(compare(TRUTH, 300), [left])
    assert {cell.text for cell in contrasts(made)[0].cells} == {f"not measured: {reason}"}


def told(name: str, about: str, unit: str, value: float, n: int, **part: str) -> Measurement:
    return Measurement(name, about, unit, value, n, "planted", part=part)


def asked(question: str, *found: Measurement) -> Evidence:
    return Evidence(question, question, "?", Answered(found))


def test_an_update_that_was_measured_stands_for_maintenance() -> None:
    update = asked(
        "update",
        told("seconds", "lora", "seconds", 300.0, 1, way="fitted_anew"),
        told("seconds", "lora", "seconds", 12.0, 1, way="continued"),
    )
    made = with_evidence(compare(TRUTH, 300), [update])
    cells = dict(zip([e.method for e in made.entries], contrasts(made)[6].cells, strict=True))
    assert cells["lora"].text == "12 s, n = 1"
    assert cells["soft_prompt"].text.startswith("fit again: ")


def test_times_have_the_intervals_that_were_measured() -> None:
    how = "planted"
    evidence = [
        Evidence(question, question, "?", Answered((Measurement(*figure),)))
        for question, figure in (
            ("cost_to_fit", ("seconds", "lora", "seconds", 60.0, 3, how, 45.0, 75.0)),
            (
                "cost_to_serve",
                ("milliseconds_batched", "lora", "milliseconds", 13.0, 5, how, 12.0, 14.0),
            ),
        )
    ]
    made = with_evidence(compare(TRUTH, 300), evidence)
    cells = {each.name: each.cells for each in contrasts(made)}
    lora = [entry.method for entry in made.entries].index("lora")
    told = "1 min 00 s (45 s to 1 min 15 s), n = 3"
    assert cells["training cost"][lora].text.endswith(told)
    assert cells["training cost"][lora].measurement == "cost_to_fit"
    assert "13.0 ms (12.0 to 14.0)" in cells["scalability"][lora].text
    assert cells["scalability"][lora].measurement == "cost_to_serve"
    other = 1 - lora if lora < 2 else 0
    assert cells["training cost"][other].measurement == "cost"
    assert "(" not in cells["scalability"][other].text


def test_rows_that_may_be_wrong_are_counted_over_the_splits() -> None:
    quality = asked(
        "data_quality",
        told("label_candidates", "tfidf", "share", 0.01, 1000, split="train"),
        told("label_candidates", "tfidf", "share", 0.04, 100, split="test"),
    )
    steps = with_evidence(compare(TRUTH, 300), [quality]).recommendation.next_steps
    assert steps[0].startswith("Look at the 14 rows whose answer may be wrong")


def test_a_reason_that_all_share_is_told_once() -> None:
    cell, other = Cell("not measured: a", "x", absent=True), Cell("3", "x")
    assert Contrast("n", "a", (cell, cell)).reason == "not measured: a"
    assert Contrast("n", "a", (cell, other)).reason is None
    assert Contrast("n", "a", (other, other)).reason is None
    made = compare(TRUTH, 300)
    untold = [each for each in contrasts(made) if each.reason]
    assert [each.name for each in untold] == ["data requirement", "flexibility"]


@pytest.mark.parametrize(("agrees", "first"), [(0.95, True), (0.74, False)])
def test_a_judge_that_errs_itself_is_not_put_first(agrees: float, first: bool) -> None:
    quality = asked(
        "data_quality",
        told("label_candidates", "tfidf", "share", 0.01, 1000, split="train"),
        told("judge_agrees", "tfidf", "share", agrees, 1000),
    )
    steps = with_evidence(compare(TRUTH, 300), [quality]).recommendation.next_steps
    told_of = [step for step in steps if "10 rows whose answer may be wrong" in step]
    assert len(told_of) == 1
    assert (told_of[0] == steps[0] and told_of[0].startswith("Look at")) is first
    assert ("agrees with 74%" in told_of[0]) is not first


def test_latency_is_that_of_a_request_alone_where_it_was_measured() -> None:
    made = compare(TRUTH, 300)
    wanted = Priorities.model_validate({"most_milliseconds": 100})
    slow = asked("cost_to_serve", told("milliseconds_alone", "soft_prompt", "milliseconds", 180, 3))
    assert with_evidence(made, [], wanted).recommendation.method == "soft_prompt"
    found = with_evidence(made, [slow], wanted).recommendation
    assert found.method == "lora"
    assert found.unmet == {"soft_prompt": ("takes 180.0 ms a request, above 100",)}
