"""Figures for Prometheus: of every tenant for the operator, of its own for a tenant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tunewise.serve.contract import Engine
from tunewise.serve.http.peers import joined

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
GAUGES = ("running", "waiting", "slots", "resident", "resident_bytes", "budget_bytes")
COUNTS = ("hits", "misses", "evictions", "steps", "prompt_tokens", "completion_tokens")


class Queue(Protocol):
    """Where requests wait for the engine."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        ...

    @property
    def working(self) -> int:
        """Requests that have a place."""
        ...


class _State(Collector):
    """The engine's and the queue's own counts, read when they are asked for."""

    def __init__(self, engine: Engine, queue: Queue, room: Queue) -> None:
        self._engine, self._queue, self._room = engine, queue, room

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name in GAUGES:
            yield GaugeMetricFamily(f"tunewise_engine_{name}", name, value=getattr(stats, name))
        for name in COUNTS:
            yield CounterMetricFamily(f"tunewise_engine_{name}", name, value=getattr(stats, name))
        yield GaugeMetricFamily("tunewise_queue_waiting", "waiting", value=self._queue.waiting)
        yield GaugeMetricFamily("tunewise_queue_working", "working", value=self._queue.working)
        room = self._room.waiting + self._room.working
        yield GaugeMetricFamily("tunewise_room_waiting", "wait for memory", value=room)


class _Given(CollectorRegistry):
    """Figures that were read already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _Own:
    """The counts of one tenant, apart from all others: who reads its own pays for its own."""

    def __init__(self, tenant: str) -> None:
        self._tenant, self._all = tenant, CollectorRegistry()
        self._requests = Counter(
            "tunewise_requests",
            "responses",
            ("tenant", "endpoint", "status"),
            registry=self._all,
        )
        self._problems = Counter(
            "tunewise_problems", "what callers were told of", ("tenant", "code"), registry=self._all
        )
        self._tokens = Counter("tunewise_tokens", "tokens", ("tenant", "kind"), registry=self._all)
        self._seconds = Histogram(
            "tunewise_request_seconds",
            "from the arrival of a request to its last byte",
            ("tenant", "endpoint"),
            registry=self._all,
            buckets=SECONDS,
        )
        self._first = Histogram(
            "tunewise_first_piece_seconds",
            "from the arrival of a request to the first piece of its answer",
            ("tenant",),
            registry=self._all,
            buckets=SECONDS,
        )

    def count(
        self, endpoint: str, status: int, code: str, seconds: float, figures: dict[str, float]
    ) -> None:
        """See `Figures.count`."""
        tenant = self._tenant
        self._requests.labels(tenant, endpoint, str(status)).inc()
        if code:
            self._problems.labels(tenant, code).inc()
        self._seconds.labels(tenant, endpoint).observe(seconds)
        if "first_ms" in figures:
            self._first.labels(tenant).observe(figures["first_ms"] / 1000)
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(tenant, kind).inc(figures.get(f"{kind}_tokens", 0))

    def metrics(self) -> list[Metric]:
        """As they are now."""
        return [metric for metric in self._all.collect() if metric.samples]


class Figures:
    """Counts of one server. Counted on its event loop; read on any thread.

    Args:
        engine: its counts are shown too.
        queue: where requests wait.
        room: where those wait for whose adaptation there is no room in memory.
    """

    def __init__(self, engine: Engine, queue: Queue, room: Queue) -> None:
        self._state = _State(engine, queue, room)
        self._of: dict[str, _Own] = {}

    def count(
        self,
        tenant: str,
        endpoint: str,
        status: int,
        code: str,
        seconds: float,
        figures: dict[str, float],
    ) -> None:
        """Count one request that has ended.

        Args:
            tenant: who asked; "" where nobody known did.
            endpoint: the route.
            status: of the response.
            code: of the problem that was told, "" where there was none; an answer may break off
                behind a good status.
            seconds: that it took.
            figures: `first_ms`, `prompt_tokens`, `cached_tokens`, `completion_tokens` where known.
        """
        own = self._of.get(tenant)
        if own is None:
            own = self._of[tenant] = _Own(tenant)
        own.count(endpoint, status, code, seconds, figures)

    def metrics(self, tenant: str | None) -> list[Metric]:
        """As they are now; of one tenant, or None for all and the engine's.

        Of thousands of tenants this takes seconds, which an event loop has not.
        """
        if tenant is not None:
            own = self._of.get(tenant)
            return [] if own is None else own.metrics()
        tenants = list(self._of.values())
        return joined([self._state.collect(), *(each.metrics() for each in tenants)])


def text_of(metrics: Iterable[Metric]) -> bytes:
    """Figures in Prometheus's text format.

    Args:
        metrics: each name once.
    """
    return generate_latest(_Given(metrics))
