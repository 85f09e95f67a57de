"""The running test holds its error rate at every time, against slow twins and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunewise.numerics.sequential import (
    BET_SHARES,
    Pairing,
    RunningTest,
    confidence_sequence,
)


def run(differences: np.ndarray, margin: float = 0.0) -> RunningTest:
    test = RunningTest(margin)
    for each in differences:
        test = test.seen(float(each))
    return test


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5])
def test_wealth_is_the_mean_of_products(margin: float) -> None:
    differences = np.random.default_rng(0).uniform(-1, 1, size=60)
    test = run(differences, margin)
    mean = (1 - margin) / 2
    worse = better = 0.0
    for share in BET_SHARES:
        product = other = 1.0
        for each in differences:
            product *= 1 + share / (1 - mean) * (mean - (each + 1) / 2)
            other *= 1 + share / 0.5 * (0.5 - (1 - each) / 2)
        worse += product / len(BET_SHARES)
        better += other / len(BET_SHARES)
    assert test.worse_evidence == pytest.approx(worse)
    assert test.better_evidence == pytest.approx(better)
    assert test.mean == pytest.approx(differences.mean())
    assert test.count == 60


def _ever_shown(random: np.random.Generator, new: float, old: float, margin: float) -> bool:
    """Whether 0/1 outcomes, looked at after every pair, ever show that the new one is worse."""
    steps = 600
    differences = (random.random(steps) < new).astype(float) - (random.random(steps) < old)
    bets = np.asarray(BET_SHARES)
    mean = (1 - margin) / 2
    gains = np.log1p(bets * ((mean - (differences[:, None] + 1) / 2) / (1 - mean)))
    wealth = np.exp(gains.cumsum(axis=0)).mean(axis=1)
    return bool((wealth >= 20).any())


@pytest.mark.parametrize(("new", "margin"), [(0.7, 0.0), (0.9, 0.0), (0.6, 0.1)])
def test_looking_always_errs_as_rarely_as_said(new: float, margin: float) -> None:
    # At the border of what is borne: 400 trials of 600 looks each.
    random = np.random.default_rng(1)
    wrong = sum(_ever_shown(random, new, new + margin, margin) for _ in range(400))
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_clear_loss_is_found_soon() -> None:
    random = np.random.default_rng(2)
    found = sum(_ever_shown(random, 0.6, 0.8, 0.0) for _ in range(200))
    assert found / 200 >= 0.95


def test_the_limits_hold_at_all_times() -> None:
    random = np.random.default_rng(3)
    missed = 0
    for _ in range(60):
        differences = (random.random(300) < 0.7).astype(float) - (random.random(300) < 0.6)
        missed += any(
            not low <= 0.1 <= high
            for count in (5, 20, 50, 100, 200, 300)
            for low, high in [confidence_sequence(differences[:count], steps=100)]
        )
    assert missed / 60 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 60)


def test_the_limits_are_those_that_the_bets_leave() -> None:
    differences = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], size=80, p=[0.1, 0.4, 0.5])
    low, high = confidence_sequence(differences, steps=50)
    kept = []
    for index in range(51):
        mean = index / 50
        wealth = []
        for seen, against in (((differences + 1) / 2, mean), ((1 - differences) / 2, 1 - mean)):
            total = 0.0
            for share in BET_SHARES:
                bet = share / max(1 - against, 1e-9)
                product = 1.0
                for value in seen.tolist():
                    product *= 1 + bet * (against - value)
                total += product / len(BET_SHARES)
            wealth.append(total)
        if max(wealth) < 40:
            kept.append(2 * mean - 1)
    assert low == pytest.approx(max(-1.0, kept[0] - 0.04))
    assert high == pytest.approx(min(1.0, kept[-1] + 0.04))


def test_nothing_seen_says_nothing() -> None:
    assert confidence_sequence([]) == (-1.0, 1.0)
    assert RunningTest(0.0).worse_evidence == 1.0


def test_the_limits_close_in() -> None:
    random = np.random.default_rng(5)
    differences = random.choice([-1.0, 0.0, 1.0], size=5000, p=[0.1, 0.8, 0.1])
    widths = [
        high - low
        for count in (50, 500, 5000)
        for low, high in [confidence_sequence(differences[:count])]
    ]
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.12


@pytest.mark.parametrize("wrong", [1.1, -1.1, float("nan"), float("inf")])
def test_what_is_no_difference_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="between -1 and 1"):
        RunningTest(0.0).seen(wrong)


def test_very_long_runs_stay_finite() -> None:
    test = RunningTest(0.0)
    for _ in range(5000):
        test = test.seen(-1.0)
    assert math.isfinite(test.worse_evidence)
    assert test.worse_evidence > 1e100
    assert test.better_evidence < 1e-10


def test_every_outcome_is_used_once() -> None:
    random = np.random.default_rng(6)
    is_new = random.random(500) < 0.1
    values = random.random(500)
    pairing, differences, groups, waiting = Pairing(), [], [], ([], [])
    for value, new in zip(values, is_new, strict=True):
        pairing, difference = pairing.with_outcome(float(value), is_new=bool(new))
        waiting[0 if new else 1].append(value)
        if difference is not None:
            groups.append(np.mean(waiting[0]) - np.mean(waiting[1]))
            differences.append(difference)
            waiting = ([], [])
    assert differences == pytest.approx(groups)
    assert pairing.new_count == len(waiting[0])
    assert pairing.old_count == len(waiting[1])


def test_pairing_has_the_mean_of_the_groups_distance() -> None:
    random = np.random.default_rng(7)
    found = []
    for _ in range(40_000):
        new = random.random() < 0.2
        value = float(random.random() < (0.5 if new else 0.7))
        found.append((value, new))
    pairing, differences = Pairing(), []
    for value, new in found:
        pairing, difference = pairing.with_outcome(value, is_new=bool(new))
        if difference is not None:
            differences.append(difference)
    error = np.std(differences) / math.sqrt(len(differences))
    assert abs(np.mean(differences) + 0.2) < 4 * error


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_equal_versions_are_told_apart_as_rarely_as_said(share: float) -> None:
    """The way of a split alias: outcomes as they come, paired, and looked at every time."""
    random, runs, alpha = np.random.default_rng(7), 200, 0.05
    wrong = 0
    for _ in range(runs):
        pairing, test = Pairing(), RunningTest(0.0)
        for is_new, value in zip(random.random(300) < share, random.random(300) < 0.8, strict=True):
            pairing, difference = pairing.with_outcome(float(value), is_new=bool(is_new))
            if difference is not None:
                test = test.seen(difference)
            if test.worse_evidence >= 1 / alpha:
                wrong += 1
                break
    assert wrong / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
