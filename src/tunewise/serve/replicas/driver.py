"""Starts Ray and the replicas, waits for a signal, and lets them leave in order.

SIGTERM (or SIGINT) does what it does to one process (`serve/http/server.py`): every replica's
/readyz says no at once; for `grace_seconds` requests are still taken; then nothing new is taken,
running requests end, usage is stored. Ray would take the addresses away first, so that callers
were told of a page that does not exist; so requests are waited for before it is told to stop.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tunewise.errors import ConfigError, RunError, UnavailableError
from tunewise.model.base import default_threads
from tunewise.serve.http.logs import fault_fields
from tunewise.serve.http.server import CONNECTIONS, IDLE_SECONDS
from tunewise.serve.http.service import Service
from tunewise.serve.http.settings import MIB, Settings
from tunewise.serve.replicas.lines import Gathered
from tunewise.serve.replicas.proxy import heads_are_bounded, proxy_environment

APP = "tunewise"
OBJECT_STORE_BYTES = 128 * MIB  # requests and answers pass; nothing large is kept
ASKED_SECONDS, POLL_SECONDS = 5.0, 0.2
# Ray's own settings, for this process and those that it starts.
ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing is reported to anybody
ON_THIS_MACHINE = {
    # The name is of where this is the default: Ray's own ports listen on the loopback alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's processes take orders from nobody who has not the token in the user's folder.
    "RAY_AUTH_MODE": "token",
    # A proxy that would have every replica listen for others.
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    # Ray's workers give way to everything else, as is right for batch work.
    "RAY_worker_niceness": "0",
}
PASSED_ON = ("TUNEWISE_", "OTEL_")
log = logging.getLogger("tunewise.serve")


@dataclass(frozen=True, slots=True)
class Layout:
    """How many replicas, and where.

    Attributes:
        replicas: each with a base of its own in memory.
        host: address to listen on.
        port: to listen on; 0 for a free one.
        address: of a Ray cluster that runs; None starts one that ends with this process.
        cores: of each replica; None for an equal share of this machine's, or 1 in a cluster.
    """

    replicas: int
    host: str
    port: int
    address: str | None = None
    cores: int | None = None

    def cores_each(self) -> int:
        """Processor cores of each replica, which are also its threads."""
        if self.cores is not None:
            return self.cores
        return 1 if self.address is not None else max(1, default_threads() // self.replicas)


def require_ray(address: str | None) -> None:
    """Import Ray with the settings that it reads then, before anything is loaded.

    Args:
        address: of a cluster; None where one is to be started.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.update(ALWAYS if address is not None else {**ALWAYS, **ON_THIS_MACHINE})
    try:
        importlib.import_module("ray.serve")
    except ImportError as error:
        raise ConfigError(
            "several replicas need Ray Serve, which is not installed",
            found=str(error),
            expected="the extra `ray`",
            fix="pip install 'tunewise[ray]'",
        ) from error


def serve_replicas(make: Callable[[], Service], settings: Settings, layout: Layout) -> None:
    """Serve from several processes until a signal comes.

    Args:
        make: makes what is behind one server; called in each replica.
        settings: limits; those of SIGTERM are read here.
        layout: how many and where.

    Raises:
        ConfigError: Ray is not installed, or the cluster serves Tunewise already.
        UnavailableError: the address cannot be listened on, or there is no such cluster.
        RunError: the replicas did not start.
    """
    require_ray(layout.address)
    for name in ("ray", "ray.serve"):  # they would write in words of their own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    port = layout.port
    if layout.address is None:  # in a cluster the proxy runs on another machine
        port = _free_port(layout.host, port)
    leaving = _Leaving()
    with _gathered(layout) as place, _ray(layout, settings), leaving:
        handle = _deployed(make, settings, layout, port, place)
        if layout.address is None and not heads_are_bounded(layout.host, port, settings):
            log.warning("this Ray's proxy waits for headers without end: put a proxy before it")
        where = f"http://{layout.host}:{port}"
        log.info("Ray Serve running on %s with %d replicas", where, layout.replicas)
        leaving.wait()
        _drain(handle, settings, leaving)


class _Leaving:
    """Signals: the first asks to leave in order, another to end at once."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._started = self.hurried = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._started:
            raise SystemExit(0)  # nothing is served yet
        if self._asked.is_set():
            self.hurried = True
        self._asked.set()

    def wait(self) -> None:
        """Wait for the first."""
        self._started = True
        while not self._asked.wait(1.0):
            pass


@contextlib.contextmanager
def _gathered(layout: Layout) -> Iterator[str | None]:
    """Where replicas of this machine send log lines; those of a cluster leave them to Ray."""
    if layout.address is not None:
        yield None
        return
    lines = Gathered(sys.stderr)
    try:
        yield lines.place
    finally:
        lines.close()


@contextlib.contextmanager
def _ray(layout: Layout, settings: Settings) -> Iterator[None]:
    """Ray while the context lasts: a cluster, or one of this process's own."""
    import ray

    of_proxy = proxy_environment(settings)
    common: dict[str, Any] = {"configure_logging": False, "namespace": APP}
    if layout.address is not None:
        _reach(layout.address)
    try:
        if layout.address is None:
            os.environ.update(of_proxy)
            ray.init(
                "local",
                num_cpus=layout.replicas * layout.cores_each(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                **common,
            )
        else:
            named = {name: os.environ[name] for name in os.environ if name.startswith(PASSED_ON)}
            given = {"env_vars": {**named, **of_proxy}}
            ray.init(layout.address, runtime_env=given, **common)
    except Exception as error:  # Ray's own, and plain ones where a part of it is too slow
        raise UnavailableError(
            "Ray does not start" if layout.address is None else "there is no such Ray cluster",
            found=_first_line(error),
            fix="see Ray's log, or give another --ray-address",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _deployed(
    make: Callable[[], Service], settings: Settings, layout: Layout, port: int, place: str | None
) -> Any:
    """Start the replicas and wait until they answer; their handle."""
    from ray import serve

    from tunewise.serve.replicas.replica import Replica

    quiet = serve.schema.LoggingConfig(enable_access_log=False, log_level="WARNING")
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="server",
        num_replicas=layout.replicas,
        ray_actor_options={"num_cpus": layout.cores_each()},
        # Who waits, waits in the replica's fair queue and not in Ray's.
        max_ongoing_requests=CONNECTIONS,
        max_queued_requests=CONNECTIONS,
        graceful_shutdown_wait_loop_s=POLL_SECONDS,
        graceful_shutdown_timeout_s=max(settings.drain_seconds, ASKED_SECONDS),
        max_constructor_retry_count=2,
    )
    http = {"host": layout.host, "port": port, "keep_alive_timeout_s": IDLE_SECONDS}
    try:
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
        taken = APP in serve.status().applications
    except Exception as error:  # whatever Ray raises
        raise UnavailableError("Ray Serve does not start", found=_first_line(error)) from error
    if taken:
        raise ConfigError(
            "this cluster serves Tunewise already, and would change over to this one",
            found=f"the application {APP!r}",
            fix="end the other first, or take another cluster",
        )
    try:
        return serve.run(
            deployment.bind(make, place), name=APP, route_prefix="/", logging_config=quiet
        )
    except BaseException as error:  # whatever Ray raises, or a signal
        with contextlib.suppress(Exception):
            serve.delete(APP, _blocking=isinstance(error, Exception))
        if not isinstance(error, Exception):
            raise
        raise RunError(
            "the replicas did not start",
            found=_first_line(error),
            fix="the log tells the reason, and `tunewise serve` without --replicas does",
        ) from error


def _drain(handle: Any, settings: Settings, leaving: _Leaving) -> None:
    """Let what runs end, then stop the replicas."""
    from ray import serve

    begun = time.monotonic()
    closing = begun + settings.grace_seconds
    while not leaving.hurried and time.monotonic() < closing + settings.drain_seconds:
        closed = time.monotonic() >= closing
        try:
            # Again each time: a replica that was just started knows nothing of it.
            asked = handle.broadcast("leave", closed)
            running = asked.results(timeout_s=ASKED_SECONDS, return_exceptions=True)
        except Exception as error:  # whatever Ray raises where none is left
            log.error("leave", extra={"fields": {"event": "leave", **fault_fields(error)}})
            break
        if closed and not any(isinstance(each, int) and each for each in running):
            break
        time.sleep(POLL_SECONDS)
    serve.delete(APP, _blocking=not leaving.hurried)


def _free_port(host: str, port: int) -> int:
    """The port, tried before Ray is started, which would tell of a taken one in its own log only.

    Raises:
        UnavailableError: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            return int(trial.getsockname()[1])
    except OSError as error:
        raise UnavailableError(
            "the server cannot listen there",
            found=f"{host}:{port}: {error.strerror}",
            fix="choose another --host or --port",
        ) from error


def _reach(address: str) -> None:
    """Knock at a cluster's door: Ray would try for minutes.

    Raises:
        UnavailableError: nobody opens.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), ASKED_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            "there is no such Ray cluster",
            found=f"{address}: {error}",
            expected="the address of its head, which `ray status` tells",
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
