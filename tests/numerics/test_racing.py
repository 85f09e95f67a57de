"""Racing: who stays, who is taken, against plain loops and by simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tunewise.numerics.racing import cheapest_within_noise, paired_error, survivors


def test_the_paired_error_by_a_plain_loop() -> None:
    values = [0.5, -1.0, 2.0, 0.25]
    mean = sum(values) / 4
    variance = sum((value - mean) ** 2 for value in values) / 3
    assert paired_error(np.array(values)) == pytest.approx(math.sqrt(variance / 4))
    assert paired_error(np.array([1.0])) == math.inf


def test_no_more_survive_than_are_kept_and_the_best_stands_first() -> None:
    random = np.random.default_rng(0)
    losses = random.normal(size=(6, 40)) + np.array([3.0, 1.0, 1.1, 2.0, 1.05, 1.2])[:, None]
    kept = survivors(losses, 3)
    means = losses.mean(axis=1)
    assert kept == sorted(kept, key=lambda index: means[index])
    assert kept[0] == int(means.argmin())
    assert set(kept) <= {1, 2, 4, 5}
    assert len(kept) <= 3


def test_who_is_behind_on_every_row_goes_and_who_is_behind_by_noise_stays() -> None:
    rows = np.random.default_rng(1).normal(size=50)
    noisy = np.random.default_rng(2).permutation(rows) + 0.01
    assert survivors(np.stack([rows, rows + 0.5, noisy]), 3) == [0, 2]


def test_a_loss_that_is_not_finite_never_wins() -> None:
    losses = np.array([[math.nan] * 4, [2.0, 2.0, 2.0, 2.1], [math.inf] * 4])
    assert cheapest_within_noise(losses, np.array([1.0, 9.0, 1.0])) == 1
    assert survivors(losses, 1) == [1]


@pytest.mark.parametrize(("gap", "wanted"), [(0.0, 1), (0.5, 0)])
def test_the_dearer_one_is_taken_only_beyond_the_noise(gap: float, wanted: int) -> None:
    random = np.random.default_rng(3)
    dear = random.normal(size=200) ** 2
    cheap = dear + gap + random.normal(size=200) * 0.1
    cheap -= (cheap - dear).mean() - gap - 0.001
    assert cheapest_within_noise(np.stack([dear, cheap]), np.array([300.0, 30.0])) == wanted


def test_how_much_is_noise_may_be_said() -> None:
    random = np.random.default_rng(4)
    dear = random.normal(size=100)
    cheap = dear + random.normal(size=100)
    cheap += dear.mean() - cheap.mean() + 0.05  # half a standard error, about
    losses, prices = np.stack([dear, cheap]), np.array([300.0, 30.0])
    assert cheapest_within_noise(losses, prices) == 1
    assert cheapest_within_noise(losses, prices, errors=0.25) == 0


def test_of_equal_prices_the_lower_loss_is_taken() -> None:
    losses = np.array([[1.0, 1.2], [1.0, 1.1], [1.0, 1.3]])
    assert cheapest_within_noise(losses, np.ones(3)) == 1


def jackknifed_error(values: Sequence[float], groups: Sequence[str]) -> float:
    """The error of the mean by leaving out one group after the other (of equal sizes: exact)."""
    names = sorted(set(groups))
    left = []
    for name in names:
        others = [value for value, group in zip(values, groups, strict=True) if group != name]
        left.append(sum(others) / len(others))
    mean = sum(left) / len(left)
    count = len(names)
    return math.sqrt((count - 1) / count * sum((each - mean) ** 2 for each in left))


def test_the_error_of_groups_by_leaving_each_out() -> None:
    random = np.random.default_rng(5)
    groups = [f"g{number}" for number in range(9) for _ in range(4)]
    order = random.permutation(len(groups))
    values = np.repeat(random.normal(size=9), 4) + random.normal(size=36)
    values, groups = values[order], [groups[at] for at in order]
    found = paired_error(values, groups)
    assert found == pytest.approx(jackknifed_error(values.tolist(), groups))
    # Groups of several sizes: the jackknife is near, not the same.
    some = random.random(36) < 0.6
    few = [group for group, kept in zip(groups, some, strict=True) if kept]
    near = jackknifed_error(values[some].tolist(), few)
    assert paired_error(values[some], few) == pytest.approx(near, rel=0.15)


def test_copies_of_rows_say_what_the_rows_say() -> None:
    rows = np.random.default_rng(6).normal(size=12)
    copies, groups = np.repeat(rows, 5), np.repeat(np.arange(12), 5)
    assert paired_error(copies, groups) == pytest.approx(paired_error(rows))
    assert paired_error(copies) < paired_error(rows) / 2
    assert paired_error(rows, np.arange(12)) == pytest.approx(paired_error(rows))
    assert paired_error(np.ones(5), np.zeros(5)) == math.inf
    with pytest.raises(ValueError, match="12 rows"):
        paired_error(rows, groups)


def test_of_equally_good_candidates_groups_let_few_go_and_rows_many() -> None:
    """Forty groups of five rows; half of the variance of a difference lies between groups.

    Two standard errors part 5% of what is equal. Rows taken for independent ones part 24%.
    """
    random = np.random.default_rng(7)
    groups = np.repeat(np.arange(40), 5)
    worlds = 600
    gone = {"groups": 0, "rows": 0}
    dear = {"groups": 0, "rows": 0}
    errors, means = [], []
    for _ in range(worlds):
        between, within = random.normal(size=(2, 40)), random.normal(size=(2, 200))
        losses = np.repeat(between, 5, axis=1) + within
        for name, clusters in (("groups", groups), ("rows", None)):
            gone[name] += len(survivors(losses, 2, clusters)) == 1
            # The cheap one is passed over where the dear one seems better by an error and more.
            dear[name] += (
                cheapest_within_noise(losses, np.array([2.0, 1.0]), clusters=clusters) == 0
            )
        errors.append(paired_error(losses[0] - losses[1], groups))
        means.append(float((losses[0] - losses[1]).mean()))
    assert float(np.mean(errors)) == pytest.approx(float(np.std(means)), rel=0.08)
    assert 0.03 <= gone["groups"] / worlds <= 0.08
    assert gone["rows"] / worlds >= 0.18
    assert 0.12 <= dear["groups"] / worlds <= 0.2
    assert dear["rows"] / worlds >= 0.24
