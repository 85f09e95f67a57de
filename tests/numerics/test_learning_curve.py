"""The curve against scipy's own fit, against curves whose answers are known, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from tunewise.numerics.learning_curve import (
    LearningCurve,
    crossing,
    fit_curve,
    gain,
    smallest_size,
)

SIZES = [40, 100, 250, 625, 1500]
Floats = NDArray[np.float64]


def law(n: Floats, ceiling: float, drop: float, rate: float) -> Floats:
    """The power law written down."""
    return np.asarray(ceiling - drop * n**-rate)


def flat_scores(values: Floats, rows: int = 50) -> list[Floats]:
    """Every row of a size has that size's score: no noise but rounding."""
    return [np.full((1, rows), value) for value in values]


def simulated(
    truth: tuple[float, float, float], seed: int, *, rows: int, spread: float
) -> list[Floats]:
    """0/1 answers of 3 seeds per size on the same rows, some rows harder than others."""
    numbers = np.random.default_rng(seed)
    hard = numbers.uniform(size=rows)
    scores = []
    for size in SIZES:
        expected = law(np.array(size, float), *truth)
        own = np.clip(expected + numbers.normal(0, spread, size=3), 0.01, 0.99)
        # Two thirds of a row's luck is its own at every size and seed, as with real rows.
        luck = np.where(
            numbers.uniform(size=(3, rows)) < 2 / 3, hard, numbers.uniform(size=(3, rows))
        )
        scores.append((luck < own[:, None]).astype(float))
    return scores


@pytest.mark.parametrize(
    "truth", [(0.9, 1.5, 0.5), (0.95, 0.8, 0.2), (0.7, 3.0, 1.0), (1.0, 2.0, 0.4)]
)
def test_a_curve_without_noise_comes_back(truth: tuple[float, float, float]) -> None:
    curve = fit_curve(SIZES, flat_scores(law(np.array(SIZES, float), *truth)))
    many = np.array([40.0, 77, 333, 1000, 3000])
    assert curve.at(many) == pytest.approx(law(many, *truth), abs=0.003)
    assert curve.parameters[2] == pytest.approx(truth[2], rel=0.06)


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_is_as_good_as_scipys(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    points = law(np.array(SIZES, float), 0.9, 1.2, 0.5) + numbers.normal(0, 0.01, size=5)
    curve = fit_curve(SIZES, flat_scores(points))
    sizes = np.array(SIZES, float)
    # Its drop is scaled to the smallest size as well: the plain form leaves scipy astray.
    slow, _ = curve_fit(
        lambda n, ceiling, drop, rate: ceiling - drop * (n / 40) ** -rate,
        sizes,
        points,
        p0=(0.8, 0.2, 0.5),
        bounds=([0, 0, 0.1], [1, 5, 2.0]),
        max_nfev=20_000,
    )
    theirs = float(((points - law(sizes / 40, *slow)) ** 2).sum())
    ours = float(((points - curve.at(sizes)) ** 2).sum())
    assert ours <= theirs * 1.05 + 1e-9  # a grid of rates
    assert curve.at(sizes) == pytest.approx(law(sizes / 40, *slow), abs=0.002)


def test_a_falling_curve_is_told_as_flat() -> None:
    curve = fit_curve(SIZES, flat_scores(np.array([0.8, 0.78, 0.76, 0.74, 0.72])))
    assert curve.parameters[1] == 0.0
    assert gain(curve, 1000).value == 0.0


def test_the_smallest_size_is_where_the_law_says() -> None:
    truth = (0.9, 1.5, 0.5)
    curve = fit_curve(SIZES, flat_scores(law(np.array(SIZES, float), *truth)))
    told = smallest_size(curve, 0.02)
    at_end = float(law(np.array(1500.0), *truth))
    exact = (1.5 / (0.9 - (at_end - 0.02))) ** 2
    assert told.value == pytest.approx(exact, rel=0.05)
    assert told.low is not None
    assert told.high is not None
    assert told.low <= exact * 1.05
    assert told.high >= exact * 0.95


def test_a_flat_curve_needs_no_more_than_the_smallest_size() -> None:
    curve = fit_curve(SIZES, flat_scores(np.full(5, 0.6)))
    assert smallest_size(curve, 0.01).value == 40


def test_more_rows_bring_what_the_law_says() -> None:
    truth = (0.9, 1.5, 0.5)
    curve = fit_curve(SIZES, flat_scores(law(np.array(SIZES, float), *truth)))
    exact = 1.5 * (1500**-0.5 - 2500**-0.5)
    assert gain(curve, 1000).value == pytest.approx(exact, abs=0.0015)


def test_curves_cross_where_the_laws_do() -> None:
    steep, early = (0.95, 3.0, 0.5), (0.75, 0.3, 0.5)  # equal where 0.2 = 2.7 / sqrt(n): 182
    sizes = np.array(SIZES, float)
    a = fit_curve(SIZES, flat_scores(law(sizes, *steep)))
    b = fit_curve(SIZES, flat_scores(law(sizes, *early)))
    told = crossing(a, b)
    assert told.value == pytest.approx(182.25, rel=0.03)
    assert told.share == 1.0
    backwards = crossing(b, a)
    assert backwards.value is None
    assert backwards.share == 0.0


def test_curves_that_do_not_cross_say_so() -> None:
    sizes = np.array(SIZES, float)
    a = fit_curve(SIZES, flat_scores(law(sizes, 0.9, 1.0, 0.5)))
    b = fit_curve(SIZES, flat_scores(law(sizes, 0.7, 1.0, 0.5)))
    assert crossing(a, b).value is None
    assert crossing(a, b).share == 0.0


@pytest.mark.parametrize("truth", [(0.9, 1.5, 0.5), (0.85, 0.9, 0.3)])
def test_bands_cover_in_simulation(truth: tuple[float, float, float]) -> None:
    rounds = 60
    inside = {"in range": 0, "beyond": 0, "gain": 0}
    true_gain = float(law(np.array(2500.0), *truth) - law(np.array(1500.0), *truth))
    for seed in range(rounds):
        scores = simulated(truth, seed, rows=300, spread=0.015)
        curve = fit_curve(SIZES, scores, draws=300)
        for name, size in (("in range", 400.0), ("beyond", 2500.0)):
            low, high = curve.band(size)
            inside[name] += int(low[0] <= float(law(np.array(size), *truth)) <= high[0])
        told = gain(curve, 1000)
        assert told.low is not None
        assert told.high is not None
        inside["gain"] += int(told.low <= true_gain <= told.high)
    # 60 rounds at 95%: below 52 has a chance under 1%.
    assert inside["in range"] >= 52, inside
    assert inside["beyond"] >= 52, inside
    assert inside["gain"] >= 50, inside


def test_crossings_cover_in_simulation() -> None:
    inside = 0
    sizes = np.array(SIZES, float)
    exact = (2.8 / 0.34) ** 2  # 68 rows

    for seed in range(60):
        numbers = np.random.default_rng(seed)

        def curve(share: Floats, numbers: np.random.Generator = numbers) -> LearningCurve:
            drawn = [(numbers.uniform(size=(3, 150)) < each).astype(float) for each in share]
            return fit_curve(SIZES, drawn, draws=300)

        told = crossing(curve(law(sizes, 0.99, 3.0, 0.5)), curve(law(sizes, 0.65, 0.2, 0.5)))
        assert told.low is not None
        assert told.high is not None
        inside += told.low <= exact <= told.high
    assert inside >= 52


def test_unequal_numbers_of_seeds_are_taken() -> None:
    scores = simulated((0.9, 1.5, 0.5), 1, rows=200, spread=0.01)
    curve = fit_curve(SIZES, [scores[0], scores[1][:2], scores[2], scores[3][:1], scores[4]])
    assert isinstance(curve, LearningCurve)
    assert (curve.errors > 0).all()
    low, high = curve.band([100.0, 1000.0])
    assert (low < high).all()


@pytest.mark.parametrize(
    ("sizes", "scores"),
    [
        ([], []),
        ([10, 20], [[1.0], [1.0]]),
        ([10, 20, 30], [[1.0], [1.0]]),
        ([10, 10, 30], [[1.0], [1.0], [0.0]]),
        ([30, 20, 10], [[1.0], [1.0], [0.0]]),
        ([0, 20, 30], [[1.0], [1.0], [0.0]]),
        ([10, 20, 30], [[1.0], [1.0, 0.0], [0.0]]),
        ([10, 20, 30], [[1.0], [float("nan")], [0.0]]),
        ([10, 20, 30], [[1.0], [], [0.0]]),
    ],
)
def test_what_is_no_curve_is_refused(sizes: list[int], scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"sizes|rows|finite|empty"):
        fit_curve(sizes, scores)


def test_crossing_wants_paired_drawings() -> None:
    points = flat_scores(np.array([0.5, 0.6, 0.7, 0.75, 0.8]))
    with pytest.raises(ValueError, match="paired"):
        crossing(fit_curve(SIZES, points, draws=10), fit_curve(SIZES, points, draws=20))


def test_bands_cover_near_the_ceiling_on_few_rows() -> None:
    """One fit a size, fifty rows: sizes that agree on all of them are not proven equal.

    Rows drawn without pseudo-rows hold the last score in 21 of 60 rounds.
    """
    truth = (0.995, 0.6, 0.7)
    inside, rounds = 0, 60
    for seed in range(rounds):
        numbers = np.random.default_rng(seed)
        hard = numbers.uniform(size=50)
        shares = law(np.array(SIZES, float), *truth)
        curve = fit_curve(SIZES, [(hard < each).astype(float)[None] for each in shares], draws=300)
        low, high = curve.band(SIZES[-1])
        inside += int(low[0] <= shares[-1] <= high[0])
    assert inside >= 52


def test_equal_methods_are_seldom_said_to_cross() -> None:
    """One of them rises above the other in a fifth of the runs; that it does is sure in few."""
    told = sure = 0
    for seed in range(60):
        shares = law(np.array(SIZES, float), 0.92, 1.2, 0.5)
        numbers = np.random.default_rng(seed)
        curves = []
        for number in range(2):
            drawn = [
                numbers.uniform(size=(2, 200))
                < np.clip(each + numbers.normal(0, 0.02, (2, 1)), 0, 1)
                for each in shares
            ]
            scores = [each.astype(float) for each in drawn]
            curves.append(fit_curve(SIZES, scores, draws=300, number=number))
        found = crossing(*curves)
        told += found.value is not None
        sure += found.share >= 0.95
    assert told >= 6
    assert sure <= 4


def test_the_seeds_of_two_curves_are_drawn_apart() -> None:
    """The same test rows for both, but not the same luck of the fits."""
    numbers = np.random.default_rng(3)
    scores = [(numbers.uniform(size=(2, 100)) < 0.7 + numbers.normal(0, 0.1, (2, 1))).astype(float)
              for _ in SIZES]  # fmt: skip
    one, again, other = (fit_curve(SIZES, scores, draws=200, number=n) for n in (0, 0, 1))
    assert (one.drawn == again.drawn).all()
    assert abs(one.drawn_at(SIZES[-1]) - other.drawn_at(SIZES[-1])).std() > 0.01
