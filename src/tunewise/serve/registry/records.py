"""What the registry answers with: plain frozen records, free of torch and of the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewise.serve.registry.names import Name

READY, RETIRED = "ready", "retired"
RECIPE = "recipe"
"""Stands among the kinds of a version that is a recipe, alone."""


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version; immutable but for `state`.

    Attributes:
        name: whose, and what it is called.
        number: 1, 2, ... in the order of registration under this name.
        digest: content hash of the adaptation, 64 hexadecimal digits.
        state: "ready" or "retired".
        kinds: its kinds of part, or `RECIPE`.
        method: that found it.
        task: name of the task; task_kind: what an answer is; metric: how answers are scored.
        base_name: of the base it was made for, with `base_fingerprint`.
        data_hash: of the rows it was fitted on.
        parent: content hash of the adaptation it started from, or None.
        run: where it was found, in the words of who registered it.
        notes: free text of who registered it.
        bytes: of its files.
        created_at, retired_at: seconds since 1970; created_by: who registered it.
    """

    name: Name
    number: int
    digest: str
    state: str
    kinds: tuple[str, ...]
    method: str
    task: str
    task_kind: str
    metric: str
    base_name: str
    base_fingerprint: str
    data_hash: str
    parent: str | None
    run: str
    notes: str
    bytes: int
    created_at: float
    created_by: str
    retired_at: float | None

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    def as_dict(self) -> dict[str, Any]:
        """JSON values, the name as "tenant/name"."""
        return {**asdict(self), "name": str(self.name), "kinds": list(self.kinds)}


@dataclass(frozen=True, slots=True)
class Target:
    """One version an alias leads to, and the share of requests that it gets, 0 to 1."""

    number: int
    share: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Alias:
    """What an alias means now, or meant at one of its revisions.

    Attributes:
        name: of the adaptation.
        alias: "production", "canary", ...
        revision: counts up with every change of this alias.
        targets: the stable version first, then those that are tried beside it; shares sum to 1.
        at: when it was set.
    """

    name: Name
    alias: str
    revision: int
    targets: tuple[Target, ...]
    at: float

    @property
    def stable(self) -> int:
        """The number of the version that is in place."""
        return self.targets[0].number

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "alias": self.alias,
            "revision": self.revision,
            "targets": [target.as_dict() for target in self.targets],
            "at": self.at,
        }


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a request gets.

    Attributes:
        version: the version chosen.
        alias: through which alias, "" where a version was named outright.
        revision: of that alias, 0 without one.
        trial: of the comparison this choice takes part in, or None.
        changes: the registry's counter of changes when it was chosen.
        folder: where its files lie, or None where only the choice was asked for.
    """

    version: Version
    alias: str
    revision: int
    trial: int | None
    changes: int
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One name in a list.

    Attributes:
        name: whose, and what it is called.
        latest: its newest version.
        versions: how many there are, retired ones too.
        aliases: what its aliases mean.
    """

    name: Name
    latest: Version
    versions: int
    aliases: tuple[Alias, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": str(self.name),
            "versions": self.versions,
            "latest": self.latest.as_dict(),
            "aliases": [alias.as_dict() for alias in self.aliases],
        }


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, and when.

    Attributes:
        id: counts up.
        at: seconds since 1970.
        actor: who.
        action: "add", "promote", "rollback", ...
        tenant, name: of what; "" where it was the registry as a whole.
        detail: JSON values: versions, reasons, numbers.
        digest: SHA-256 over this entry and the digest of the one before.
    """

    id: int
    at: float
    actor: str
    action: str
    tenant: str
    name: str
    detail: Mapping[str, Any]
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "detail": dict(self.detail)}
