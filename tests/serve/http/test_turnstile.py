"""Fair turns, against the shares that the weights promise."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tunewise.errors import BusyError
from tunewise.serve.http.turnstile import Turnstile


def turnstile(places: int = 1, waiting: int = 10_000, own: int = 10_000) -> Turnstile:
    return Turnstile(places, waiting=waiting, waiting_per_tenant=own)


async def pass_through(turns: Turnstile, order: list[str], tenant: str) -> None:
    """Go in and out again, noting whose turn it was."""
    await turns.enter(tenant, cost=100)
    order.append(tenant)
    await asyncio.sleep(0)
    turns.leave()


async def served_order(
    turns: Turnstile, requests: list[tuple[str, float, float]], first: int
) -> list[tuple[str, float]]:
    """All ask at once while the place is taken; who went in the order they went."""
    order: list[tuple[str, float]] = []
    await turns.enter("blocker", cost=1)

    async def one(tenant: str, cost: float, weight: float) -> None:
        await turns.enter(tenant, cost=cost, weight=weight)
        order.append((tenant, cost))
        await asyncio.sleep(0)
        turns.leave()

    tasks = [asyncio.create_task(one(*each)) for each in requests]
    await asyncio.sleep(0)
    turns.leave()
    await asyncio.gather(*tasks)
    return order[:first]


@pytest.mark.parametrize("weight", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_work_is_shared_by_weight_whatever_the_requests_cost(weight: float, seed: int) -> None:
    draw = random.Random(seed)
    requests = [("small", draw.uniform(1, 10), 1.0) for _ in range(800)]
    requests += [("large", draw.uniform(50, 150), weight) for _ in range(80)]
    draw.shuffle(requests)
    order = asyncio.run(served_order(turnstile(), requests, 10_000))
    # While both still wait, the work done for each stands as their weights.
    last = {tenant: max(i for i, each in enumerate(order) if each[0] == tenant)
            for tenant in ("small", "large")}  # fmt: skip
    done: Counter[str] = Counter()
    for tenant, cost in order[: min(last.values())]:
        done[tenant] += cost  # type: ignore[assignment]  # a counter of floats
    assert done["large"] / done["small"] == pytest.approx(weight, rel=0.2)


def test_a_newcomer_does_not_wait_behind_a_flood() -> None:
    async def run() -> int:
        turns = turnstile()
        await turns.enter("flood", cost=1)
        order: list[str] = []

        flood = [asyncio.create_task(pass_through(turns, order, "flood")) for _ in range(500)]
        await asyncio.sleep(0)
        turns.leave()
        while len(order) < 100:
            await asyncio.sleep(0)
        late = asyncio.create_task(pass_through(turns, order, "late"))
        await asyncio.gather(late, *flood)
        return order.index("late") - 100

    assert asyncio.run(run()) <= 3


def test_work_that_nobody_waited_for_is_no_debt() -> None:
    async def run() -> Counter[str]:
        turns = turnstile(places=3)
        await turns.enter("old", cost=100)
        for _ in range(200):  # never idle, and never anybody else
            await turns.enter("old", cost=100)
            turns.leave()
        for _ in range(2):
            await turns.enter("new", cost=100)
        order: list[str] = []

        tasks = [
            asyncio.create_task(pass_through(turns, order, each))
            for _ in range(100)
            for each in ("new", "old")
        ]
        await asyncio.sleep(0)
        for _ in range(3):
            turns.leave()
        await asyncio.gather(*tasks)
        return Counter(order[:40])

    assert asyncio.run(run())["old"] >= 18


def test_what_went_away_before_its_turn_cost_its_tenant_nothing() -> None:
    async def run() -> Counter[str]:
        turns = turnstile()
        await turns.enter("hasty", cost=100)
        for _ in range(200):
            task = asyncio.create_task(turns.enter("hasty", cost=100))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        order: list[str] = []

        tasks = [
            asyncio.create_task(pass_through(turns, order, each))
            for _ in range(50)
            for each in ("calm", "hasty")
        ]
        await asyncio.sleep(0)
        turns.leave()
        await asyncio.gather(*tasks)
        return Counter(order[:40])

    assert asyncio.run(run())["hasty"] >= 18


def test_who_is_cancelled_while_a_place_is_given_back_is_passed_over() -> None:
    async def run() -> None:
        turns = turnstile()
        await turns.enter("a", cost=1)
        first = asyncio.create_task(turns.enter("b", cost=1))
        second = asyncio.create_task(turns.enter("b", cost=1))
        await asyncio.sleep(0)
        first.cancel()
        turns.leave()
        await asyncio.wait_for(second, 1)
        turns.leave()
        assert (turns.working, turns.waiting) == (0, 0)

    asyncio.run(run())


def test_never_more_than_the_places_and_never_one_lost() -> None:
    async def run() -> None:
        draw = random.Random(0)
        turns = turnstile(places=3)
        inside = most = 0

        async def one(number: int) -> None:
            nonlocal inside, most
            await turns.enter(f"t{number % 5}", cost=draw.uniform(1, 9))
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(draw.random() * 0.002)
            finally:
                inside -= 1
                turns.leave()

        tasks = [asyncio.create_task(one(number)) for number in range(300)]
        for task in draw.sample(tasks, 100):
            await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in ended} <= {type(None), asyncio.CancelledError}
        assert most <= 3
        assert (turns.working, turns.waiting) == (0, 0)

    asyncio.run(run())


def test_who_is_cancelled_in_the_moment_of_its_turn_hands_it_on() -> None:
    async def run() -> None:
        turns = turnstile()
        await turns.enter("a", cost=1)
        first = asyncio.create_task(turns.enter("b", cost=1))
        second = asyncio.create_task(turns.enter("c", cost=1))
        await asyncio.sleep(0)
        turns.leave()
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert first.cancelled()
        turns.leave()
        assert (turns.working, turns.waiting) == (0, 0)

    asyncio.run(run())


def test_queues_are_bounded_for_each_and_for_all() -> None:
    async def run() -> None:
        turns = turnstile(waiting=3, own=2)
        await turns.enter("a", cost=1)
        tasks = [asyncio.create_task(turns.enter("a", cost=1)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await turns.enter("a", cost=1)
        tasks.append(asyncio.create_task(turns.enter("b", cost=1)))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await turns.enter("c", cost=1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns.waiting == 0
        turns.leave()
        await turns.enter("c", cost=1)

    asyncio.run(run())


def test_those_that_went_away_are_not_kept() -> None:
    async def run() -> None:
        turns = turnstile()
        await turns.enter("a", cost=1)
        for _ in range(2000):
            task = asyncio.create_task(turns.enter("b", cost=1))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (turns.waiting, turns._queues) == (0, {})

    asyncio.run(run())
