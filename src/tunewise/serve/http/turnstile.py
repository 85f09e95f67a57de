"""Who goes next, when more requests wait than the engine has places.

Weighted fair queueing (Demers, Keshav & Shenker 1989; with the clock of Golestani 1994): each
request gets a finishing time at which it would end if its tenant had its share of the engine to
itself, and the earliest goes next. A tenant that sends thousands waits behind its own requests;
others do not wait behind them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from dataclasses import dataclass, field

from tunewise.errors import BusyError


@dataclass(slots=True, order=True)
class _Waiting:
    finish: float
    number: int
    tenant: str = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class Turnstile:
    """Places for requests in work, and fair queues for those that wait; for one event loop.

    Args:
        places: requests in work at most.
        waiting: requests that wait at most.
        waiting_per_tenant: of one tenant.
    """

    def __init__(self, places: int, *, waiting: int, waiting_per_tenant: int) -> None:
        self.places, self._most, self._most_own = places, waiting, waiting_per_tenant
        self._free = places
        self._queue: list[_Waiting] = []
        self._waiting: Counter[str] = Counter()
        self._finished: dict[str, float] = {}
        self._clock = 0.0
        self._number = 0

    @property
    def waiting(self) -> int:
        """Requests that wait now; may be asked for on any thread."""
        return sum(list(self._waiting.values()))

    @property
    def working(self) -> int:
        """Places that are taken now."""
        return self.places - self._free

    async def enter(self, tenant: str, *, cost: float, weight: float = 1.0) -> None:
        """Wait for a place; who got one must `leave`.

        Args:
            tenant: whose request it is.
            cost: how much work it is, in any unit that all share (tokens).
            weight: the tenant's share.

        Raises:
            BusyError: too many wait already.
        """
        start = max(self._clock, self._finished.get(tenant, 0.0))
        finish = start + max(cost, 1.0) / weight
        if self._free and not self._queue:
            self._free -= 1
            self._finished[tenant] = finish
            return
        self._refuse(tenant)
        self._finished[tenant] = finish
        self._number += 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, _Waiting(finish, self._number, tenant, turn))
        if len(self._queue) > 2 * self.waiting + 64:
            # Those that went away; they would stay until their turn came.
            self._queue = [entry for entry in self._queue if not entry.turn.done()]
            heapq.heapify(self._queue)
        self._waiting[tenant] += 1
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was this one's turn just now
            raise
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    def leave(self) -> None:
        """Give a place back; the next one goes."""
        self._free += 1
        while self._free and self._queue:
            entry = heapq.heappop(self._queue)
            if entry.turn.done():
                continue  # it went away
            self._clock = max(self._clock, entry.finish)
            self._free -= 1
            entry.turn.set_result(None)
        if not self._queue and self._free == self.places:
            # Nobody is owed anything; what tenants once did is forgotten.
            self._clock = 0.0
            self._finished.clear()

    def _refuse(self, tenant: str) -> None:
        own = self._waiting.get(tenant, 0)
        if own >= self._most_own or self.waiting >= self._most:
            raise BusyError(
                "too many requests wait already",
                found=f"{own} of yours",
                expected=f"at most {self._most_own} of one tenant, {self._most} of all",
                fix="try again in a moment",
            )
