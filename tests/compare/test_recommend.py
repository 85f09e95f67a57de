"""The recommendation on tables whose truth is planted, and its sentences against the numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from tests.compare.planted import (
    CONTEXT,
    LABELS,
    SPEC,
    compare,
    make_record,
    make_rows,
    plant,
)

from tunewise.compare.contract import Comparison, SliceScore, Verdict
from tunewise.compare.entries import join_seeds
from tunewise.compare.next_steps import _labels
from tunewise.compare.recommend import recommend
from tunewise.compare.table import build_comparison
from tunewise.errors import RunError
from tunewise.measure.records import FitRecord
from tunewise.task.types import Row

LOW = {"majority": 0.33, "tfidf": 0.7, "zero_shot": 0.59, "few_shot": 0.65}
CLEAR = {**LOW, "soft_prompt": 0.83, "prefix": 0.84, "lora": 0.93, "full": 0.87}
TIE = {**LOW, "soft_prompt": 0.922, "prefix": 0.923, "lora": 0.93, "full": 0.92}


def planted(truth: Mapping[str, float], count: int, **more: float) -> Comparison:
    return compare(truth, count, **more)  # type: ignore[arg-type]  # passed on


def test_a_clear_winner_is_taken() -> None:
    found = planted(CLEAR, 800).recommendation
    assert (found.method, found.best, found.tied_with) == ("lora", "lora", ())
    assert found.verdict is Verdict.ADAPT
    assert "take lora" in found.headline
    assert "Fine-tune" in found.headline


def test_of_those_that_tie_the_cheapest_is_taken() -> None:
    found = planted(TIE, 400, seeds=3).recommendation
    assert found.verdict is Verdict.THEY_TIE
    assert (found.method, found.best) == ("soft_prompt", "lora")
    assert found.tied_with == ("prefix", "lora", "full")  # cheapest first
    assert "leave the weights alone" in found.headline


def test_an_untouched_base_that_ties_means_do_not_adapt() -> None:
    truth = {**LOW, "zero_shot": 0.915, "few_shot": 0.92, "soft_prompt": 0.91, "lora": 0.92}
    found = planted(truth, 800, agree=0.95).recommendation
    assert (found.method, found.verdict) == ("zero_shot", Verdict.DO_NOT_ADAPT)
    assert found.best == "few_shot"


def test_a_classifier_that_ties_is_enough() -> None:
    truth = {**LOW, "tfidf": 0.92, "soft_prompt": 0.92, "lora": 0.925}
    found = planted(truth, 800, agree=0.95).recommendation
    assert (found.method, found.verdict) == ("tfidf", Verdict.CLASSIFIER)


@pytest.mark.parametrize("rows", [12, 30, 48])
def test_few_rows_tell_nothing(rows: int) -> None:
    truth = {"zero_shot": 0.8, "few_shot": 0.8, "soft_prompt": 0.82, "lora": 0.85}
    found = planted(truth, rows).recommendation
    assert found.verdict is Verdict.NOT_ENOUGH_DATA
    assert "better than zero_shot" in found.headline
    assert any(f"Only {rows} test rows" in line for line in found.warnings)
    assert f"{rows} test rows" in found.headline


def test_a_loose_tie_is_not_do_not_adapt() -> None:
    """120 rows that disagree often: lora might be far better, and nobody knows."""
    truth = {"zero_shot": 0.8, "lora": 0.82}
    found = planted(truth, 120, agree=0.2).recommendation
    assert found.verdict is Verdict.NOT_ENOUGH_DATA


def test_a_tie_only_because_seeds_lie_far_apart_is_no_reason_to_take_it() -> None:
    rows = make_rows(400)
    good = [1.0] * 370 + [0.0] * 30
    records = [make_record("lora", good, rows, seed=seed) for seed in range(3)]
    records += [make_record("soft_prompt", good, rows, seed=seed) for seed in range(3)]
    for seed, right in enumerate((370, 250, 352)):
        scores = [1.0] * right + [0.0] * (400 - right)
        record = make_record("few_shot", scores, rows, seed=seed)
        records.append(replace(record, notes={"demonstrations": 4}))
    comparison = build_comparison(SPEC, records, [], CONTEXT, rows)
    found = comparison.recommendation
    pair = next(p for p in comparison.pairs if {p.a, p.b} == {"lora", "few_shot"})
    assert pair.low < 0 < pair.high
    assert abs(pair.difference) > 0.05
    assert "few_shot" in found.tied_with
    assert found.method == "soft_prompt"
    assert any("few_shot is cheaper still" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("seeds", "count", "why"),
    [
        ((340, 376, 370), 400, "its seeds lie 9.0 points apart"),
        ((346,), 400, "400 test rows leave"),
    ],
)
def test_why_training_is_not_shown_to_be_better(
    seeds: tuple[int, ...], count: int, why: str
) -> None:
    rows = make_rows(count)
    # Errors on other rows than the classifier's, so that rows alone leave room for chance.
    records = [
        make_record("lora", [0.0] * (count - right) + [1.0] * right, rows, seed=seed)
        for seed, right in enumerate(seeds)
    ]
    records.append(make_record("tfidf", [1.0] * 336 + [0.0] * (count - 336), rows))
    found = build_comparison(SPEC, records, [], CONTEXT, rows)
    pair = next(each for each in found.pairs if {each.a, each.b} == {"lora", "tfidf"})
    assert pair.low < 0 < pair.high
    told = [line for line in found.recommendation.warnings if "is not shown to be better" in line]
    assert len(told) == 1
    assert told[0].startswith("lora is not shown to be better than tfidf: ")
    assert why in told[0]


def test_few_rows_can_tell_a_large_difference() -> None:
    found = planted({"majority": 0.33, "zero_shot": 0.2, "lora": 0.95}, 40).recommendation
    assert (found.method, found.verdict) == ("lora", Verdict.ADAPT)
    assert any("Only 40 test rows" in line for line in found.warnings)


def test_nothing_beats_a_constant_answer() -> None:
    truth = {"majority": 0.33, "zero_shot": 0.34, "soft_prompt": 0.33, "lora": 0.34}
    found = planted(truth, 900).recommendation
    assert found.verdict is Verdict.NOTHING_LEARNED
    assert found.method == "majority"
    assert "Nothing learned" in found.headline


def test_one_method_has_nothing_to_be_compared_with() -> None:
    found = planted({"lora": 0.9}, 200).recommendation
    assert (found.method, found.verdict) == ("lora", Verdict.NOT_ENOUGH_DATA)
    assert "Only lora was measured" in found.headline


def test_cost_decides_by_ladder_then_tokens_then_bytes_then_work() -> None:
    rows = make_rows(60)
    right = [1.0] * 55 + [0.0] * 5
    prefix = make_record("prefix", right, rows)
    shorter = replace(prefix, method="a", prompt_tokens_per_request=5.0, bytes_on_disk=10**9)
    smaller = replace(prefix, method="b", bytes_on_disk=7)
    quicker = replace(prefix, method="c", flops=7)
    for cheaper in (shorter, smaller, quicker):
        made = build_comparison(SPEC, [prefix, cheaper], [], CONTEXT, rows)
        assert made.recommendation.method == cheaper.method
    cheap_but_high = replace(prefix, method="d", parts=("low_rank",), bytes_on_disk=1)
    made = build_comparison(SPEC, [prefix, cheap_but_high], [], CONTEXT, rows)
    assert made.recommendation.method == "prefix"


def test_is_pure_and_ignores_order_and_direction() -> None:
    made = planted(TIE, 200)
    flipped = [
        replace(
            pair, a=pair.b, b=pair.a, difference=-pair.difference, low=-pair.high, high=-pair.low
        )
        for pair in reversed(made.pairs)
    ]
    again = recommend(made.entries[::-1], flipped)
    assert again == recommend(made.entries, made.pairs) == made.recommendation


def test_missing_entries_or_pairs_are_refused() -> None:
    made = planted(TIE, 60)
    with pytest.raises(RunError, match="no entry"):
        recommend([], [])
    with pytest.raises(RunError, match="no paired difference"):
        recommend(made.entries, made.pairs[1:])


def test_sentences_carry_the_tables_numbers() -> None:
    made = planted(CLEAR, 844)
    lora, pairs = made.entry("lora"), {(pair.a, pair.b): pair for pair in made.pairs}
    gap = pairs[("lora", "zero_shot")]
    test = lora.test
    first, second, *_ = made.recommendation.reasons
    assert first == (
        f"lora scores {100 * test.value:.1f} ({100 * test.low:.1f} to {100 * test.high:.1f}) on "
        "844 test rows (accuracy)."
    )
    assert second.startswith("zero_shot (the untouched base) scores 59.0")
    assert f"{100 * gap.difference:.1f} points ({100 * gap.low:.1f} to" in second
    assert "p < 0.001" in second
    text = " ".join(made.recommendation.would_change)
    assert "soft_prompt x 10 = 480 kB" in text
    assert "lora x 10 = 98 MB" in text
    assert "full x 10 = 2.7 GB" in text


def test_the_same_score_is_not_called_higher() -> None:
    second = planted({"tfidf": 0.79, "zero_shot": 0.79}, 100).recommendation.reasons[1]
    assert second.startswith("zero_shot (the untouched base) scores 79.0 (")
    assert ", as tfidf does: they are 0.0 points (" in second
    assert second.endswith(" apart.")


def test_rows_needed_would_indeed_settle_it() -> None:
    """With as many rows as it asks for, planted the same way, the tie is gone."""
    truth = {"zero_shot": 0.5, "soft_prompt": 0.88, "lora": 0.91}
    text = " ".join(planted(truth, 150, seeds=3).recommendation.would_change)
    asked = re.search(r"With about ([\d,]+) test rows", text)
    assert asked is not None
    rows = int(asked.group(1).replace(",", ""))
    assert rows > 150
    again = planted(truth, rows, seeds=3).recommendation
    assert (again.verdict, again.method) == (Verdict.ADAPT, "lora")


def test_warns_of_what_did_not_learn_failed_or_hurt() -> None:
    records, rows = plant({"zero_shot": 0.7, "few_shot": 0.5, "lora": 0.9}, 300)
    same = make_record(
        "soft_prompt",
        [float(row.output == LABELS[0]) for row in rows.values()],
        rows,
        answers=[LABELS[0]] * 300,
    )
    broken = make_record(
        "full",
        [1.0] * 200 + [0.0] * 100,
        rows,
        answers=["neutral", "positive"] * 100 + [None] * 100,
    )
    found = build_comparison(SPEC, [*records, same, broken], [], CONTEXT, rows).recommendation
    text = "\n".join(found.warnings)
    assert "soft_prompt did not learn: it gives every test row the same answer." in text
    assert "full failed on 100 of 300 answers" in text
    assert "few_shot made the base worse: it is below zero_shot by 20.0 points" in text
    assert "One seed only" in text


def test_a_prompt_that_says_one_thing_did_not_fail_to_learn() -> None:
    _, rows = plant({"zero_shot": 0.7, "lora": 0.9}, 300)
    right = [float(row.output == LABELS[0]) for row in rows.values()]
    same = make_record("zero_shot", right, rows, answers=[LABELS[0]] * 300)
    found = build_comparison(SPEC, [same], [], CONTEXT, rows).recommendation
    told = "zero_shot does not tell rows apart: it gives every test row the same answer."
    assert told in found.warnings


def test_of_many_methods_one_below_the_base_may_be_chance() -> None:
    """Four set beside the base at the 5% level: p = 0.04 of one of them shows nothing."""
    truth = {"zero_shot": 0.8, "few_shot": 0.8, "soft_prompt": 0.8, "lora": 0.8, "full": 0.95}
    found = planted(truth, 400)
    both = {"zero_shot", "few_shot"}
    pairs = []
    for each in found.pairs:
        if {each.a, each.b} == both:
            assert (each.a, each.p_value_holm) == ("zero_shot", None)
            each = replace(each, difference=0.03, low=0.001, high=0.06, p_value=0.04)
        pairs.append(each)
    told = "\n".join(recommend(found.entries, pairs).warnings)
    assert "made the base worse" not in told
    few = [each for each in found.entries if each.method in {*both, "full"}]
    kept = [each for each in pairs if {each.a, each.b} <= {*both, "full"}]
    assert "few_shot made the base worse" in "\n".join(recommend(few, kept).warnings)


def test_only_labels_that_are_surely_weak_are_to_have_more_rows() -> None:
    """The worst of forty equally hard labels lies far below their mean by chance alone."""
    found = planted({"zero_shot": 0.6, "lora": 0.85}, 400)
    lora = found.entries[0]
    numbers = np.random.default_rng(0)
    alike = {f"l{n}": SliceScore(numbers.binomial(10, 0.85) / 10, 10) for n in range(40)}
    assert min(each.value for each in alike.values()) < 0.7
    weak = alike | {"weak": SliceScore(0.1, 10)}
    for labels, named in ((alike, []), (weak, ["weak"])):
        entries = (replace(lora, by_label=labels), *found.entries[1:])
        steps = recommend(entries, found.pairs).next_steps
        told = [each for each in steps if each.startswith("Add rows of label")]
        assert [each.split()[4].rstrip(":") for each in told] == named


def grouped_labels(numbers: np.random.Generator) -> tuple[FitRecord, dict[str, Row]]:
    """Three equally hard labels, each in 10 groups of 16 rows that are mostly answered alike."""
    rows = make_rows(480)
    groups = [f"{at % 3} {at // 48}" for at in range(480)]
    level = {name: numbers.beta(0.85, 0.15) for name in sorted(set(groups))}
    right = [float(numbers.random() < level[name]) for name in groups]
    named = zip(rows.items(), groups, strict=True)
    return make_record("lora", right, rows), {
        key: replace(row, group=name) for (key, row), name in named
    }


def test_labels_whose_rows_stand_in_groups_are_not_called_weak_by_chance() -> None:
    """Of 5% that may be, rows taken for independent ones made 22%."""
    numbers = np.random.default_rng(1)
    called = {"groups": 0, "rows": 0}
    for _ in range(120):
        record, rows = grouped_labels(numbers)
        entry = join_seeds(SPEC, [record], rows)
        assert entry.by_label is not None
        assert {(each.n, each.groups) for each in entry.by_label.values()} == {(160, 10)}
        alone = {name: SliceScore(each.value, each.n) for name, each in entry.by_label.items()}
        called["groups"] += bool(list(_labels(entry)))
        called["rows"] += bool(list(_labels(replace(entry, by_label=alone))))
    assert called["groups"] / 120 <= 0.07
    assert called["rows"] / 120 >= 0.2


def test_a_label_that_is_weak_in_many_groups_is_named() -> None:
    """Half of the groups of a label are wrong, and all of the others' right."""
    rows = make_rows(480)
    whole = {key: replace(row, group=f"{at // 6}") for at, (key, row) in enumerate(rows.items())}
    right = [float(at % 3 > 0 or at // 6 % 2) for at in range(480)]
    entry = join_seeds(SPEC, [make_record("lora", right, rows)], whole)
    (told,) = _labels(entry)
    assert told.startswith("Add rows of label negative: lora finds 50.0 of 100 on 160 test rows")


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((4, 9), "lora and full trained for only 4 to 9 steps: too few"),
        ((1, 44), "lora trained for only 1 step: too few"),
        ((16, 44), None),
    ],
)
def test_warns_of_training_that_hardly_began(steps: tuple[int, int], told: str | None) -> None:
    records, rows = plant({"zero_shot": 0.7, "lora": 0.7, "full": 0.7}, 300)
    taken = dict(zip(("lora", "full"), steps, strict=True))
    records = [
        replace(each, notes={"steps": taken[each.method]}) if each.method in taken else each
        for each in records
    ]
    advice = build_comparison(SPEC, records, [], CONTEXT, rows).recommendation
    text = "\n".join(advice.warnings)
    assert ("trained for only" in text) == (told is not None)
    assert any("larger --budget" in step for step in advice.next_steps) == (told is not None)
    assert told is None or told in text


@pytest.mark.parametrize(("steps", "began"), [(6, False), (40, True)])
def test_a_verdict_against_training_that_hardly_began_is_not_final(steps: int, began: bool) -> None:
    records, rows = plant({"zero_shot": 0.6, "tfidf": 0.9, "lora": 0.6}, 300)
    records = [
        replace(each, notes={"steps": steps}) if each.method == "lora" else each for each in records
    ]
    advice = build_comparison(SPEC, records, [], CONTEXT, rows).recommendation
    assert advice.verdict is Verdict.CLASSIFIER
    assert ("for this budget only: lora hardly began to train" in advice.headline) is not began
    assert any(step.startswith("Ship tfidf") for step in advice.next_steps) is began


def test_warns_of_seeds_far_apart() -> None:
    rows = make_rows(200)
    fits = [
        make_record("lora", [1.0] * share + [0.0] * (200 - share), rows, seed=seed)
        for seed, share in enumerate((160, 120))
    ]
    text = "\n".join(build_comparison(SPEC, fits, [], CONTEXT, rows).recommendation.warnings)
    assert "The seeds of lora lie 20.0 points apart" in text
    assert "One seed only" not in text
    assert "Only" not in text


def test_warns_of_overfitting() -> None:
    rows = make_rows(200)
    fit = make_record("lora", [1.0] * 120 + [0.0] * 80, rows, validation=0.99)
    text = "\n".join(build_comparison(SPEC, [fit], [], CONTEXT, rows).recommendation.warnings)
    assert "lora scores 99.0 (94.6 to 99.8) on validation and 60.0" in text
