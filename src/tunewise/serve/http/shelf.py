"""What the server asks of a registry, and no more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tunewise.adaptation.bundle import Adaptation


@dataclass(frozen=True, slots=True)
class Choice:
    """One version, chosen for one request.

    Attributes:
        tenant: whose.
        name: what it is called, without the tenant.
        number: of the version.
        digest: content hash of the adaptation.
        ticket: the registry's own, for outcomes.
    """

    tenant: str
    name: str
    number: int
    digest: str
    ticket: Any = field(repr=False, default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}@{self.number}"


class Hold(Protocol):
    """The files of a version, kept from being collected until `release`."""

    def load(self) -> Adaptation:
        """Read the adaptation, every byte checked.

        Raises:
            TunewiseError: it cannot be read, or is damaged.
        """
        ...

    def release(self) -> None:
        """The files are not needed any more; quick, and twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """One name in a list.

    Attributes:
        name: without the tenant.
        created: when its newest version was registered, seconds since 1970.
        facts: JSON values: versions, aliases, kinds of part, notes.
    """

    name: str
    created: float
    facts: Mapping[str, Any]


class Shelf(Protocol):
    """The registered adaptations of all tenants; safe from any thread.

    Every method raises UnavailableError where the registry does not answer, NotRegisteredError
    where there is no such name, version or alias, and RegistryError where what is asked cannot be
    done. A tenant is named by the caller of each method and never taken from a reference.
    """

    def choose(self, tenant: str, name: str, version: str, key: str | None) -> Choice:
        """The version that a request gets.

        Args:
            tenant: whose.
            name: without the tenant.
            version: a number, an alias, digits of a hash, or "" for what is in production.
            key: the same key gets the same version where an alias splits its traffic.
        """
        ...

    def hold(self, choice: Choice) -> Hold:
        """Keep the files of a version from being collected."""
        ...

    def page(
        self, tenant: str, *, after: str, limit: int, only: Collection[str] | None
    ) -> list[Listed]:
        """Names of a tenant in the order of the alphabet, those behind `after`.

        Args:
            tenant: whose.
            after: "" begins.
            limit: how many at most.
            only: of these; None for all.
        """
        ...

    def show(self, tenant: str, name: str) -> Listed:
        """One name with all of its versions."""
        ...

    def publish(self, tenant: str, name: str, folder: Path, *, actor: str, notes: str) -> Choice:
        """Check and register what lies in a folder.

        Raises:
            AdaptationError: it is not let in; says why.
        """
        ...

    def promote(
        self,
        tenant: str,
        name: str,
        version: str,
        *,
        alias: str,
        share: float = 1.0,
        actor: str,
        reason: str,
    ) -> Mapping[str, Any]:
        """Let an alias mean a version, where the gate lets it or a reason is written.

        With a share below 1 only so many requests get it, and outcomes may take it back.

        Raises:
            GateRefusedError: it is not shown to be as good as what is there.
        """
        ...

    def rollback(self, tenant: str, name: str, *, alias: str, actor: str) -> Mapping[str, Any]:
        """Let an alias mean what it meant before."""
        ...

    def retire(self, tenant: str, name: str, version: str, *, actor: str) -> Mapping[str, Any]:
        """Give a version to no request any more."""
        ...

    def outcome(self, choice: Choice, *, request: str, key: str | None, score: float) -> None:
        """How good an answer was in the end, 0 to 1; feeds the comparison it took part in.

        Args:
            choice: what answered.
            request: the answer's id.
            key: under which the version was drawn.
            score: 0 wrong, 1 right.
        """
        ...

    def check(self) -> None:
        """Ask whether the registry answers."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
