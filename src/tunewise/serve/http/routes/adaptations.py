"""`/v1/models` and `/v1/adaptations`: what there is, publishing, promoting, retiring."""

from __future__ import annotations

import asyncio
import errno
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from tunewise.errors import ForbiddenError, InputError, StorageError
from tunewise.serve.http.archive import unpack
from tunewise.serve.http.bodies import PromoteBody, RetireBody, RollbackBody
from tunewise.serve.http.calls import call_of, caller_of, require
from tunewise.serve.http.models import choose
from tunewise.serve.http.running import in_thread
from tunewise.serve.http.service import Service
from tunewise.serve.http.shelf import Choice, Listed
from tunewise.serve.registry.records import RECIPE
from tunewise.serve.tenants.records import BASE, Principal, Right, check_name

T = TypeVar("T")
JsonObject = dict[str, Any]
Name = Annotated[str, Path(min_length=1, max_length=64)]
After = Annotated[str, Query(max_length=64, description="only names behind this one")]
PAGE = 1000
# The folders of an absolute path; the file's own name is left.
FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:;,'\"]+/)*")
Limit = Annotated[int, Query(ge=1, le=PAGE)]
ZIP = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def adaptation_routes(service: Service) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(prefix="/v1")
    _lists(routes, service)
    _changes(routes, service)
    return routes


def _lists(routes: APIRouter, service: Service) -> None:
    """Routes that only tell."""

    @routes.get("/models", tags=["OpenAI"], summary="What a key may use")
    async def models(request: Request, after: After = "", limit: Limit = PAGE) -> JsonObject:
        principal = caller_of(request)
        listed = await _page(service, principal, after, limit, Right.USE)
        data = [
            _model_object(f"{principal.tenant}/{each.name}", each)
            for each in listed
            if RECIPE not in each.facts["kinds"]
        ]
        if principal.may(Right.USE, BASE) and not after:
            data.insert(0, _base_object(service))
        more = len(listed) == limit
        return {"object": "list", "data": data, "has_more": more}

    @routes.get("/models/{model:path}", tags=["OpenAI"], summary="One of them")
    async def model(model: str, request: Request) -> JsonObject:
        principal = caller_of(request)

        def look() -> JsonObject:
            found = choose(service.engine, service.shelf, principal, model, None)
            found.release()
            if found.choice is None:
                return _base_object(service)
            listed = service.shelf.show(principal.tenant, found.choice.name)
            return {**_model_object(model, listed), "version": str(found.choice)}

        return await in_thread(service.pool, look)

    @routes.get("/adaptations", tags=["Adaptations"], summary="A tenant's adaptations")
    async def adaptations(request: Request, after: After = "", limit: Limit = PAGE) -> JsonObject:
        principal = caller_of(request)
        listed = await _page(service, principal, after, limit, *Right)
        data = [{"name": each.name, "created": int(each.created), **each.facts} for each in listed]
        last = listed[-1].name if listed else after
        return {"object": "list", "data": data, "has_more": len(listed) == limit, "last": last}

    @routes.get("/adaptations/{name}", tags=["Adaptations"], summary="One with its versions")
    async def adaptation(name: Name, request: Request) -> JsonObject:
        principal = caller_of(request)
        if not any(principal.may(right, name) for right in Right):
            raise ForbiddenError("this key may do nothing with this adaptation", found=name)
        check_name("adaptation", name)
        listed = await in_thread(service.pool, lambda: service.shelf.show(principal.tenant, name))
        return {"name": listed.name, "created": int(listed.created), **listed.facts}


def _changes(routes: APIRouter, service: Service) -> None:
    """Routes that change the registry."""

    @routes.post(
        "/adaptations/{name}",
        tags=["Adaptations"],
        summary="Publish a version: the body is a zip of the adaptation's files",
        status_code=201,
        openapi_extra=ZIP,
    )
    async def publish(
        name: Name,
        request: Request,
        notes: Annotated[str, Query(max_length=2000)] = "",
    ) -> Response:
        principal = _allowed(request, Right.PUBLISH, name)
        with service.uploading():
            return await _published(service, request, principal, name, notes)

    @routes.post("/adaptations/{name}/promote", tags=["Adaptations"], summary="Set an alias")
    async def promote(name: Name, body: PromoteBody, request: Request) -> JsonObject:
        principal = _allowed(request, Right.PROMOTE, name)
        return await in_thread(
            service.pool,
            lambda: dict(
                service.shelf.promote(
                    principal.tenant,
                    name,
                    body.version,
                    alias=body.alias,
                    share=body.share,
                    actor=_actor(principal),
                    reason=body.reason,
                )
            ),
        )

    @routes.post("/adaptations/{name}/rollback", tags=["Adaptations"], summary="Take it back")
    async def rollback(name: Name, body: RollbackBody, request: Request) -> JsonObject:
        principal = _allowed(request, Right.PROMOTE, name)
        return await in_thread(
            service.pool,
            lambda: dict(
                service.shelf.rollback(
                    principal.tenant, name, alias=body.alias, actor=_actor(principal)
                )
            ),
        )

    @routes.post("/adaptations/{name}/retire", tags=["Adaptations"], summary="End a version")
    async def retire(name: Name, body: RetireBody, request: Request) -> JsonObject:
        principal = _allowed(request, Right.PROMOTE, name)
        return await in_thread(
            service.pool,
            lambda: dict(
                service.shelf.retire(principal.tenant, name, body.version, actor=_actor(principal))
            ),
        )


async def _published(
    service: Service, request: Request, principal: Principal, name: str, notes: str
) -> Response:
    async with _received(service, request) as archive:

        def register() -> Choice:
            folder = archive.parent / "adaptation"
            unpack(archive, folder, most_bytes=service.settings.upload_bytes)
            return service.shelf.publish(
                principal.tenant, name, folder, actor=_actor(principal), notes=notes
            )

        choice = await _told(service, register)
    call_of(request).model = str(choice)
    content = {"version": str(choice), "number": choice.number, "digest": choice.digest}
    return JSONResponse(content, status_code=201)


def _allowed(request: Request, right: Right, name: str) -> Principal:
    principal = caller_of(request)
    require(principal, right, name)
    check_name("adaptation", name)
    return principal


def _actor(principal: Principal) -> str:
    return f"key {principal.key_id}"


async def _page(
    service: Service, principal: Principal, after: str, limit: int, *rights: Right
) -> list[Listed]:
    """A page of what the key has any of these rights on: what it has not is in no page, and moves
    no limit."""
    tenant, only = principal.tenant, principal.names(*rights)
    return await in_thread(
        service.pool, lambda: service.shelf.page(tenant, after=after, limit=limit, only=only)
    )


@asynccontextmanager
async def _received(service: Service, request: Request) -> AsyncIterator[FilePath]:
    """An upload in a private folder, which is gone afterwards."""

    def make() -> FilePath:
        return FilePath(tempfile.mkdtemp(prefix="tunewise-upload-"))

    def remove(folder: FilePath) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    folder: FilePath | None = None
    try:
        folder = await in_thread(service.pool, make, undo=remove)
        archive = folder / "upload.zip"
        with archive.open("wb") as target:
            async for data in request.stream():
                await in_thread(service.pool, lambda data=data: target.write(data))  # type: ignore[misc]  # bound now
        yield archive
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("the disk is full", found=str(error)) from error
        raise
    finally:
        if folder is not None:
            await asyncio.shield(in_thread(service.pool, partial(remove, folder)))


async def _told(service: Service, job: Callable[[], T]) -> T:
    """Run a job whose complaints are about folders that the caller knows nothing of."""
    try:
        return await in_thread(service.pool, job)
    except InputError as error:
        error.what, error.found, error.expected, error.fix = (
            FOLDERS.sub("", text) for text in (error.what, error.found, error.expected, error.fix)
        )
        raise


def _base_object(service: Service) -> JsonObject:
    base = service.engine.base
    return {
        "id": base.name,
        "object": "model",
        "created": 0,
        "owned_by": "tunewise",
        "context_length": base.context_length,
        "dtype": base.dtype,
    }


def _model_object(identity: str, listed: Listed) -> JsonObject:
    return {
        "id": identity,
        "object": "model",
        "created": int(listed.created),
        "owned_by": identity.partition("/")[0],
        **listed.facts,
    }
