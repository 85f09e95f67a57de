"""What is left of the questions: by hand, and however the work goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tunewise.measure.forecast import Forecast, Watch, guess, pace_of


def record(method: str, seconds: float, passes: int, rows: int = 10) -> Any:
    """A fit whose rows took 100 ms each."""
    return SimpleNamespace(
        method=method,
        seconds=seconds,
        forward_tokens=passes // 2,
        backward_tokens=passes - passes // 2,
        flops=passes,
        milliseconds_per_row=100.0,
        test=[None] * rows,
    )


def test_pace_is_seconds_over_passes_of_fits_and_answers() -> None:
    records = [record("lora", 9.0, 800), record("lora", 7.0, 800), record("tfidf", 50.0, 0)]
    # 9 + 1 and 7 + 1 seconds, 800 + 100 passes each; what calls no base tells nothing.
    assert pace_of(records, {"lora": 100, "tfidf": 0}) == pytest.approx(18.0 / 1800)
    assert pace_of([], {}) == 0.0
    assert pace_of([record("tfidf", 1.0, 0)], {"tfidf": 0}) == 0.0


def test_at_first_the_run_s_own_pace_counts() -> None:
    forecast = Forecast({"a": 1000, "b": 3000}, 0.01)
    assert forecast.total == 4000
    assert forecast.seconds_left() == pytest.approx(40.0)
    assert forecast.done("a", 0) == 0
    assert forecast.done("a", 250) == 250
    assert forecast.done("a", 5000) == 1000  # no more than was planned


def test_what_is_seen_counts_more_and_more() -> None:
    forecast = Forecast({"a": 1000, "b": 3000}, 0.01)
    # 200 passes of the run's pace weigh beside 1,000 that took twice as long.
    pace = (200 * 0.01 + 1000 * 0.02) / 1200
    assert forecast.seconds_left("a", 1000, 20.0) == pytest.approx(3000 * pace)
    forecast.end("a", 1000, 20.0)
    assert forecast.seconds_left() == pytest.approx(3000 * pace)
    assert forecast.done("b", 0) == 1000
    assert forecast.seconds_left("b", 3000, 60.0) == pytest.approx(0.0)


def test_a_piece_that_ends_early_counts_whole() -> None:
    forecast = Forecast({"a": 1000, "b": 3000}, 0.01)
    forecast.end("a", 10, 0.1)
    assert forecast.done("b", 0) == 1000
    assert forecast.seconds_left() == pytest.approx(30.0)


def test_seconds_without_token_passes_say_nothing_of_the_pace() -> None:
    forecast = Forecast({"classifier": 0, "a": 1000}, 0.01)
    # Ten minutes in a linear classifier, which makes no pass.
    assert forecast.seconds_left("classifier", 0, 600.0) == pytest.approx(10.0)
    forecast.end("classifier", 0, 600.0)
    assert forecast.seconds_left() == pytest.approx(10.0)
    # Nor do those before the first passes of a piece.
    assert forecast.seconds_left("a", 0, 300.0) == pytest.approx(10.0)
    assert forecast.seconds_left("a", 1, 300.0) == pytest.approx(10.0, rel=1e-2)
    assert forecast.seconds_left("a", 500, 10.0) > 9.0


def test_work_that_calls_nothing_takes_no_time() -> None:
    forecast = Forecast({"a": 0}, 0.0)
    assert forecast.seconds_left() == 0.0
    assert forecast.done("a", 0) == 0
    forecast.end("a", 0, 0.5)
    assert Forecast({}, 0.0).seconds_left() == 0.0


def test_a_watch_goes_on_from_what_was_spent_before() -> None:
    watch = Watch()
    watch.before += 100.0
    assert 100.0 <= watch.seconds < 1000.0


def test_a_guess_by_shares() -> None:
    shared, plain = SimpleNamespace(share=0.5, runs_model=True), SimpleNamespace(runs_model=True)
    free = SimpleNamespace(runs_model=False)
    assert guess([], 100_000, 1000, 500) == guess([free, free], 100_000, 1000, 500) == 0
    assert guess([plain, plain], 100_000, 10, 1000) == 800  # whatever a fit may spend
    assert guess([shared], 100_000, 1000, 500) == 50_100
    assert guess([shared, plain], 1000, 1000, 1000) == 3600  # two entries at least
