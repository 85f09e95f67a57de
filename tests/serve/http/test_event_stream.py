"""A stream whose reader left before it began is closed all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from tunewise.serve.http.event_stream import EventStream


def test_a_reader_that_left_at_once_closes_what_had_begun() -> None:
    closed: list[str] = []
    sent: list[Any] = []

    async def objects() -> AsyncGenerator[Mapping[str, Any], None]:
        try:
            yield {"n": 1}
            yield {"n": 2}
        finally:
            closed.append("closed")

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        await asyncio.sleep(10)

    async def run() -> None:
        chunks = objects()
        first = await anext(chunks)
        stream = EventStream(
            first, chunks, seconds=5, send_seconds=5, headers={}, told=lambda *_: None
        )
        await asyncio.wait_for(stream({"type": "http"}, receive, send), 3)

    asyncio.run(run())
    assert closed == ["closed"]
    assert len(sent) <= 1
