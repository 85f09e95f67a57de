"""One replica: the application that one process serves, in a process of Ray's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from prometheus_client.core import Metric
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewise.errors import TunewiseError, UnavailableError, UnknownNameError
from tunewise.serve.http.app import application
from tunewise.serve.http.logs import fault_fields, handlers_to
from tunewise.serve.http.peers import joined, labelled
from tunewise.serve.http.service import Service
from tunewise.serve.replicas.lines import lines_to

PEER_SECONDS = 5.0
log = logging.getLogger("tunewise.serve")


class Replica:
    """What Ray Serve makes one of per replica; its methods answer the others and the command.

    Args:
        make: makes engine, registry, tenants and limits.
        log_place: where log lines go on this machine; None in a cluster, for Ray's own log.
    """

    def __init__(self, make: Callable[[], Service], log_place: str | None) -> None:
        handlers_to(sys.stderr if log_place is None else lines_to(log_place))
        if log_place is not None:
            _listen_here_only()
        try:
            self._service = make()
        except Exception as error:
            # The command learns from Ray that it failed, and not why.
            fields = {"event": "replica did not start", **fault_fields(error)}
            log.error("replica did not start", extra={"fields": fields})
            raise
        self._service.peers = _Peers()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray Serve asks for the application so."""
        return _without_id(application(self._service))

    async def outcome(self, request: str, tenant: str, score: float) -> tuple[str, str] | None:
        """See `Peers.outcome`.

        Returns:
            The label, and what kept the outcome from being stored, or ""; None where the answer
            was not given here. Nothing is raised: errors do not travel whole.
        """
        try:
            return await self._service.outcome(request, tenant, score), ""
        except UnknownNameError:
            return None
        except TunewiseError as error:
            return "", error.what

    async def figures(self, tenant: str | None) -> list[Metric]:
        """This replica's own, labelled."""
        return labelled(self._service.figures.metrics(tenant), _own_name())

    async def leave(self, closed: bool) -> int:
        """Say that this replica is not ready any more.

        Args:
            closed: whether it takes nothing new from now on.

        Returns:
            Requests that run.
        """
        self._service.leaving = True
        self._service.closed = closed
        return self._service.inside


def _listen_here_only() -> None:
    """Ray has a port of each replica listen on all addresses, and no setting for it.

    What is sent there is unpickled; it asks for Ray's token, but need not be reached at all.
    """
    from ray.serve._private import replica as ray_replica

    name = "add_port_to_grpc_server"
    bind = getattr(ray_replica, name, None)
    if bind is None:
        log.warning("a port of this replica listens on all addresses: this Ray binds it elsewhere")
        return
    setattr(ray_replica, name, lambda server, _: bind(server, "127.0.0.1:0"))


def _without_id(app: ASGIApp) -> ASGIApp:
    """The application without the header that Ray's proxy adds too, else it would stand twice."""

    async def through(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await app(scope, receive, sent)

    return through


class _Peers:
    """See `Peers`; asks all replicas, this one among them."""

    async def outcome(self, request: str, tenant: str, score: float) -> str | None:
        """See `Peers.outcome`."""
        everything = await _all("outcome", request, tenant, score)
        for told in everything:
            if told is not None and not isinstance(told, BaseException):
                label, fault = told
                if fault:
                    raise UnavailableError("the outcome could not be stored now", found=fault)
                return str(label)
        if any(isinstance(told, BaseException) for told in everything):
            # The one that gave the answer may be among those.
            raise UnavailableError("one of the replicas does not answer", fix="try again")
        return None

    async def figures(self, tenant: str | None) -> list[Metric]:
        """See `Peers.figures`; of a replica that is about to end there are none."""
        everything = await _all("figures", tenant)
        return joined([each for each in everything if not isinstance(each, BaseException)])


async def _all(method: str, *args: Any) -> list[Any]:
    """What all replicas say; what was raised instead by those that could not."""
    from ray import serve

    context = serve.get_replica_context()
    handle = serve.get_deployment_handle(context.deployment, context.app_name)
    asked = handle.broadcast(method, *args)
    try:
        told = await asked.results_async(timeout_s=PEER_SECONDS, return_exceptions=True)
    except TimeoutError as error:
        raise UnavailableError("the other replicas do not answer") from error
    return list(told)


def _own_name() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_tag)
