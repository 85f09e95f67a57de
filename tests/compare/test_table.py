"""Records to table: seeds joined, pairs on the same rows, the published schema, bad records."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import jsonschema
import numpy as np
import pytest
from tests.compare.planted import CONTEXT, SPEC, compare, make_record, make_rows, plant

from tunewise.compare.contract import Comparison, Role, SliceScore
from tunewise.compare.entries import SEED_DEVIATION, unseen_deviation
from tunewise.compare.table import build_comparison, gather_details
from tunewise.compare.terminal import table_rows
from tunewise.errors import RunError
from tunewise.measure.records import FitRecord, SkippedMethod
from tunewise.numerics.pairs import holm, paired_difference
from tunewise.task.types import Kind, Row, TaskSpec

TRUTH = {
    "majority": 0.33,
    "tfidf": 0.7,
    "zero_shot": 0.59,
    "few_shot": 0.65,
    "soft_prompt": 0.86,
    "prefix": 0.87,
    "lora": 0.93,
    "full": 0.92,
}


def schema() -> dict[str, object]:
    text = resources.files("tunewise.compare").joinpath("templates/schema.json").read_text("utf-8")
    loaded: dict[str, object] = json.loads(text)
    return loaded


@pytest.fixture(scope="module")
def whole() -> Comparison:
    return compare(
        TRUTH,
        120,
        seeds=3,
        skipped=[SkippedMethod("lead", "only for summaries")],
        domains=("books", "films"),
    )


def test_is_valid_json_of_the_published_schema(whole: Comparison) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    plain = json.loads(json.dumps(whole.as_dict(), allow_nan=False))
    jsonschema.validate(plain, schema())
    assert plain == whole.as_dict()
    assert plain["schema"] == 1
    assert plain["skipped"] == [{"method": "lead", "reason": "only for summaries"}]
    assert plain["budget"] == {"unit": "token_passes", "per_method": 400_000}


def test_schema_names_every_field_and_no_other(whole: Comparison) -> None:
    described = schema()
    definitions = described["$defs"]
    assert isinstance(definitions, dict)
    plain = whole.as_dict()
    assert set(described["required"]) == set(plain)  # type: ignore[call-overload]  # a list
    assert set(definitions["entry"]["required"]) == set(plain["entries"][0])
    assert set(definitions["pair"]["required"]) == set(plain["pairs"][0])
    assert set(definitions["recommendation"]["required"]) == set(plain["recommendation"])


@pytest.mark.parametrize("field", ["entries", "recommendation", "command"])
def test_schema_refuses_what_lacks_a_field(whole: Comparison, field: str) -> None:
    plain = whole.as_dict()
    del plain[field]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema())


def test_numbers_that_are_not_finite_become_null() -> None:
    rows = make_rows(6)
    record = make_record("lora", [1.0] * 6, rows)
    record = replace(record, curve=({"step": 0.0, "train_loss": float("nan")},))
    plain = build_comparison(SPEC, [record], [], CONTEXT, rows).as_dict()
    assert plain["entries"][0]["curve"] == {"0": [{"step": 0.0, "train_loss": None}]}
    json.dumps(plain, allow_nan=False)


def test_one_entry_per_method_best_first(whole: Comparison) -> None:
    values = [entry.test.value for entry in whole.entries]
    assert values == sorted(values, reverse=True)
    assert {entry.method for entry in whole.entries} == set(TRUTH)
    lora = whole.entry("lora")
    assert lora.seeds == (0, 1, 2)
    assert lora.test.n == 120
    assert lora.fit.seconds == pytest.approx(101.0)
    assert lora.fit.peak_bytes == 1_000_000_002
    assert len(lora.seed_values) == 3
    assert list(lora.curve) == ["0", "1", "2"]
    with pytest.raises(KeyError):
        whole.entry("lead")


def test_equal_scores_put_the_cheaper_first() -> None:
    rows = make_rows(40)
    right = [1.0] * 30 + [0.0] * 10
    order = ["full", "lora", "few_shot", "prefix", "zero_shot", "soft_prompt", "tfidf"]
    records = [make_record(method, right, rows) for method in order]
    made = build_comparison(SPEC, records, [], CONTEXT, rows)
    expected = ["tfidf", "zero_shot", "few_shot", "soft_prompt", "prefix", "lora", "full"]
    assert [entry.method for entry in made.entries] == expected


def test_chosen_seed_is_best_on_validation_and_the_lowest_of_equals() -> None:
    rows = make_rows(10)
    shares = {2: 0.9, 0: 0.7, 1: 0.9}
    fits = [
        make_record("lora", [1.0] * (5 + seed) + [0.0] * (5 - seed), rows, seed=seed, validation=v)
        for seed, v in shares.items()
    ]
    entry = build_comparison(SPEC, fits, [], CONTEXT, rows).entry("lora")
    assert (entry.chosen_seed, entry.adaptation) == (1, "adaptations/lora-1")
    assert entry.settings["seed_of"] == 1
    assert entry.seed_values == (0.5, 0.6, 0.7)
    assert entry.test.value == pytest.approx(0.6)
    assert entry.validation is not None
    assert entry.validation.value == pytest.approx(2.5 / 3)


def test_no_validation_rows_is_absent_and_not_zero() -> None:
    rows = make_rows(5)
    record = replace(make_record("tfidf", [1.0] * 5, rows), validation=())
    made = build_comparison(SPEC, [record], [], CONTEXT, rows)
    assert made.entry("tfidf").validation is None
    assert table_rows(made)[1][0][4] == "not measured"


def test_pairs_are_on_rows_and_every_two_methods(whole: Comparison) -> None:
    records, _ = plant(TRUTH, 120, seeds=3)
    scores = {
        method: np.array([[r.score for r in f.test] for f in records if f.method == method])
        for method in TRUTH
    }
    assert len(whole.pairs) == 8 * 7 // 2
    place = {entry.method: index for index, entry in enumerate(whole.entries)}
    for pair in whole.pairs:
        assert place[pair.a] < place[pair.b]
        found = paired_difference(scores[pair.a], scores[pair.b])
        assert pair.difference == pytest.approx(found.difference)
        assert (pair.low, pair.high, pair.p_value) == (found.low, found.high, found.p_value)
    best = [pair for pair in whole.pairs if pair.a == whole.recommendation.best]
    assert len(best) == 7
    assert [pair.p_value_holm for pair in best] == holm([pair.p_value for pair in best])
    rest = [pair for pair in whole.pairs if pair.a != whole.recommendation.best]
    assert {pair.p_value_holm for pair in rest} == {None}


def test_a_method_with_one_fit_is_allowed_for_in_a_run_of_several_seeds() -> None:
    """A climb fits what leads with every seed, and the others with the first alone."""
    records, rows = plant({"zero_shot": 0.6, "soft_prompt": 0.8, "lora": 0.8}, 400, seeds=3)
    kept = [each for each in records if each.method != "lora" or each.seed == 0]
    found = build_comparison(SPEC, kept, (), replace(CONTEXT, seeds=(0, 1, 2)), rows)
    pairs = {frozenset((pair.a, pair.b)): pair for pair in found.pairs}
    assert pairs[frozenset(("soft_prompt", "lora"))].seed_deviation >= SEED_DEVIATION
    assert pairs[frozenset(("zero_shot", "lora"))].seed_deviation >= SEED_DEVIATION
    assert pairs[frozenset(("zero_shot", "soft_prompt"))].seed_deviation < SEED_DEVIATION
    assert any("One seed only" in told for told in found.recommendation.warnings)


@pytest.mark.parametrize(
    ("forward", "allowed"),
    [(400_000, 0.015), (50_000, 0.015), (6_250, 0.03), (1_852, 0.045), (10, 0.06), (0, 0.06)],
)
def test_short_fits_are_allowed_more(forward: int, allowed: float) -> None:
    records, rows = plant({"zero_shot": 0.6, "lora": 0.8}, 100)
    short = [replace(each, forward_tokens=forward) for each in records]
    found = build_comparison(SPEC, short, (), CONTEXT, rows)
    entries = {entry.method: entry for entry in found.entries}
    assert unseen_deviation(entries["lora"]) == pytest.approx(allowed, rel=1e-3)
    assert unseen_deviation(entries["zero_shot"]) == 0.0
    (warning,) = (told for told in found.recommendation.warnings if "One seed only" in told)
    assert f"allow for {100 * allowed:.1f} points" in warning


def test_rows_of_a_group_are_no_independent_rows() -> None:
    """Ten rows of each of forty texts, answered alike, say what forty rows say."""
    truth = {"zero_shot": 0.6, "lora": 0.8}
    few, rows = plant(truth, 40)
    copies = {
        f"{key}-{n}": replace(row, id=f"{key}-{n}", group=key)
        for key, row in rows.items()
        for n in range(10)
    }
    many = [
        replace(
            record,
            test=tuple(
                replace(result, id=f"{result.id}-{n}") for result in record.test for n in range(10)
            ),
        )
        for record in few
    ]
    alone = build_comparison(SPEC, few, (), CONTEXT, rows)
    grouped = build_comparison(SPEC, many, (), CONTEXT, copies)
    for one, other in zip(alone.entries, grouped.entries, strict=True):
        assert one.test.value == pytest.approx(other.test.value)
        width = other.test.high - other.test.low
        assert width == pytest.approx(one.test.high - one.test.low, rel=0.25)
    (one,), (other,) = alone.pairs, grouped.pairs
    assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.25)
    assert other.row_deviation / 20 == pytest.approx(one.row_deviation / 40**0.5, rel=0.1)
    assert other.p_value > one.p_value / 4


def test_slices_tell_what_their_rows_are_worth() -> None:
    """Two seeds; of each label four groups of two rows, both right, both wrong, or one of them."""
    rows = make_rows(24, domains=("books", None))
    whole = {key: replace(row, group=f"{at % 12}") for at, (key, row) in enumerate(rows.items())}
    first = [1.0] * 6 + [0.0] * 6 + [1.0] * 3 + [0.0] * 9
    records = [
        make_record("lora", right, rows, seed=seed)
        for seed, right in enumerate((first, [1.0] * 24))
    ]
    entry = build_comparison(SPEC, records, [], CONTEXT, whole).entry("lora")
    assert entry.by_label is not None
    for place, label in enumerate(("negative", "neutral", "positive")):
        found = entry.by_label[label]
        means = [(first[at] + 1) / 2 for at in range(place, 24, 3)]
        by_group = [(means[at] + means[at + 4]) / 2 for at in range(4)]
        # Variance of the mean of four groups over that of the mean of eight rows.
        worth = (np.var(by_group, ddof=1) / 4) / (np.var(means, ddof=1) / 8)
        assert (found.n, found.groups) == (8, 4)
        assert found.value == pytest.approx(np.mean(means))
        assert found.rows_worth_one == pytest.approx(min(max(worth, 1.0), 2.0))
    assert entry.by_domain is not None
    assert (entry.by_domain["books"].n, entry.by_domain["books"].groups) == (12, 6)
    plain = build_comparison(SPEC, records, [], CONTEXT, rows).entry("lora")
    assert plain.by_label is not None
    assert plain.by_label["negative"] == SliceScore(entry.by_label["negative"].value, 8, None, 1.0)


def test_validation_scores_know_the_groups_that_their_results_tell() -> None:
    rows = make_rows(6)
    record = make_record("lora", [1.0] * 6, rows, validation=0.6)
    told = tuple(replace(each, group=f"{at // 10}") for at, each in enumerate(record.validation))
    alone, grouped = (
        build_comparison(SPEC, [each], [], CONTEXT, rows).entry("lora").validation
        for each in (record, replace(record, validation=told))
    )
    assert alone is not None
    assert grouped is not None
    assert (grouped.value, grouped.n) == (alone.value, alone.n)
    # Ten groups of ten rows, all of a group right or all wrong.
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_recall_per_label_and_score_per_domain_by_hand() -> None:
    """Labels and domains take turns; the first half is right."""
    rows = make_rows(12, domains=("books", "films"))
    record = make_record("lora", [1.0] * 6 + [0.0] * 6, rows)
    entry = build_comparison(SPEC, [record], [], CONTEXT, rows).entry("lora")
    assert entry.by_label is not None
    assert {k: (v.value, v.n) for k, v in entry.by_label.items()} == {
        "negative": (0.5, 4),
        "neutral": (0.5, 4),
        "positive": (0.5, 4),
    }
    assert entry.by_domain is not None
    assert {k: (v.value, v.n) for k, v in entry.by_domain.items()} == {
        "books": (0.5, 6),
        "films": (0.5, 6),
    }
    assert dict(entry.extra) == {"valid": 1.0}


def test_recall_of_several_labels() -> None:
    spec = TaskSpec("tags", Kind.MULTI_LABEL, "Tag it.", ("a", "b", "c"), "label_f1")
    rows = {
        "1": Row("1", "x", "a, b", ("a, b",)),
        "2": Row("2", "y", "b", ("b",)),
    }
    record = make_record("lora", [1.0, 1.0], make_rows(2))
    given = ("b", "b, c")
    test = tuple(
        replace(result, id=row, answer=answer)
        for result, row, answer in zip(record.test, rows, given, strict=True)
    )
    made = build_comparison(spec, [replace(record, test=test)], [], CONTEXT, rows)
    recall = made.entry("lora").by_label
    assert recall is not None
    assert {k: (v.value, v.n) for k, v in recall.items()} == {"a": (0.0, 1), "b": (1.0, 2)}


def test_text_answers_have_no_labels() -> None:
    spec = TaskSpec("summaries", Kind.GENERATION, "Sum it up.", (), "rouge_l")
    rows = make_rows(4)
    made = build_comparison(
        spec, [make_record("lora", [0.2, 0.4, 0.1, 0.3], rows)], [], CONTEXT, rows
    )
    entry = made.entry("lora")
    assert (entry.by_label, entry.by_domain) == (None, None)
    assert entry.test.value == pytest.approx(0.25)


def test_failed_rows_are_counted_over_seeds() -> None:
    rows = make_rows(6)
    fits = [
        make_record(
            "lora", [1, 1, 1, 1, 0, 0], rows, seed=seed, answers=["neutral"] * 4 + [None] * 2
        )
        for seed in (0, 1)
    ]
    entry = build_comparison(SPEC, fits, [], CONTEXT, rows).entry("lora")
    assert (entry.test.n, entry.test.n_failed, entry.distinct_answers) == (6, 4, 1)


def test_roles_come_from_parts_and_work(whole: Comparison) -> None:
    roles = {entry.method: entry.role for entry in whole.entries}
    assert roles == {
        "majority": Role.CONSTANT,
        "tfidf": Role.SHALLOW,
        "zero_shot": Role.UNTOUCHED,
        "few_shot": Role.PROMPT,
        **dict.fromkeys(("soft_prompt", "prefix", "lora", "full"), Role.TRAINED),
    }


def test_a_name_decides_nothing() -> None:
    """Renamed methods get the same roles; a calibrated base is still the untouched one."""
    records, rows = plant(TRUTH, 60)
    renamed = [replace(record, method=record.method[::-1]) for record in records]
    renamed = [
        replace(record, forward_tokens=9_000) if record.method == "tohs_orez" else record
        for record in renamed
    ]
    made = build_comparison(SPEC, renamed, [], CONTEXT, rows)
    assert made.entry("tohs_orez").role is Role.UNTOUCHED
    assert made.entry("tohs_wef").role is Role.PROMPT
    assert made.entry("ytirojam").role is Role.CONSTANT


def test_examples_alone_are_not_the_untouched_base() -> None:
    rows = make_rows(9)
    record = replace(make_record("few_shot", [1.0] * 9, rows), notes={"demonstrations": 4})
    entry = build_comparison(SPEC, [record], [], CONTEXT, rows).entry("few_shot")
    assert entry.role is Role.PROMPT
    untold = replace(record, notes={}, settings={"demonstrations": None})
    assert build_comparison(SPEC, [untold], [], CONTEXT, rows).entries[0].role is Role.PROMPT
    none = replace(untold, notes={"demonstrations": []})
    assert build_comparison(SPEC, [none], [], CONTEXT, rows).entries[0].role is Role.UNTOUCHED


def test_terminal_table(whole: Comparison) -> None:
    headers, lines = table_rows(whole)
    assert {len(line) for line in lines} == {len(headers)}
    assert all(isinstance(cell, str) for line in lines for cell in line)
    marks = {line[1]: line[0] for line in lines}
    assert marks[whole.recommendation.method] == "*"
    assert {name for name, mark in marks.items() if mark == "="} == set(
        whole.recommendation.tied_with
    )
    lora = next(line for line in lines if line[1] == "lora")
    assert lora[2] == "prompt_text + low_rank"
    assert lora[-1] == "9.8 MB"
    assert lora[3].startswith(f"{100 * whole.entry('lora').test.value:.1f} (")


def test_details_hold_the_chosen_seeds_answers() -> None:
    records, rows = plant(TRUTH, 30, seeds=2)
    made = build_comparison(SPEC, records, [], CONTEXT, rows)
    details = gather_details(made, records, tuple(rows.values()), {"rows": 30})
    for entry in made.entries:
        chosen = [r for r in records if (r.method, r.seed) == (entry.method, entry.chosen_seed)]
        assert tuple(details.answers[entry.method].values()) == chosen[0].test


def _twice(records: list[FitRecord]) -> list[FitRecord]:
    return [*records, records[0]]


def _fewer(records: list[FitRecord]) -> list[FitRecord]:
    return [*records[:-1], replace(records[-1], test=records[-1].test[:-1])]


def _shuffled(records: list[FitRecord]) -> list[FitRecord]:
    return [*records[:-1], replace(records[-1], test=records[-1].test[::-1])]


def _no_rows(records: list[FitRecord]) -> list[FitRecord]:
    return [replace(record, test=()) for record in records]


def _unknown(records: list[FitRecord]) -> list[FitRecord]:
    return [replace(r, test=(*r.test[:-1], replace(r.test[-1], id="x9"))) for r in records]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda records: [], "no method could run"),
        (_twice, "two fits of zero_shot with seed 0"),
        (_fewer, "different test rows"),
        (_shuffled, "different test rows"),
        (_no_rows, "no test rows"),
        (_unknown, "x9"),
    ],
)
def test_records_that_cannot_be_compared(spoil, message: str) -> None:  # type: ignore[no-untyped-def]  # parametrised
    records, rows = plant({"zero_shot": 0.5, "lora": 0.9}, 12)
    with pytest.raises(RunError, match=message):
        build_comparison(SPEC, spoil(records), [SkippedMethod("full", "too large")], CONTEXT, rows)


def test_validation_rows_differ_between_seeds() -> None:
    rows = make_rows(4)
    fits = [make_record("lora", [1.0] * 4, rows, seed=seed) for seed in (0, 1)]
    fits[1] = replace(fits[1], validation=fits[1].validation[:-1])
    with pytest.raises(RunError, match="seeds of lora"):
        build_comparison(SPEC, fits, [], CONTEXT, rows)
