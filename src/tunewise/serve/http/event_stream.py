"""Server-sent events, as OpenAI sends them: `data: {...}` lines and `data: [DONE]`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tunewise.errors import TunewiseError
from tunewise.serve.http.problems import Problem, TooSlowError, problem_of, unexpected
from tunewise.serve.http.running import gone

DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends JSON objects as they come; stops the work when nobody reads on.

    Args:
        first: what to send first; taken from `objects` before, so that these have begun and can
            be closed: a generator that never began runs none of its own code when it is closed.
        objects: what to send then; closed in the end, whatever happens.
        seconds: time left for the whole answer.
        send_seconds: time in which the reader must take one piece.
        headers: headers beside the usual.
        told: learns of what breaks the answer off, and of what the reader is told then.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: Mapping[str, Any],
        objects: AsyncGenerator[Mapping[str, Any], None],
        *,
        seconds: float,
        send_seconds: float,
        headers: Mapping[str, str],
        told: Callable[[Problem, BaseException], None],
    ) -> None:
        self._first, self._told = first, told
        self._objects, self._seconds, self._send_seconds = objects, seconds, send_seconds
        self.background, self.status_code, self.body = None, 200, b""
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole answer, or stop where the reader left or the time is over."""
        # Without a body there is no length: the reader learns the end from the transfer.
        headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        pump = asyncio.ensure_future(self._pump(send, start))
        watcher = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait(
                {pump, watcher}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            late = not pump.done() and not watcher.done()
        finally:
            watcher.cancel()
            pump.cancel()
            await asyncio.gather(pump, watcher, return_exceptions=True)
            await self._objects.aclose()
        if late:
            error = TooSlowError("the answer did not come within the time a request may take")
            await self._last(send, problem_of(error), error)
        elif not pump.cancelled() and (fault := pump.exception()) is not None:
            raise fault

    async def _pump(self, send: Send, start: dict[str, Any]) -> None:
        await send(start)
        try:
            await self._body(send, _line(self._first))
            async for each in self._objects:
                await self._body(send, _line(each))
        except TunewiseError as error:
            await self._last(send, problem_of(error), error)
        except TimeoutError:
            return  # the reader is too slow; the connection ends without a proper end
        except Exception as error:
            await self._last(send, unexpected(), error)
            raise
        else:
            await self._body(send, DONE)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _last(self, send: Send, problem: Problem, error: BaseException) -> None:
        """Tell that the answer is broken off; there is no [DONE] behind it."""
        self._told(problem, error)
        await self._body(send, _line(problem.body()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _body(self, send: Send, data: bytes) -> None:
        message = {"type": "http.response.body", "body": data, "more_body": True}
        await asyncio.wait_for(send(message), self._send_seconds)


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode(errors="replace")
