"""One process that listens, until it is told to leave.

SIGTERM (or SIGINT): /readyz says no at once; for `grace_seconds` requests are still taken, so that
whoever distributes them can notice; then nothing new is taken, running requests end, usage is
stored. What has not ended after `drain_seconds` is broken off. A second signal ends at once.
"""

from __future__ import annotations

import math
import socket
import time
from types import FrameType

import uvicorn

from tunewise.errors import ConfigError, UnavailableError
from tunewise.serve.http.app import application
from tunewise.serve.http.heads import bounded
from tunewise.serve.http.service import Service

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
CONNECTIONS = 2048
IDLE_SECONDS = 30


class _Server(uvicorn.Server):
    """Leaves in the order that the module tells, and then ends as a command that is done."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._leave_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came: nothing is done here but to note it."""
        if self._service.leaving:
            self.should_exit = self.force_exit = True
        self._service.leaving = True
        self._leave_at = time.monotonic() + self._service.settings.grace_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)


def refuse_strangers(host: str, *, unlocked: bool) -> None:
    """Let nobody from elsewhere in where no keys are asked for.

    Args:
        host: address to listen on.
        unlocked: whether everybody may do everything.

    Raises:
        ConfigError: it would be open to others than this machine.
    """
    if unlocked and host not in LOOPBACK:
        raise ConfigError(
            "a server without keys is for this machine alone",
            found=f"--host {host}",
            expected=f"one of {', '.join(sorted(LOOPBACK))}",
            fix="make keys (`tunewise keys create`) and leave --open out",
        )


def configuration(service: Service, *, host: str, port: int) -> uvicorn.Config:
    """How uvicorn is to listen.

    Args:
        service: engine, registry, tenants and limits.
        host: address to listen on.
        port: to listen on; 0 for a free one.
    """
    return uvicorn.Config(
        application(service),
        host=host,
        port=port,
        http=bounded(service.settings),
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(service.settings.drain_seconds)),
        lifespan="on",
    )


def refuse_taken(host: str, port: int) -> None:
    """See that an address can be listened on, before a base is loaded for it.

    Args:
        host: address to listen on.
        port: to listen on; 0 for any.

    Raises:
        UnavailableError: it cannot; another program listens there, or it is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            # As the server will: a port that was closed a moment ago is free.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except OSError as error:
        raise UnavailableError(
            "the server cannot listen there",
            found=f"{host}:{port}: {error.strerror or error}",
            fix="choose another --host or --port, or end what listens there",
        ) from error


def serve(service: Service, *, host: str, port: int) -> None:
    """Listen and answer until a signal comes.

    Args:
        service: engine, registry, tenants and limits; closed in the end.
        host: address to listen on.
        port: to listen on.

    Raises:
        ConfigError: without keys it would be open to others than this machine.
        UnavailableError: the address cannot be listened on.
    """
    refuse_strangers(host, unlocked=service.store is None)
    config = configuration(service, host=host, port=port)
    server = _Server(config, service)
    try:
        server.run()
    except SystemExit as error:
        # uvicorn ends the process where it cannot listen; the reason stands in the log.
        raise UnavailableError(
            "the server cannot listen there",
            found=f"{host}:{port}",
            fix="choose another --host or --port; see the log for the reason",
        ) from error
    except KeyboardInterrupt:
        return
