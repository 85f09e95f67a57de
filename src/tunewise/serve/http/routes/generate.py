"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tunewise.serve.contract import Finished, Piece, TokenChoice
from tunewise.serve.http.bodies import ChatBody, CompletionBody, Generating
from tunewise.serve.http.calls import call_of, caller_of
from tunewise.serve.http.entrance import tell
from tunewise.serve.http.event_stream import EventStream
from tunewise.serve.http.rendering import chat_render, completion_render
from tunewise.serve.http.replies import (
    Kind,
    chat_choice,
    chat_logprobs,
    envelope,
    text_choice,
    text_logprobs,
    usage_object,
)
from tunewise.serve.http.running import attended
from tunewise.serve.http.service import Service
from tunewise.serve.http.work import Render, Work, working

Chunk = dict[str, Any]
PREFIXES: dict[Kind, str] = {"chat": "chatcmpl-", "text": "cmpl-"}


def generate_routes(service: Service) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])
    tokenizer = service.engine.base.tokenizer

    @routes.post("/chat/completions", summary="Answer a conversation")
    async def chat(body: ChatBody, request: Request) -> Response:
        render = chat_render(tokenizer, body)
        logged = bool(body.logprobs)
        texts = [each.text for each in body.messages]
        return await _Asked(service, request, body, render, "chat", logged, texts).answer()

    @routes.post("/completions", summary="Answer or continue texts")
    async def completions(body: CompletionBody, request: Request) -> Response:
        render = completion_render(tokenizer, body, service.settings.inputs)
        logged = body.logprobs is not None
        return await _Asked(service, request, body, render, "text", logged, body.prompt).answer()

    return routes


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request for generated text.

    Attributes:
        service: what all share.
        request: as it came.
        body: what it asks.
        render: makes the engine's requests.
        kind: of a conversation or a text.
        logprobs: whether log-probabilities are asked for.
        texts: the prompts, for the log where it may hold them.
    """

    service: Service
    request: Request
    body: Generating
    render: Render
    kind: Kind
    logprobs: bool
    texts: Any

    async def answer(self) -> Response:
        """The whole answer, or a stream whose first piece is there."""
        call = call_of(self.request)
        settings = self.service.settings
        if settings.log_prompts:
            call.texts["prompt"] = self.texts
        identity = f"{PREFIXES[self.kind]}{secrets.token_hex(16)}"
        left = settings.request_seconds - call.seconds
        if not self.body.stream:
            content, model = await attended(self.request.receive, self._whole(identity), left)
            return JSONResponse(content, headers={"x-tunewise-version": model})
        chunks = self._chunks(identity)
        # What goes wrong before the first piece still gets its own status.
        first = await attended(self.request.receive, anext(chunks), left)

        return EventStream(
            first,
            chunks,
            seconds=settings.request_seconds - call.seconds,
            send_seconds=settings.send_seconds,
            headers={"x-tunewise-version": call.model},
            told=partial(tell, call),
        )

    async def _whole(self, identity: str) -> tuple[Chunk, str]:
        async with self._working() as work:
            gathered = [_Gathered(work, index) for index in range(len(work.rows))]
            ends = await work.each([each.run for each in gathered])
            self._remember(work, identity, [end.text for end in ends])
        choices = [
            chat_choice(end, each.choices if self.logprobs else None)
            if self.kind == "chat"
            else text_choice(index, end, each.choices if self.logprobs else None)
            for index, (end, each) in enumerate(zip(ends, gathered, strict=True))
        ]
        content = envelope(self.kind, identity, work.model, chunk=False)
        usage = usage_object([end.usage for end in ends])
        return {**content, "choices": choices, "usage": usage}, work.model.label

    async def _chunks(self, identity: str) -> AsyncGenerator[Chunk, None]:
        options = self.body.stream_options
        with_usage = options is not None and options.include_usage
        said = ""
        async with self._working() as work:
            around = envelope(self.kind, identity, work.model, chunk=True)
            if with_usage:
                around["usage"] = None
            async with aclosing(work.stream(0)) as running:
                first = True
                async for event in running:
                    if isinstance(event, Finished):
                        end = event
                        break
                    yield {**around, "choices": [self._part(event, first, len(said))]}
                    said += event.text
                    first = False
                # What a readout gives at once comes with the end and in no piece before.
                rest = end.text.removeprefix(said) if not said else ""
                if first:
                    yield {**around, "choices": [self._part(Piece(rest), True, 0)]}
                yield {**around, "choices": [self._last(end)]}
                if with_usage:
                    yield {**around, "choices": [], "usage": usage_object([end.usage])}
            self._remember(work, identity, [end.text])

    def _working(self) -> Any:
        principal = caller_of(self.request)
        return working(
            self.service,
            call_of(self.request),
            principal,
            self.body.model,
            self.render,
            key=sticky_key(self.request, self.body.user),
        )

    def _remember(self, work: Work, identity: str, texts: list[str]) -> None:
        self.service.answered(identity, work.principal.tenant, work.model)
        if self.service.settings.log_prompts:
            work.call.texts["answer"] = texts

    def _part(self, piece: Piece, first: bool, offset: int) -> Chunk:
        """One piece of a streamed answer."""
        if self.kind == "text":
            logprobs = text_logprobs(piece.choices, offset) if self.logprobs else None
            return {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": None}
        delta = {"role": "assistant"} if first else {}
        return {
            "index": 0,
            "delta": {**delta, "content": piece.text},
            "logprobs": chat_logprobs(piece.choices) if self.logprobs else None,
            "finish_reason": None,
        }

    def _last(self, end: Finished) -> Chunk:
        told = {"index": 0, "logprobs": None, "finish_reason": end.reason}
        return {**told, "text": ""} if self.kind == "text" else {**told, "delta": {}}


class _Gathered:
    """The end of one row, and its tokens on the way."""

    def __init__(self, work: Work, index: int) -> None:
        self._work, self._index = work, index
        self.choices: list[TokenChoice] = []

    async def run(self) -> Finished:
        """Run it to its end."""
        async with aclosing(self._work.stream(self._index)) as running:
            async for event in running:
                if isinstance(event, Finished):
                    return event
                self.choices += event.choices
        raise RuntimeError("a stream ended without an end")


def sticky_key(request: Request, user: str | None) -> str | None:
    """Under which key a version is drawn where an alias splits its traffic.

    Args:
        request: its header `x-tunewise-sticky` comes first.
        user: the field `user`.
    """
    given = request.headers.get("x-tunewise-sticky")
    key = user if given is None else given[:512]
    # What is empty names nobody: all who send it would get one version.
    return key if key else None
