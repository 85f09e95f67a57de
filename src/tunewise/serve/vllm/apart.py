"""Keeps requests out of one batch that vLLM answers wrongly together.

Sides: on a processor vLLM takes "no LoRA" (slot -1) for its last slot. Once all slots were filled,
a request without a LoRA beside one with a LoRA answers as if it had one. The two run by turns.

Apart: where vLLM works without Triton, as on processors, one request that names the tokens whose
log-probabilities it wants takes the likeliest tokens away from all that are in its batch: they get
nothing, or -9999. So a request for the likeliest waits for the named ones that run, each of one
token; while it runs, nobody names tokens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Apart:
    """Who may run; used on one event loop only."""

    def __init__(self) -> None:
        self._ranked = self._named = 0
        self._none_named = asyncio.Event()
        self._none_named.set()

    @contextmanager
    def named(self) -> Iterator[bool]:
        """While a request that names tokens runs; gives whether it may."""
        if self._ranked:
            yield False
            return
        self._named += 1
        self._none_named.clear()
        try:
            yield True
        finally:
            self._named -= 1
            if not self._named:
                self._none_named.set()

    @asynccontextmanager
    async def ranked(self) -> AsyncGenerator[None, None]:
        """While a request for the likeliest tokens runs; begins once it may."""
        # Counted while it waits: no named ones begin any more, so it does not wait for long.
        self._ranked += 1
        try:
            await self._none_named.wait()
            yield
        finally:
            self._ranked -= 1


class Sides:
    """Turns of requests with and without a LoRA; used on one event loop only.

    Args:
        on: whether turns are needed at all.
    """

    def __init__(self, on: bool) -> None:
        self.on = on
        self._side, self._running = False, 0
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def held(self, side: bool) -> AsyncGenerator[None, None]:
        """While a request of one side runs; begins once no other side's does.

        Args:
            side: whether it has a LoRA.
        """
        if not self.on:
            yield
            return
        # Behind those who wait, also where its own side runs: nobody waits for ever.
        if self._running and (self._side != side or self._waiting):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((side, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        else:
            self._side, self._running = side, self._running + 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._running -= 1
        waiting = [each for each in self._waiting if not each[1].done()]
        if self._running or not waiting:
            return
        self._side = waiting[0][0]
        self._waiting = deque(each for each in waiting if each[0] != self._side)
        for side, turn in waiting:
            if side == self._side:
                self._running += 1
                turn.set_result(None)
