"""A connection before its request is there: first line and headers must come in time and in bounds.

uvicorn waits for them without end and keeps whatever comes, before anybody is asked for a key. So a
few thousand silent connections would keep everybody out, and one with endless headers would take
the memory. What ends here was no request yet: it has no id and no line in the log.
"""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tunewise.serve.http.problems import Problem
from tunewise.serve.http.settings import Settings

_LATE = Problem(
    408, "invalid_request_error", "request_timeout", "the headers of the request did not arrive"
)
_LARGE = Problem(
    431, "invalid_request_error", "too_large", "the headers of the request have too many bytes"
)
_PHRASES = {408: "Request Timeout", 431: "Request Header Fields Too Large"}


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, with an end to its patience; see `bounded`.

    Attributes:
        head_seconds: from a connection's beginning, or the first byte after an answer, to the end
            of the headers.
        head_bytes: that may come without a request's headers ending or a piece of its body.
    """

    head_seconds: ClassVar[float]
    head_bytes: ClassVar[int]
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _went_on = False
    _fruitless = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Somebody is there: a request is due."""
        super().connection_made(transport)
        self._begin_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._end_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came, and see whether it led anywhere."""
        self._went_on = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        # Pieces are a quarter of a MiB at most, so one that holds the end of a head and more is not
        # taken apart.
        self._fruitless = 0 if self._went_on else self._fruitless + len(data)
        if self._fruitless > self.head_bytes:
            self._end(_LARGE)
        elif self._idle and self._timer is None:
            self._begin_waiting()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; one behind the body would only be kept, and changes nothing."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request is there."""
        self._in_head, self._went_on = False, True
        self._end_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._went_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of its body."""
        self._went_on = True
        super().on_message_complete()

    @property
    def _idle(self) -> bool:
        """Whether no answer is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def _begin_waiting(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self._late)

    def _end_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._end(_LATE if self._in_head else None)

    def _end(self, problem: Problem | None) -> None:
        """Close the connection; say why, where no answer is under way."""
        if problem is not None and self._idle:
            body = json.dumps(problem.body()).encode()
            head = (
                f"HTTP/1.1 {problem.status} {_PHRASES[problem.status]}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def bounded(settings: Settings, protocol: type[BoundedHeads] = BoundedHeads) -> type[BoundedHeads]:
    """The protocol with a server's limits, for `uvicorn.Config(http=...)`.

    Args:
        settings: of the server; `head_seconds` and `head_bytes` count.
        protocol: that gets them.
    """
    limits = {"head_seconds": settings.head_seconds, "head_bytes": settings.head_bytes}
    return type("BoundedHeads", (protocol,), limits)
