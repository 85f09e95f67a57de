"""Paired differences: coverage, false alarms, hand-computed tests and slow loops.

Seen when this was written (nominal 95%, 400 simulations each): coverage 0.958 to 0.972 with one
seed and n = 100, 0.950 to 0.955 at n = 400; with three seeds 0.968 to 0.990. False alarms of A
against A at the 5% level: 0.3% to 3.3% with one seed, 1.0% to 3.0% with three seeds that differ.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tunewise.numerics.pairs import (
    holm,
    mcnemar,
    paired_difference,
    rows_to_resolve,
    sign_flip,
)


def answers(
    numbers: np.random.Generator, difficulty: np.ndarray, skill: float, seeds: int, spread: float
) -> np.ndarray:
    """0/1 scores (seeds, rows) of a method on rows of this difficulty."""
    level = skill + 1.5 * difficulty + spread * numbers.standard_normal((seeds, 1))
    drawn = numbers.random((seeds, len(difficulty)))
    return (drawn < 1 / (1 + np.exp(-level))).astype(float)


def true_mean(skill: float, spread: float) -> float:
    """Accuracy over all rows and seeds."""
    level = np.random.default_rng(99).standard_normal(500_000) * math.hypot(1.5, spread) + skill
    return float((1 / (1 + np.exp(-level))).mean())


@pytest.mark.parametrize(
    ("rows", "seeds", "skills", "spread"),
    [
        (30, 1, (4.0, 4.0), 0.0),
        (100, 1, (1.5, 1.0), 0.0),
        (400, 1, (1.5, 1.5), 0.0),
        (100, 3, (1.5, 1.0), 0.0),
        (100, 3, (1.5, 1.5), 0.2),
    ],
)
def test_coverage_and_false_alarms(
    rows: int, seeds: int, skills: tuple[float, float], spread: float
) -> None:
    numbers = np.random.default_rng(rows + seeds)
    truth = true_mean(skills[0], spread) - true_mean(skills[1], spread)
    held = alarms = 0
    runs = 250
    for _ in range(runs):
        difficulty = numbers.standard_normal(rows)
        a, b = (answers(numbers, difficulty, skill, seeds, spread) for skill in skills)
        found = paired_difference(a, b, resamples=400)
        held += found.low <= truth <= found.high
        alarms += found.p_value < 0.05
    assert 0.92 <= held / runs <= 1.0
    if skills[0] == skills[1]:
        assert alarms / runs <= 0.07


def test_a_against_itself_is_nothing() -> None:
    scores = np.random.default_rng(1).random((3, 50))
    for a in (scores, (scores[0] > 0.5).astype(float)):
        found = paired_difference(a, a)
        assert (found.difference, found.p_value, found.row_deviation) == (0.0, 1.0, 0.0)
        assert found.low <= 0.0 <= found.high


def test_agreeing_on_few_rows_is_not_being_equal() -> None:
    """No disagreement in 30 rows leaves about 3 / 30 possible (the rule of three)."""
    found = paired_difference(np.ones(30), np.ones(30))
    assert 0.05 < found.high < 0.15
    many = paired_difference(np.ones(3000), np.ones(3000))
    assert many.high < 0.002


def test_clustered_rows_cover_and_raise_no_false_alarms() -> None:
    """Twenty-five texts of four rows, equally good methods that each take to some of the texts.

    Rows taken for independent ones: coverage 0.87, 13% false alarms at the 5% level.
    """
    numbers = np.random.default_rng(12)
    texts = np.repeat(np.arange(25), 4)

    def scores() -> np.ndarray:
        level = 1 + 1.5 * numbers.standard_normal(25)[texts]
        return (numbers.random(100) < 1 / (1 + np.exp(-level))).astype(float)

    held = alarms = 0
    for _ in range(250):
        found = paired_difference(scores(), scores(), resamples=400, clusters=texts)
        held += found.low <= 0 <= found.high
        alarms += found.p_value < 0.05
    assert held / 250 >= 0.92
    assert alarms / 250 <= 0.07


def test_a_cluster_for_each_row_is_none_at_all() -> None:
    a, b = np.random.default_rng(13).random((2, 40))
    each = paired_difference(a, b, clusters=np.arange(40))
    plain = paired_difference(a, b)
    for name in ("difference", "low", "high", "p_value", "row_deviation"):
        assert getattr(each, name) == pytest.approx(getattr(plain, name)), name


def test_texts_that_agree_are_counted_as_texts() -> None:
    few = paired_difference(np.ones(200), np.ones(200), clusters=np.repeat(np.arange(4), 50))
    assert few.high > 0.2 > 5 * paired_difference(np.ones(200), np.ones(200)).high


def test_mcnemar_by_hand() -> None:
    """Right alone: 10 and 2 of 12. P = 2 (C(12,0) + C(12,1) + C(12,2)) / 2^12 = 158 / 4096."""
    assert mcnemar(10, 2) == pytest.approx(158 / 4096)
    assert mcnemar(2, 10) == pytest.approx(158 / 4096)
    a = np.repeat([1.0, 1.0, 0.0, 0.0], [50, 10, 2, 8])
    b = np.repeat([1.0, 0.0, 1.0, 0.0], [50, 10, 2, 8])
    found = paired_difference(a, b)
    assert found.p_value == pytest.approx(158 / 4096)
    assert found.difference == pytest.approx(8 / 70)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0


def test_sign_flip_against_every_flip() -> None:
    values = np.array([0.3, -0.1, 0.5, 0.2, 0.0, 0.4, -0.2, 0.25, 0.15])
    kept = values[values != 0]
    seen = abs(kept.sum())
    flips = [
        abs(sum(s * v for s, v in zip(signs, kept, strict=True))) >= seen - 1e-12
        for signs in itertools.product((-1, 1), repeat=len(kept))
    ]
    assert sign_flip(values, resamples=20_000) == pytest.approx(np.mean(flips), abs=0.01)


def test_sign_flip_of_nothing_is_one() -> None:
    assert sign_flip(np.zeros(20)) == 1.0
    assert sign_flip([]) == 1.0


def test_reversed_methods_mirror_each_other() -> None:
    numbers = np.random.default_rng(2)
    a, b = numbers.random(80), numbers.random(80)
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.difference == pytest.approx(-other.difference)
    assert one.low == pytest.approx(-other.high, abs=0.02)
    assert one.p_value == pytest.approx(other.p_value, abs=0.02)


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    """Right on the same rows but for 12 of 400: a 3-point difference is certain."""
    a = np.repeat([1.0, 0.0], [300, 100])
    b = a.copy()
    b[:12] = 0.0
    found = paired_difference(a, b)
    assert found.low > 0.01
    assert found.p_value < 0.001


def test_interval_and_p_value_agree() -> None:
    """At the 5% level, away from the edge, both say the same."""
    numbers = np.random.default_rng(3)
    checked = 0
    for gap in np.linspace(0, 0.12, 30):
        a, b = numbers.random((2, 200)) * 0.5
        found = paired_difference(a + gap, b)
        if abs(found.p_value - 0.05) > 0.03:
            checked += 1
            assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
    assert checked > 20


def test_a_seed_that_fails_is_felt() -> None:
    """Two good seeds and a collapsed one do not prove that a method is better."""
    good = np.repeat([1.0, 0.0], [180, 20])
    a = np.stack([good, np.roll(good, 7), np.repeat([1.0, 0.0], [60, 140])])
    b = np.repeat([1.0, 0.0], [110, 90])
    found = paired_difference(a, b)
    assert found.difference > 0.1
    assert found.low < 0 < found.high
    assert found.p_value > 0.05


def test_row_deviation_is_of_the_differences() -> None:
    a, b = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 0.0])
    assert paired_difference(a, b).row_deviation == pytest.approx(np.std([1, 0, 0, 1], ddof=1))
    assert paired_difference([1.0], [0.0]).row_deviation == 0.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    numbers = np.random.default_rng(4).random(12) ** 3
    order = np.argsort(numbers)
    slow = np.empty(12)
    for place, index in enumerate(order):
        steps = [(12 - i) * numbers[order[i]] for i in range(place + 1)]
        slow[index] = min(1.0, max(steps))
    assert holm(list(numbers)) == pytest.approx(slow)


def test_rows_to_resolve_finds_the_difference_four_times_in_five() -> None:
    rows = rows_to_resolve(0.1, 0.5)
    assert rows == math.ceil((2.801585 * 5) ** 2)
    numbers = np.random.default_rng(5)
    found = 0
    for _ in range(300):
        sample = 0.1 + 0.5 * numbers.standard_normal(rows)
        found += abs(sample.mean()) > 1.96 * sample.std(ddof=1) / math.sqrt(rows)
    assert found / 300 == pytest.approx(0.8, abs=0.07)
    assert rows_to_resolve(0.0, 0.5) is None
    assert rows_to_resolve(0.1, 0.0) is None


def test_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same rows: 3 and 4"):
        paired_difference(np.zeros(3), np.zeros(4))


def test_what_is_known_of_seeds_widens_only_methods_with_one_seed() -> None:
    numbers = np.random.default_rng(5)
    a, b = (numbers.random((1, 400)) < 0.9).astype(float), (numbers.random((1, 400)) < 0.8)
    plain, wide = paired_difference(a, b), paired_difference(a, b, unseen=(0.03, 0.04))
    assert wide.difference == plain.difference
    assert plain.seed_deviation == 0.0
    assert wide.seed_deviation == pytest.approx(0.05)
    # Standard errors add as squares; 1.96 of them reach from the middle to a limit.
    error = (plain.high - plain.low) / 3.92
    assert (wide.high - wide.low) / 3.92 == pytest.approx(np.hypot(error, 0.05), rel=0.05)
    assert wide.p_value > plain.p_value
    several = np.stack([a[0], 1 - a[0]])
    told, known = (paired_difference(several, several, unseen=each) for each in ((0, 0), (1, 1)))
    assert told == known


def test_rows_cannot_settle_what_seeds_leave_open() -> None:
    rows = rows_to_resolve(0.03, 0.3)
    assert rows is not None
    more = rows_to_resolve(0.03, 0.3, besides=0.005**2)
    assert more is not None
    assert more > rows
    reach = 1.959964 + 0.841621
    # At `more` rows the difference is as many standard errors wide as was asked for.
    assert 0.03 / np.sqrt(0.3**2 / more + 0.005**2) == pytest.approx(reach, rel=0.01)
    assert rows_to_resolve(0.03, 0.3, besides=0.02**2) is None
