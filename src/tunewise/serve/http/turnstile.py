"""Who goes next, when more requests wait than the engine has places.

Weighted fair queueing (Demers, Keshav & Shenker 1989; with the clock of Golestani 1994): each
request gets a finishing time at which it would end if its tenant had its share of the engine to
itself, and the earliest goes next. A tenant that sends thousands waits behind its own requests;
others do not wait behind them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from tunewise.errors import BusyError


@dataclass(slots=True, eq=False)
class _Waiting:
    """One that waits.

    Attributes:
        number: in the order they came.
        clock: when it came.
        length: how long it would have a whole share to itself.
        turn: done when it may go.
    """

    number: int
    clock: float
    length: float
    turn: asyncio.Future[None]


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
        self._queues: dict[str, deque[_Waiting]] = {}
        # When what a tenant was given so far would have ended.
        self._finished: dict[str, float] = {}
        self._clock = 0.0
        self._number = 0

    @property
    def waiting(self) -> int:
        """Requests that wait now; may be asked for on any thread."""
        return sum(len(queue) for queue in list(self._queues.values()))

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
        length = max(cost, 1.0) / weight
        if self._free and not self._queues:
            self._give(tenant, max(self._clock, self._finished.get(tenant, 0.0)) + length)
            return
        self._refuse(tenant)
        self._number += 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = _Waiting(self._number, self._clock, length, turn)
        self._queues.setdefault(tenant, deque()).append(entry)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was this one's turn just now
            else:
                self._take_out(tenant, entry)
            raise

    def leave(self) -> None:
        """Give a place back; the next one goes."""
        self._free += 1
        while self._free and self._queues:
            finish, _, tenant = min(map(self._first, self._queues))
            entry = self._queues[tenant][0]
            self._take_out(tenant, entry)
            if entry.turn.done():
                continue  # it went away
            self._give(tenant, finish)
            entry.turn.set_result(None)
        if not self._queues and self._free == self.places:
            # Nobody is owed anything; what tenants once did is forgotten.
            self._clock = 0.0
            self._finished.clear()

    def _first(self, tenant: str) -> tuple[float, int, str]:
        """When the first of a tenant's that wait would end, its number, and whose it is.

        Told anew each time from what the tenant was given, so that those which went away before
        their turn cost it nothing.
        """
        entry = self._queues[tenant][0]
        start = max(entry.clock, self._finished.get(tenant, 0.0))
        return start + entry.length, entry.number, tenant

    def _give(self, tenant: str, finish: float) -> None:
        """Take a place for a tenant.

        The clock goes on also where nobody waits: work that was done while there was room for all
        is no debt towards whoever comes later.
        """
        self._free -= 1
        self._finished[tenant] = finish
        self._clock = max(self._clock, finish)

    def _take_out(self, tenant: str, entry: _Waiting) -> None:
        queue = self._queues.get(tenant)
        if queue is None or entry not in queue:
            return  # whoever gave a place back took it out meanwhile
        queue.remove(entry)
        if not queue:
            del self._queues[tenant]

    def _refuse(self, tenant: str) -> None:
        own = len(self._queues.get(tenant, ()))
        if own >= self._most_own or self.waiting >= self._most:
            raise BusyError(
                "too many requests wait already",
                found=f"{own} of yours",
                expected=f"at most {self._most_own} of one tenant, {self._most} of all",
                fix="try again in a moment",
            )
