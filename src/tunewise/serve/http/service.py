"""What all requests share: engine, registry, tenants, places, figures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from tunewise.errors import BusyError, TunewiseError
from tunewise.serve.contract import Engine
from tunewise.serve.http.figures import Figures
from tunewise.serve.http.logs import fault_fields
from tunewise.serve.http.models import Model
from tunewise.serve.http.outcomes import Answers
from tunewise.serve.http.peers import Peers
from tunewise.serve.http.running import in_thread
from tunewise.serve.http.settings import Settings
from tunewise.serve.http.shelf import Shelf
from tunewise.serve.http.traces import Tracer
from tunewise.serve.http.turnstile import Turnstile
from tunewise.serve.tenants.door import Door
from tunewise.serve.tenants.limits import Limiter
from tunewise.serve.tenants.records import Grant, Principal, Right
from tunewise.serve.tenants.store import DAY, TenantStore

THREADS = 16
HASHING, MOST_HASHES = 2, 64
CHECKED_SECONDS = 0.5
ANSWERS_KEPT = 100_000
READY_PLACES = 2
log = logging.getLogger("tunewise.serve")


class Service:
    """Everything behind the routes; for one event loop.

    Args:
        engine: answers rows.
        shelf: knows adaptations.
        store: tenants and keys; None lets everybody in as the one tenant "local", with all rights.
        settings: limits.
        tracer: records spans where tracing is on.
    """

    def __init__(
        self,
        engine: Engine,
        shelf: Shelf,
        store: TenantStore | None,
        settings: Settings,
        tracer: Tracer | None = None,
    ) -> None:
        self.engine, self.shelf, self.settings, self.store = engine, shelf, settings, store
        self.tracer = Tracer() if tracer is None else tracer
        self.door = None if store is None else Door(store)
        self.limiter = Limiter(_spent_today(store, _today()), processes=settings.processes)
        slots = settings.places
        self.turnstile = Turnstile(
            engine.stats().slots + READY_PLACES if slots is None else slots,
            waiting=settings.waiting,
            waiting_per_tenant=settings.waiting_per_tenant,
        )
        # Those for whose adaptation there is no room in memory while others run.
        self.room = Turnstile(
            1, waiting=settings.waiting, waiting_per_tenant=settings.waiting_per_tenant
        )
        self.figures = Figures(engine, self.turnstile, self.room)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tunewise-http")
        # Hashing keys must not hold up what needs no hashing, however many wrong ones come.
        self._hashing = ThreadPoolExecutor(HASHING, thread_name_prefix="tunewise-keys")
        self._hashes = 0
        self.peers: Peers | None = None
        # Told to leave; and then, that nothing new is taken. Requests that are in the house.
        self.leaving = self.closed = False
        self.inside = 0
        self._uploads = 0
        self._checked_at = -math.inf
        self._answers = Answers(ANSWERS_KEPT)
        self._keeper: asyncio.Task[None] | None = None

    def anybody(self) -> Principal:
        """Who asks where no keys are asked for."""
        return Principal("local", "none", frozenset(Grant(right) for right in Right))

    async def holder(self, key: str, address: str) -> Principal:
        """Who holds a key; see `Door`.

        Raises:
            AccessError: nobody does.
            QuotaError, BusyError: too many keys are to be hashed.
            UnavailableError: the database of keys does not answer.
        """
        door = self.door
        if door is None:
            return self.anybody()
        known = door.quick(key)
        if known is not None:
            return known
        if door.fitted(key):
            # Its record is read anew; it waits for none that are hashed, however many these are.
            return await in_thread(self.pool, lambda: door.principal(key, address))
        if self._hashes >= MOST_HASHES:
            raise BusyError("too many unknown keys wait to be looked at")
        self._hashes += 1
        try:
            return await in_thread(self._hashing, lambda: door.principal(key, address))
        finally:
            self._hashes -= 1

    def answered(self, request: str, tenant: str, model: Model) -> None:
        """Remember what answered, for an outcome that may come."""
        self._answers.put(request, tenant, model)

    async def outcome(self, request: str, tenant: str, score: float) -> str:
        """Note how good an answer was; each takes one outcome.

        Args:
            request: the answer's id.
            tenant: who tells.
            score: 0 wrong, 1 right.

        Returns:
            The label of the model that gave it.

        Raises:
            UnknownNameError: this process gave no such answer to this tenant lately, or its
                outcome was told before.
            UnavailableError: it could not be stored.
        """
        held = self._answers.take(request, tenant)
        model = held.model

        def note() -> None:
            if model.choice is not None:
                self.shelf.outcome(model.choice, request=request, key=model.key, score=score)

        try:
            await in_thread(self.pool, note)
        except BaseException:
            held.told = False  # it may be told again
            raise
        return model.label

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """A place for an upload while the context lasts.

        Raises:
            BusyError: all are taken.
        """
        if self._uploads >= self.settings.uploads:
            raise BusyError("too many uploads arrive already", fix="try again in a moment")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def start(self) -> None:
        """Begin to store usage now and then."""
        self._keeper = asyncio.create_task(self._keep_usage())

    async def stop(self) -> None:
        """End: usage is stored, the engine and the registry are closed."""
        self.leaving = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await in_thread(self.pool, self._close)
        self.pool.shutdown(wait=True)
        self._hashing.shutdown(wait=True)
        self.tracer.close()

    def store_usage(self) -> None:
        """Write what was used since the last time; kept for the next where that fails."""
        used = self.limiter.take_usage()
        if self.store is None:
            return
        try:
            if used:
                self.store.add_usage(used)
                used = {}
            day = _today()
            self.limiter.learn(day, _spent_today(self.store, day))
        except Exception as error:  # whatever it is, nothing is lost and the next time comes
            self.limiter.put_back(used)
            log.error(
                "usage", extra={"fields": {"event": "usage not stored", **fault_fields(error)}}
            )

    def check(self) -> None:
        """Ask everything that a request needs.

        Raises:
            UnavailableError: something does not answer.
            BusyError: the server is about to leave.
        """
        if self.leaving:
            raise BusyError("the server is about to stop")
        if time.monotonic() - self._checked_at < CHECKED_SECONDS:
            return  # anybody may ask, without a key, as often as they like
        if self.store is not None:
            self.store.check()
        self.shelf.check()
        self.engine.check()
        self._checked_at = time.monotonic()

    async def _keep_usage(self) -> None:
        while True:
            await asyncio.sleep(self.settings.usage_seconds)
            await in_thread(self.pool, self.store_usage)

    def _close(self) -> None:
        self.store_usage()
        closing: list[Callable[[], None]] = [self.engine.close, self.shelf.close]
        if self.store is not None:
            closing.append(self.store.close)
        for each in closing:
            with contextlib.suppress(TunewiseError):
                each()


def _today() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime(DAY)


def _spent_today(store: TenantStore | None, today: str) -> dict[str, int]:
    if store is None:
        return {}
    spent: dict[str, int] = {}
    for (_, tenant, _), used in store.usage(day=today).items():
        spent[tenant] = spent.get(tenant, 0) + used.tokens
    return spent
