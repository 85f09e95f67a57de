"""What every request passes: an id, the key, size and time of its body, the log, the figures."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewise.errors import AccessError, TunewiseError, UnavailableError
from tunewise.serve.http.calls import STATE, Call
from tunewise.serve.http.logs import fault_fields
from tunewise.serve.http.problems import (
    GoneError,
    Problem,
    SlowBodyError,
    TooLargeError,
    problem_of,
    unexpected,
)
from tunewise.serve.http.service import Service
from tunewise.serve.tenants.records import Principal

# Where the files of the interface's page lie.
PAGE_FILES = "/docs/files"
_SHOWN = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
OPEN = frozenset(
    {"/healthz", "/readyz", "/docs", "/openapi.json", *(f"{PAGE_FILES}/{name}" for name in _SHOWN)}
)
UPLOAD = re.compile(r"/v1/adaptations/[^/]+/?")
LENT_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
log = logging.getLogger("tunewise.serve")


class Entrance:
    """Stands before the application.

    Args:
        app: the application.
        service: what all share.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call = Call()
        lent = headers.get("x-request-id", "")
        if LENT_ID.fullmatch(lent) and "tw_" not in lent:  # a key is no id
            call.id = lent
        scope[STATE] = call
        self._service.inside += 1
        answer = _Answer(send, call)
        with self._service.tracer.span(scope["method"], headers) as span:
            try:
                await self._through(scope, receive, answer, headers)
            except TunewiseError as error:
                await answer.refuse(problem_of(error), error)
            except Exception as error:
                await answer.refuse(unexpected(), error)
            finally:
                self._service.inside -= 1
                self._tell(scope, call)
                name = f"{scope['method']} {call.endpoint}"
                span.note(name, _span_facts(scope, call), failed=call.failed)

    async def _through(
        self, scope: Scope, receive: Receive, answer: _Answer, headers: Headers
    ) -> None:
        call: Call = scope[STATE]
        settings = self._service.settings
        if scope["path"] not in OPEN:
            if self._service.closed or (self._service.leaving and settings.grace_seconds == 0):
                raise UnavailableError("the server is about to stop")
            call.principal = await self._principal(scope, headers)
        if scope["method"] == "POST" and UPLOAD.fullmatch(scope["path"]):
            _refuse_length(headers, settings.upload_bytes)
            inner = _limited(receive, settings.upload_bytes, settings.upload_seconds)
        else:
            _refuse_length(headers, settings.body_bytes)
            inner = await _whole(receive, settings.body_bytes, settings.body_seconds)
        await self._app(scope, inner, answer)

    async def _principal(self, scope: Scope, headers: Headers) -> Principal:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            # As slow as a wrong key, and counted as one: what is no key tells nothing either.
            key = ""
        client = scope.get("client")
        return await self._service.holder(key, client[0] if client else "")

    def _tell(self, scope: Scope, call: Call) -> None:
        """One line in the log and one count for every request."""
        route = scope.get("route")
        call.endpoint = getattr(route, "path", "") or "none"
        tenant = "" if call.principal is None else call.principal.tenant
        self._service.figures.count(
            tenant, call.endpoint, call.status, call.code, call.seconds, call.figures
        )
        if scope["path"] in OPEN and call.status < 400:
            return
        fields: dict[str, Any] = {
            "event": "request",
            "request": call.id,
            "tenant": tenant,
            "key": "" if call.principal is None else call.principal.key_id,
            "method": scope["method"],
            "endpoint": call.endpoint,
            "model": call.model,
            "status": call.status,
            "code": call.code,
            "ms": round(call.seconds * 1000, 3),
            **call.figures,
        }
        if self._service.settings.log_prompts:
            fields |= call.texts
        log.info("request", extra={"fields": fields})


class _Answer:
    """The way back: adds the id, remembers the status."""

    def __init__(self, send: Send, call: Call) -> None:
        self._send, self._call = send, call
        self._whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._call.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._call.id
            headers["x-content-type-options"] = "nosniff"
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._whole = True

    async def refuse(self, problem: Problem, error: Exception) -> None:
        """Answer with a problem, where nothing was answered yet."""
        tell(self._call, problem, error)
        if self._whole:
            return
        if self._call.status:
            # Too late for a status: the connection is all that can be broken off.
            raise error
        body = json.dumps(problem.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= problem.headers()
        if not isinstance(error, AccessError):
            # What is left of the body is not read.
            headers["connection"] = "close"
        await self(
            {
                "type": "http.response.start",
                "status": problem.status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )
        await self({"type": "http.response.body", "body": body})


def tell(call: Call, problem: Problem, error: BaseException) -> None:
    """Note what a caller is told, and log what went wrong on this side."""
    call.code, call.failed = problem.code, problem.status >= 500
    if problem.status >= 500 or not isinstance(error, TunewiseError):
        fields = {"event": "fault", "request": call.id, **fault_fields(error)}
        cause = error.__cause__
        if cause is not None:
            fields["cause"] = fault_fields(cause)
        log.error("fault", extra={"fields": fields})


def _span_facts(scope: Scope, call: Call) -> Mapping[str, Any]:
    tenant = "" if call.principal is None else call.principal.tenant
    return {
        "http.request.method": scope["method"],
        "http.response.status_code": call.status,
        "tunewise.code": call.code,
        "http.route": call.endpoint,
        "tunewise.tenant": tenant,
        "tunewise.model": call.model,
        "tunewise.request": call.id,
        **{f"tunewise.{name}": value for name, value in call.figures.items()},
    }


def _refuse_length(headers: Headers, most: int) -> None:
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise _too_large(most)


async def _whole(receive: Receive, most: int, seconds: float) -> Receive:
    """Read a body to its end, and hand it out in one piece afterwards."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError("the caller went away before the request was whole")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise SlowBodyError("the request did not arrive in time") from error
    handed = False

    async def replay() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return replay


def _limited(receive: Receive, most: int, seconds: float) -> Receive:
    """Hand an upload through, piece by piece, within size and time."""
    until = asyncio.get_running_loop().time() + seconds
    seen, ended = 0, False

    async def count() -> Message:
        nonlocal seen, ended
        if ended:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError as error:
            raise SlowBodyError("the upload did not arrive in time") from error
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if seen > most:
                raise _too_large(most)
        return message

    return count


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        "the request has more bytes than one may have", expected=f"at most {most:,} bytes"
    )
