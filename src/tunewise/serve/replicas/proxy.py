"""Ray's proxy, with the bounds of the one process's server before a request is there.

Ray starts uvicorn in a process of its own and hands on neither a limit for the time and size of
headers nor one for connections. It calls a function there before that, though, which is meant to
name middlewares; ours has uvicorn take the protocol that bounds both (`serve/http/heads.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from uvicorn import config as uvicorn_config

from tunewise.serve.http.heads import BoundedHeads, bounded
from tunewise.serve.http.server import CONNECTIONS
from tunewise.serve.http.settings import Settings

# Ray's name for a function that its proxy calls as it starts, and ours for what it must know.
CALLED = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
LIMITS = "TUNEWISE_PROXY_LIMITS"
TRIED_SECONDS = 5.0


def proxy_environment(settings: Settings) -> Mapping[str, str]:
    """Environment variables with which Ray's proxy bounds heads and connections.

    Args:
        settings: of the server; `head_seconds` and `head_bytes` count.
    """
    told = {"head_seconds": settings.head_seconds, "head_bytes": settings.head_bytes}
    return {CALLED: f"{__name__}.bound_heads", LIMITS: json.dumps(told)}


def bound_heads() -> list[Any]:
    """Called by Ray in its proxy's process, before uvicorn is configured there.

    Returns:
        No middlewares.
    """
    settings = Settings(**json.loads(os.environ[LIMITS]))
    # Ray names no protocol, which is "auto"; uvicorn imports what that stands for.
    uvicorn_config.HTTP_PROTOCOLS["auto"] = bounded(settings, _CountedHeads)  # type: ignore[assignment]  # a class is taken as it is
    return []


class _CountedHeads(BoundedHeads):
    """Bounded, and with the limit for connections that Ray does not hand on."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Somebody is there."""
        self.limit_concurrency = CONNECTIONS
        super().connection_made(transport)


def heads_are_bounded(host: str, port: int, settings: Settings) -> bool:
    """Whether a server refuses too long a head, which is tried.

    Args:
        host: it listens on.
        port: it listens on.
        settings: with its limits.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    line = b"x-long: " + b"y" * 4000 + b"\r\n"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.settimeout(TRIED_SECONDS)
            tried.connect((host, port))
            tried.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
            for _ in range(2 + settings.head_bytes // len(line)):
                tried.sendall(line)
            return tried.recv(64).startswith(b"HTTP/1.1 431 ")
    except (BrokenPipeError, ConnectionResetError):
        return True  # it closed the connection while more came
    except OSError:
        return False
