"""Rates and quotas against a slow twin that remembers every request."""

from __future__ import annotations

import random
import threading

import pytest

from tunewise.errors import QuotaError
from tunewise.serve.tenants.limits import DAY_SECONDS, Limiter
from tunewise.serve.tenants.records import Principal, Quota
from tunewise.serve.tenants.store import Usage

MIDNIGHT = 1_700_006_400.0  # 2023-11-15T00:00:00Z


class Clock:
    """A clock that goes when told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def holder(tenant: str = "acme", **limits: int) -> Principal:
    return Principal(tenant, "k", frozenset(), Quota(**limits))  # type: ignore[arg-type]  # ints


def limiter(clock: Clock, **spent: int) -> Limiter:
    return Limiter(spent, monotonic=clock, wall=clock)


def test_without_limits_nothing_is_refused_and_all_is_counted() -> None:
    limits = limiter(Clock(MIDNIGHT))
    for _ in range(100):
        limits.admit(holder(), "tickets", 10**6).close(Usage(1, 5, 2))
    day = ("2023-11-15", "acme", "tickets")
    assert limits.take_usage() == {day: Usage(100, 500, 200)}
    assert limits.take_usage() == {}
    limits.put_back({day: Usage(1, 1, 1)})
    assert limits.take_usage() == {day: Usage(1, 1, 1)}


def test_the_wait_that_is_told_is_enough_and_no_more_than_needed() -> None:
    clock = Clock(MIDNIGHT)
    limits, caller = limiter(clock), holder(requests_per_minute=30)
    for _ in range(30):
        limits.admit(caller, "x", 0)
    with pytest.raises(QuotaError) as error:
        limits.admit(caller, "x", 0)
    wait = error.value.retry_after_seconds
    assert wait == pytest.approx(2.0)
    clock.now += wait * 0.9
    with pytest.raises(QuotaError):
        limits.admit(caller, "x", 0)
    clock.now += wait * 0.1 + 1e-6
    limits.admit(caller, "x", 0)


@pytest.mark.parametrize("seed", range(3))
def test_no_window_ever_holds_more_than_the_bucket_and_its_filling(seed: int) -> None:
    draw, clock = random.Random(seed), Clock(MIDNIGHT)
    rate = 600
    limits, caller = limiter(clock), holder(tokens_per_minute=rate)
    taken: list[tuple[float, int]] = []
    refused = 0
    for _ in range(2000):
        clock.now += draw.expovariate(1.0)
        asked, used = draw.randint(1, 100), draw.randint(0, 40)
        try:
            permit = limits.admit(caller, "x", asked)
        except QuotaError:
            refused += 1
            continue
        permit.close(Usage(1, 0, min(asked, used)))
        taken.append((clock.now, min(asked, used)))
    assert 0 < refused < 2000
    for first in range(len(taken)):
        total = 0
        for at, used in taken[first : first + 60]:
            total += used
            assert total <= rate + (at - taken[first][0]) * rate / 60 + 1e-6


def test_what_was_not_used_comes_back_once() -> None:
    clock = Clock(MIDNIGHT)
    limits, caller = limiter(clock), holder(tokens_per_minute=100, tokens_per_day=150)
    permit = limits.admit(caller, "x", 100)
    with pytest.raises(QuotaError):
        limits.admit(caller, "x", 1)
    permit.close(Usage(1, 10, 20))
    permit.close(Usage(1, 0, 0))
    limits.admit(caller, "x", 70)
    with pytest.raises(QuotaError, match="minute"):
        limits.admit(caller, "x", 1)
    clock.now += 60
    with pytest.raises(QuotaError, match="day"):
        limits.admit(caller, "x", 51)
    limits.admit(caller, "x", 50)


def test_the_day_ends_at_midnight_and_begins_with_what_was_spent() -> None:
    clock = Clock(MIDNIGHT + 3600)
    limits, caller = limiter(clock, acme=90), holder(tokens_per_day=100)
    with pytest.raises(QuotaError) as error:
        limits.admit(caller, "x", 11)
    assert error.value.retry_after_seconds == pytest.approx(DAY_SECONDS - 3600)
    late = limits.admit(caller, "x", 10)
    clock.now = MIDNIGHT + DAY_SECONDS
    limits.admit(caller, "x", 100)
    late.close(Usage(1, 0, 0))  # yesterday's tokens do not come back today
    with pytest.raises(QuotaError):
        limits.admit(caller, "x", 1)


def test_a_request_over_the_whole_limit_is_told_that_waiting_does_not_help() -> None:
    limits = limiter(Clock(MIDNIGHT))
    for name in ("tokens_per_minute", "tokens_per_day"):
        with pytest.raises(QuotaError) as error:
            limits.admit(holder(**{name: 10}), "x", 11)
        assert error.value.retry_after_seconds is None


def test_streams_are_places() -> None:
    limits, caller = limiter(Clock(MIDNIGHT)), holder(streams=2)
    first, _ = limits.admit(caller, "x", 1), limits.admit(caller, "x", 1)
    with pytest.raises(QuotaError):
        limits.admit(caller, "x", 1)
    limits.admit(holder("beta", streams=2), "x", 1)
    assert limits.streams() == {"acme": 2, "beta": 1}
    first.close(Usage())
    limits.admit(caller, "x", 1)


def test_one_tenants_limits_are_not_anothers() -> None:
    limits = limiter(Clock(MIDNIGHT))
    limits.admit(holder("acme", requests_per_minute=1), "x", 1)
    with pytest.raises(QuotaError):
        limits.admit(holder("acme", requests_per_minute=1), "x", 1)
    limits.admit(holder("beta", requests_per_minute=1), "x", 1)


def test_limits_that_change_take_effect() -> None:
    limits = limiter(Clock(MIDNIGHT))
    for _ in range(50):
        limits.admit(holder(requests_per_minute=100), "x", 1)
    limits.admit(holder(requests_per_minute=5), "x", 1)
    for _ in range(4):
        limits.admit(holder(requests_per_minute=5), "x", 1)
    with pytest.raises(QuotaError):
        limits.admit(holder(requests_per_minute=5), "x", 1)
    limits.admit(holder(), "x", 1)


def test_many_threads_admit_exactly_the_limit() -> None:
    limits, caller = limiter(Clock(MIDNIGHT)), holder(requests_per_minute=100)
    admitted: list[int] = []

    def ask() -> None:
        for _ in range(50):
            try:
                limits.admit(caller, "x", 1).close(Usage(1, 1, 0))
                admitted.append(1)
            except QuotaError:
                pass

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(admitted) == 100
    assert sum(used.requests for used in limits.take_usage().values()) == 100
