"""The worst of many changes: no drop where there is none, the truth where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from tunewise.numerics.changes import spread_by_chance, worst_change


def test_a_drop_by_hand() -> None:
    plain = [1.0] * 8
    changed = [[1.0] * 8, [0.0] * 8, [1.0] * 4 + [0.0] * 4]
    found = worst_change(plain, changed)
    assert found.value == -1.0
    assert found.low == -1.0
    assert found.high > -1.0


def test_noise_alone_is_no_drop() -> None:
    random = np.random.default_rng(0)
    values, naive = [], []
    for number in range(200):
        truth = random.random(100) < 0.7
        changed = np.where(random.random((10, 100)) < 0.1, ~truth, truth).astype(float)
        values.append(worst_change(truth.astype(float), changed, seed=number).value)
        naive.append((changed.mean(axis=1) - truth.mean()).min())
    # Every change flips a tenth of the answers: 0.7 falls to 0.66 under each of them alike.
    assert np.mean(values) == pytest.approx(-0.04, abs=0.01)
    assert np.mean(naive) < -0.075


def test_the_interval_covers_the_drop_of_the_worst() -> None:
    random = np.random.default_rng(1)
    held = 0
    for number in range(300):
        plain = (random.random(120) < 0.9).astype(float)
        mild = plain * (random.random((4, 120)) < 0.97)
        harsh = plain * (random.random((1, 120)) < 0.7)
        found = worst_change(plain, np.concatenate([mild, harsh]), seed=number)
        held += found.low <= 0.9 * 0.7 - 0.9 <= found.high
    assert held >= 0.93 * 300


def test_chance_shows_a_spread_of_its_own() -> None:
    random = np.random.default_rng(2)
    p_values = []
    for number in range(200):
        scores = (random.random((6, 60)) < 0.8).astype(float)
        chance, p_value = spread_by_chance(scores, seed=number)
        p_values.append(p_value)
        assert 0.05 < chance < 0.25
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.09


def test_a_real_spread_is_told_from_chance() -> None:
    scores = np.ones((5, 50))
    scores[2, :25] = 0.0
    chance, p_value = spread_by_chance(scores)
    assert chance < 0.3
    assert p_value == pytest.approx(1 / 401)
    assert spread_by_chance(np.ones((3, 10))) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("plain", "changed"),
    [([], []), ([1.0], [[1.0, 0.0]]), ([1.0, 1.0], np.empty((0, 2))), ([[1.0]], [[1.0]])],
)
def test_bad_shapes_are_refused(plain: object, changed: object) -> None:
    with pytest.raises(ValueError, match=r"needed|same rows"):
        worst_change(plain, changed)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ValueError, match="must be"):
        spread_by_chance([1.0, 2.0])


def test_groups_that_move_together_raise_no_false_alarms() -> None:
    """Forty groups of five rows, of which each change turns some: rows permuted one by one call
    that a difference between changes far too often."""
    random = np.random.default_rng(3)
    groups = np.repeat(np.arange(40), 5)
    alarms = {True: 0, False: 0}
    for number in range(100):
        scores = (random.random((6, 40)) < 0.8).astype(float)[:, groups]
        for grouped in alarms:
            clusters = groups if grouped else None
            alarms[grouped] += spread_by_chance(scores, seed=number, clusters=clusters)[1] <= 0.05
    assert alarms[True] <= 10
    assert alarms[False] >= 50


def test_a_cluster_for_each_row_is_none_at_all() -> None:
    random = np.random.default_rng(4)
    plain, changed, each = random.random(30), random.random((3, 30)), np.arange(30)
    one, none = worst_change(plain, changed, clusters=each), worst_change(plain, changed)
    assert (one.value, one.low, one.high) == pytest.approx((none.value, none.low, none.high))
    assert spread_by_chance(changed, clusters=each) == pytest.approx(spread_by_chance(changed))


def test_a_group_stands_in_one_half() -> None:
    """Of four groups two choose and two are measured: what hurts one group alone is not chosen
    for it by its own rows."""
    groups = np.repeat(np.arange(4), 10)
    changed = np.array([1.0 - (groups == each) for each in range(4)])
    assert worst_change(np.ones(40), changed, clusters=groups).value == 0.0


def test_clusters_of_another_length_are_refused() -> None:
    for call in (worst_change, lambda a, b, clusters: spread_by_chance(b, clusters=clusters)):
        with pytest.raises(ValueError, match="group of 3 rows"):
            call([1.0] * 3, [[1.0] * 3], clusters=[1, 2])
