"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from tunewise.errors import ForbiddenError, TunewiseError
from tunewise.serve.http.calls import caller_of
from tunewise.serve.http.figures import text_of
from tunewise.serve.http.running import in_thread
from tunewise.serve.http.service import Service
from tunewise.serve.tenants.records import BASE, Right

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def health_routes(service: Service) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(tags=["Health"])

    @routes.get("/healthz", summary="Whether the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", summary="Whether it can answer requests")
    async def readyz() -> Response:
        try:
            await in_thread(service.pool, service.check)
        except TunewiseError as error:
            return JSONResponse({"status": "not ready", "reason": error.what}, status_code=503)
        return JSONResponse({"status": "ready"})

    @routes.get(
        "/metrics",
        summary="Figures for Prometheus",
        description="Of the key's own tenant; of all for an operator's key.",
        response_class=PlainTextResponse,
    )
    async def metrics(request: Request) -> Response:
        principal = caller_of(request)
        if not principal.may(Right.ADMINISTER, BASE):
            raise ForbiddenError(
                "this key may not read figures",
                expected="a key with the right administer:* or administer:@base",
            )
        whole = service.store is None or principal.tenant == service.settings.operator
        tenant, peers = None if whole else principal.tenant, service.peers
        if peers is None:
            content = await in_thread(
                service.pool, lambda: text_of(service.figures.metrics(tenant))
            )
        else:
            metrics = await peers.figures(tenant)
            content = await in_thread(service.pool, lambda: text_of(metrics))
        return Response(content, media_type=PROMETHEUS)

    return routes
