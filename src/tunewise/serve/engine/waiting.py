"""Requests that wait for a place, fair between tenants."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within a tenant; between tenants whoever has the fewest running, and
    of those whoever was served longest ago. So one that floods the queue delays itself.
    """

    def __init__(self) -> None:
        # Tenants in the order in which they were last served.
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._running: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(len(each) for each in self._waiting.values())

    def put(self, tenant: str, item: T) -> None:
        """Take an item at the end of its tenant's queue."""
        self._waiting.setdefault(tenant, deque()).append(item)

    def next(self) -> T | None:
        """The item whose turn it is, now running; None where nobody waits."""
        waiting = [tenant for tenant, items in self._waiting.items() if items]
        if not waiting:
            return None
        # `min` takes the first of equals: the one that was served longest ago.
        tenant = min(waiting, key=lambda each: self._running[each])
        item = self._waiting[tenant].popleft()
        self._running[tenant] += 1
        if self._waiting[tenant]:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        return item

    def ended(self, tenant: str) -> None:
        """An item of this tenant runs no longer."""
        self._running[tenant] -= 1
        if self._running[tenant] <= 0:
            del self._running[tenant]

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out the items that are not wanted any more."""
        found: list[T] = []
        for tenant in list(self._waiting):
            items = self._waiting[tenant]
            out = [item for item in items if unwanted(item)]
            if out:
                found += out
                kept = deque(item for item in items if not unwanted(item))
                if kept:
                    self._waiting[tenant] = kept
                else:
                    del self._waiting[tenant]
        return found
