"""Other servers for the same tenants, one of which a request reaches by chance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import Metric


class Peers(Protocol):
    """All servers that share a registry, keys and an address; this one is among them."""

    async def outcome(self, request: str, tenant: str, score: float) -> str | None:
        """Tell whichever gave an answer how good it was.

        Args:
            request: the answer's id.
            tenant: who tells.
            score: 0 wrong, 1 right.

        Returns:
            The label of the model that gave it; None where none of them remembers.

        Raises:
            UnavailableError: it could not be stored.
        """
        ...

    async def figures(self, tenant: str | None) -> list[Metric]:
        """The figures of all of them, each sample with the server it is of.

        Args:
            tenant: whose; None for all and the engines'.
        """
        ...


def labelled(metrics: Iterable[Metric], replica: str) -> list[Metric]:
    """Figures of one server, each sample with the label `replica`.

    Args:
        metrics: its figures.
        replica: which one it is.
    """
    made = []
    for metric in metrics:
        copy = Metric(metric.name, metric.documentation, metric.type, metric.unit)
        copy.samples = [
            each._replace(labels={**each.labels, "replica": replica}) for each in metric.samples
        ]
        made.append(copy)
    return made


def joined(servers: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Figures of several servers, each name once, as Prometheus wants them.

    Args:
        servers: the labelled figures of each.
    """
    held: dict[str, Metric] = {}
    for metric in (each for metrics in servers for each in metrics):
        if metric.name not in held:
            first = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            held[metric.name] = first
        held[metric.name].samples.extend(metric.samples)
    return list(held.values())
