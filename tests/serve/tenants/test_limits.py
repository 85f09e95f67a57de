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


def test_processes_share_a_minutes_limits_and_refuse_nothing_that_one_would_allow() -> None:
    clock = Clock(MIDNIGHT)
    pair = [Limiter(processes=2, monotonic=clock, wall=clock) for _ in range(2)]
    caller = holder(requests_per_minute=30, tokens_per_minute=1000)
    admitted = 0
    for _ in range(600):
        for limits in pair:
            try:
                limits.admit(caller, "x", 10).close(Usage(1, 10, 0))
                admitted += 1
            except QuotaError:
                pass
        clock.now += 1
    # A full bucket in the beginning, then the rate: for both together what one would admit.
    assert 30 + 300 - 2 <= admitted <= 30 + 300 + 2
    # A request over a process's share, and within the limit, goes and leaves a debt.
    wide = Limiter(processes=4, monotonic=clock, wall=clock)
    wide.admit(holder(tokens_per_minute=1000), "x", 900).close(Usage(1, 900, 0))
    with pytest.raises(QuotaError) as error:
        wide.admit(holder(tokens_per_minute=1000), "x", 1)
    wait = error.value.retry_after_seconds
    assert wait == pytest.approx((900 - 250 + 1) / 250 * 60)
    with pytest.raises(QuotaError, match="more than the limit"):
        wide.admit(holder(tokens_per_minute=1000), "x", 1001)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 250, 251, 500, 501, 999, 1000])
def test_tokens_that_become_known_later_are_let_through_as_those_known_before(
    processes: int, tokens: int
) -> None:
    clock = Clock(MIDNIGHT)
    limits = Limiter(processes=processes, monotonic=clock, wall=clock)
    caller = holder(tokens_per_minute=1000)
    # As a request is: one token until it is rendered, then all.
    permit = limits.admit(caller, "x", 1)
    permit.take(tokens - 1)
    assert permit.tokens == tokens
    permit.close(Usage(1, tokens, 0))
    # What was taken beyond the share is owed.
    with pytest.raises(QuotaError) as error:
        limits.admit(caller, "x", 1000)
    assert error.value.retry_after_seconds == pytest.approx(60 * processes * tokens / 1000)


@pytest.mark.parametrize(("streams", "processes", "each"), [(4, 2, 2), (3, 2, 2), (1, 3, 1)])
def test_requests_at_once_are_shared_and_rounded_up(
    streams: int, processes: int, each: int
) -> None:
    limits = Limiter(processes=processes)
    for _ in range(each):
        limits.admit(holder(streams=streams), "x", 1)
    with pytest.raises(QuotaError):
        limits.admit(holder(streams=streams), "x", 1)


def test_the_days_tokens_of_other_processes_count_once_learned() -> None:
    clock = Clock(MIDNIGHT)
    ours, theirs = limiter(clock), limiter(clock)
    caller, day = holder(tokens_per_day=1000), "2023-11-15"
    running = ours.admit(caller, "x", 100)
    ours.admit(caller, "x", 100).close(Usage(1, 50, 0))
    theirs.admit(caller, "x", 400).close(Usage(1, 400, 0))
    # Theirs is stored; of ours nothing yet: 400 there, 50 used here and 100 that may be.
    stored = {"acme": sum(used.tokens for used in theirs.take_usage().values())}
    ours.learn(day, stored)
    with pytest.raises(QuotaError):
        ours.admit(caller, "x", 451)
    last = ours.admit(caller, "x", 450)
    # Ours is stored too, and everything ends: nothing counts twice.
    running.close(Usage(1, 100, 0))
    last.close(Usage(1, 0, 0))
    stored["acme"] += sum(used.tokens for used in ours.take_usage().values())
    ours.learn(day, stored)
    assert stored["acme"] == 550
    ours.admit(caller, "x", 450).close(Usage(1, 0, 0))
    with pytest.raises(QuotaError):
        ours.admit(caller, "x", 451)
    # What is told of another day is not counted.
    ours.learn("2023-11-14", {"acme": 10_000})
    ours.admit(caller, "x", 450).close(Usage(1, 0, 0))
    clock.now += DAY_SECONDS
    ours.admit(caller, "x", 1000)
