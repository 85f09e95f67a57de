"""The application: routes, errors and the entrance around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from tunewise.errors import TunewiseError
from tunewise.serve.http.calls import call_of
from tunewise.serve.http.entrance import PAGE_FILES, Entrance, tell
from tunewise.serve.http.problems import Problem, problem_of, unexpected
from tunewise.serve.http.routes.adaptations import adaptation_routes
from tunewise.serve.http.routes.generate import generate_routes
from tunewise.serve.http.routes.health import health_routes
from tunewise.serve.http.routes.rows import row_routes
from tunewise.serve.http.service import Service

ABOUT = """One base model, every adaptation, many tenants.

`model` is `tenant/name`, with `@version` or `@alias` behind it, or the base."""

# Of what the routes themselves refuse.
_CODES = {404: "not_found", 405: "method_not_allowed"}


def application(service: Service) -> ASGIApp:
    """The ASGI application over a service, which it starts and stops.

    Args:
        service: engine, registry, tenants and limits.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    # The page of the interface with its own copy of what it shows itself with: many servers stand
    # where nothing can be fetched.
    app = FastAPIOffline(
        title="Tunewise",
        description=ABOUT,
        version=version("tunewise"),
        lifespan=lifespan,
        redoc_url=None,
        static_url=PAGE_FILES,
        responses={"4XX": {"description": "OpenAI's error object"}},
    )
    app.include_router(health_routes(service))
    # The entrance checks keys before anything is read; this tells the page of the interface so.
    keyed = [Depends(HTTPBearer(auto_error=False, description="tw_..."))]
    for routes in (generate_routes, row_routes, adaptation_routes):
        app.include_router(routes(service), dependencies=keyed)
    app.add_exception_handler(TunewiseError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _fault)
    return Entrance(app, service)


async def _ours(request: Request, error: Exception) -> Response:
    """An error of the tree."""
    if not isinstance(error, TunewiseError):
        raise error
    problem = problem_of(error)
    tell(call_of(request), problem, error)
    return _reply(problem)


async def _fault(request: Request, error: Exception) -> Response:
    """A fault in the program; the entrance logs it."""
    return _reply(unexpected())


async def _invalid(request: Request, error: Exception) -> Response:
    """A body or parameter that does not fit; the values themselves are not repeated."""
    if not isinstance(error, RequestValidationError):
        raise error
    told = []
    for each in error.errors():
        where = [str(step) for step in each["loc"] if step not in ("body", "query", "path")]
        told.append((".".join(where), str(each["msg"])))
    # Of a field that may have several forms each form complains; the first few are enough.
    message = "; ".join(f"{where}: {text}" if where else text for where, text in told[:4])
    param = told[0][0] if told and told[0][0] else None
    problem = Problem(400, "invalid_request_error", "invalid_value", message, param)
    call_of(request).code = problem.code
    return _reply(problem)


async def _plain(request: Request, error: Exception) -> Response:
    """No such address, another method there, or a body that is no JSON."""
    if not isinstance(error, HTTPException):
        raise error
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    code, message = _CODES.get(error.status_code, "invalid_value"), str(error.detail)
    if error.status_code == 400:
        message = "the body cannot be read; expected: a JSON object in UTF-8"
    problem = Problem(error.status_code, kind, code, message)
    call_of(request).code = problem.code
    response = _reply(problem)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _reply(problem: Problem) -> Response:
    return JSONResponse(problem.body(), problem.status, headers=problem.headers())
