"""The engine's work for one HTTP request: choose, render, admit, wait for a place, run, count."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tunewise.errors import BusyError, RequestTooLongError, RunError, TunewiseError
from tunewise.serve.contract import Finished, Piece, Ready, Request, Stream
from tunewise.serve.http.calls import Call
from tunewise.serve.http.models import Model, choose
from tunewise.serve.http.running import ABORT_SECONDS, events, in_thread
from tunewise.serve.http.service import Service
from tunewise.serve.tenants.records import Principal
from tunewise.serve.tenants.store import Usage

T = TypeVar("T")
Render = Callable[[Ready], Sequence[Request]]
ROOM_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Row:
    """One input, rendered.

    Attributes:
        request: what the engine gets; its `ready` is left out, since nothing that waits may keep
            an adaptation in memory.
        most_tokens: it may use, prompt and answer together.
    """

    request: Request
    most_tokens: int


@dataclass(slots=True)
class Work:
    """What runs for one HTTP request; made by `working`.

    Attributes:
        model: what answers.
        facts: of the adaptation, without what it keeps in memory.
        rows: one per input.
        used: tokens so far.
        ended: rows that the engine has ended.
    """

    service: Service
    call: Call
    principal: Principal
    model: Model
    facts: Ready
    rows: tuple[Row, ...]
    used: Usage
    ended: int = 0

    async def stream(self, index: int) -> AsyncGenerator[Piece | Finished, None]:
        """Run one row.

        Yields:
            Pieces as they come, then the end, which is no failure.

        Raises:
            TunewiseError: it was refused or failed.
        """
        service, row = self.service, self.rows[index]
        weight = self.principal.quota.weight
        await service.turnstile.enter(self.principal.tenant, cost=row.most_tokens, weight=weight)
        try:
            self.call.mark("queued_ms")

            def submit() -> Stream:
                ready = self.model.ready(service.engine)
                # What it costs to keep: a `weights` part costs as much as a base.
                self.call.figures["adaptation_bytes"] = ready.bytes
                return service.engine.submit(dataclasses.replace(row.request, ready=ready))

            stream = await with_room(
                service, self.call, self.principal, partial(self._submitted, submit)
            )
            async with aclosing(events(stream, self._count)) as running:
                async for event in running:
                    self.call.mark("first_ms")
                    yield _checked(event)
        finally:
            service.turnstile.leave()

    async def _submitted(self, submit: Callable[[], Stream]) -> Stream:
        """Hand a row to the engine; what it takes counts, even of who goes away meanwhile."""
        pool = self.service.pool
        future = asyncio.get_running_loop().run_in_executor(pool, submit)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with suppress(TunewiseError, TimeoutError):
                stream = await future
                stream.abort()
                self._count(await in_thread(pool, lambda: stream.result(ABORT_SECONDS)))
            raise

    async def result(self, index: int) -> Finished:
        """Run one row to its end."""
        async with aclosing(self.stream(index)) as running:
            async for event in running:
                if isinstance(event, Finished):
                    return event
        raise RunError("the engine ended a request without an end")

    async def results(self) -> list[Finished]:
        """Run all rows at once, in fair turns with all others; the first failure ends all."""
        return await self.each([partial(self.result, index) for index in range(len(self.rows))])

    async def each(self, jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run jobs at once; none is left running, whatever happens."""
        tasks = [asyncio.ensure_future(job()) for job in jobs]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, end: Finished) -> None:
        usage = end.usage
        self.ended += 1
        self.used += Usage(0, usage.prompt_tokens, usage.completion_tokens)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            self.call.add(name, getattr(usage, name))


@asynccontextmanager
async def working(
    service: Service,
    call: Call,
    principal: Principal,
    reference: str,
    render: Render,
    *,
    key: str | None = None,
) -> AsyncIterator[Work]:
    """All that one HTTP request needs of the engine, admitted and counted.

    Args:
        service: what all share.
        call: the request.
        principal: who asks.
        reference: the field `model`.
        render: makes the engine's requests; called on a thread.
        key: for an alias that splits its traffic.

    Raises:
        ForbiddenError, NotRegisteredError, QuotaError, RequestTooLongError, DataError,
        ConfigError, ServingError, UnavailableError: it cannot run.
    """

    def chosen() -> Model:
        return choose(service.engine, service.shelf, principal, reference, key)

    def rendered() -> tuple[Ready, tuple[Row, ...]]:
        ready = model.ready(service.engine)
        facts = _facts(ready)
        context = service.engine.base.context_length
        limit = service.settings.answer_tokens
        rows = (_row(request, facts, limit, context) for request in render(ready))
        return facts, tuple(rows)

    model = await in_thread(service.pool, chosen, undo=Model.release)
    call.model, call.usage_model = model.label, model.name
    try:
        # One token in advance: who has none left may not even have an adaptation loaded.
        permit = service.limiter.admit(principal, model.name, 1)
        used, ran = Usage(), 0
        try:
            facts, rows = await with_room(
                service, call, principal, partial(in_thread, service.pool, rendered)
            )
            permit.take(sum(row.most_tokens for row in rows) - 1)
            work = Work(service, call, principal, model, facts, rows, used)
            try:
                yield work
            finally:
                # What the engine never saw is no request that was answered.
                used, ran = work.used, min(work.ended, 1)
        finally:
            permit.close(used + Usage(requests=ran))
    finally:
        model.release()


async def with_room(
    service: Service, call: Call, principal: Principal, attempt: Callable[[], Awaitable[T]]
) -> T:
    """Do what needs room in the engine's memory, once running requests leave it.

    Args:
        service: what all share.
        call: the request, told how long it waited.
        principal: who asks; of those that wait, tenants take turns.
        attempt: what is to be done; raises BusyError, and costs little, while there is no room.

    Raises:
        BusyError: too many wait already.
        Whatever the attempt raises.
    """
    with suppress(BusyError):
        return await attempt()
    began = call.seconds
    await service.room.enter(principal.tenant, cost=1, weight=principal.quota.weight)
    try:
        while True:
            with suppress(BusyError):
                return await attempt()
            await asyncio.sleep(ROOM_SECONDS)
    finally:
        call.add("room_ms", round((call.seconds - began) * 1000, 3))
        service.room.leave()


def _facts(ready: Ready) -> Ready:
    """What is known of an adaptation, without what it keeps in memory."""
    others = tuple(_facts(each) for each in ready.others)
    return dataclasses.replace(ready, renderer=None, held=None, others=others)


def _row(request: Request, facts: Ready, limit: int, context: int) -> Row:
    """A rendered input with the most it may use; refused here where it cannot fit at all.

    Behind several prompts each must fit, and all are used.
    """
    behind = zip((facts, *facts.others), (request.tokens, *request.others), strict=True)
    sizes = [(each.prefix_positions + len(row), each.prefix_positions) for each, row in behind]
    prompt, ahead = max(sizes)
    generates = request.readout in ("own", "text")
    if prompt + (1 if generates else 0) > context:
        raise RequestTooLongError(
            "the prompt does not fit the model's context",
            found=f"{prompt:,} tokens, {ahead:,} of them the adaptation's",
            expected=f"at most {context:,}, the answer included",
            fix="send less text",
        )
    sampling = request.sampling
    if generates:
        own = None if facts.decoding is None else facts.decoding.max_new_tokens
        asked = own if sampling.max_new_tokens is None else sampling.max_new_tokens
        answer = min(limit if asked is None else asked, limit, context - prompt)
        if asked is None:
            sampling = dataclasses.replace(sampling, max_new_tokens=answer)
    else:
        answer = 0
    kept = dataclasses.replace(request, ready=facts, sampling=sampling)
    return Row(kept, sum(size for size, _ in sizes) + answer)


def _checked(event: Piece | Finished) -> Piece | Finished:
    if isinstance(event, Finished):
        if event.reason == "failed":
            raise RunError("the engine could not answer") if event.error is None else event.error
        if event.reason == "aborted":
            raise RunError("the request was stopped on this side")
    return event
