"""From an engine's threads to one event loop: threads that may be left, streams, callers gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from typing import TypeAlias, TypeVar

from starlette.types import Receive

from tunewise.serve.contract import Finished, Piece, Stream
from tunewise.serve.http.problems import GoneError, TooSlowError

T = TypeVar("T")
Event: TypeAlias = Piece | Finished

ABORT_SECONDS = 5.0


async def in_thread(
    pool: Executor, function: Callable[[], T], undo: Callable[[T], None] | None = None
) -> T:
    """Run something that may block.

    Args:
        pool: the threads.
        function: what to run.
        undo: takes the result back where the caller was cancelled before it came.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, function)

    def take_back(done: asyncio.Future[T]) -> None:
        if not done.cancelled() and done.exception() is None and undo is not None:
            undo(done.result())

    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(take_back)
        raise


async def events(stream: Stream, ended: Callable[[Finished], None]) -> AsyncGenerator[Event, None]:
    """The pieces of a stream and its end; aborts it where nobody reads on.

    Args:
        stream: a running request.
        ended: is told of the end, also of one that nobody reads.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event] = asyncio.Queue()

    def listen(event: Event) -> None:
        # A loop that has ended has nobody to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, event)

    stream.subscribe(listen)
    event: Event | None = None
    try:
        while not isinstance(event, Finished):
            event = await queue.get()
            if isinstance(event, Finished):
                ended(event)
            yield event
    finally:
        if not isinstance(event, Finished):
            # Its place in the batch is free when the end comes, and not before.
            stream.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ABORT_SECONDS):
                    while not isinstance(event, Finished):
                        event = await queue.get()
                    ended(event)


async def attended(receive: Receive, work: Awaitable[T], seconds: float) -> T:
    """Wait for work as long as somebody waits for its result.

    Args:
        receive: of the connection whose request has been read to its end.
        work: is cancelled where the caller goes away or the time is over.
        seconds: that it may take.

    Raises:
        GoneError: the caller went away.
        TooSlowError: the time is over.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait(
            {task, watcher}, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED
        )
        if task.done():
            return task.result()
        left = watcher.done()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
    if left:
        raise GoneError("the caller went away before the answer came")
    raise TooSlowError("the answer did not come within the time a request may take")


async def gone(receive: Receive) -> None:
    """Returns when the other side has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
