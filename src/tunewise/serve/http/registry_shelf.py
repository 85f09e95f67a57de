"""The registry as the server's shelf, with leases on what it serves.

A lease is taken the first time a version's files are needed and kept while they may be needed
again: taking one is a write, and a write for every request would be the slowest part of it. A
thread renews the leases that are in use and lets go of those that were not for some minutes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.store import load
from tunewise.errors import ConfigError, NotRegisteredError, RegistryError, StorageError
from tunewise.serve.http.logs import fault_fields
from tunewise.serve.http.shelf import Choice, Hold, Listed
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.publish import Check, Registration
from tunewise.serve.registry.records import RECIPE, Alias, Resolved, Version
from tunewise.serve.registry.registry import LEASE_SECONDS, Registry
from tunewise.serve.registry.trials import Trial

IDLE_SECONDS = 300.0
log = logging.getLogger("tunewise.serve")


@dataclass(slots=True)
class _Lease:
    """One content in use; `users` requests need it now."""

    id: str
    users: int
    renewed: float
    last_used: float


class _Held:
    """See `Hold`."""

    def __init__(self, shelf: RegistryShelf, version: Version, *, leased: bool = True) -> None:
        self._shelf, self._version, self._released = shelf, version, not leased

    def load(self) -> Adaptation:
        return self._shelf.load(self._version)

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._shelf.let_go(self._version)


class RegistryShelf:
    """A registry behind the server; see `Shelf`.

    Args:
        registry: the registry; closed with this.
        base_fingerprint: of the base that is served.
        holder: who holds the leases, for people to read ("server on host, process 7").
        check: holds what is published against the base; None lets nothing be promoted but by a
            written reason.
        monotonic: a clock in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        base_fingerprint: str,
        holder: str,
        check: Check | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._base, self._holder = registry, base_fingerprint, holder
        self._check, self._monotonic = check, monotonic
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, str], _Lease] = {}
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="tunewise-leases", daemon=True)
        self._keeper.start()

    def choose(self, tenant: str, name: str, version: str, key: str | None) -> Choice:
        """See `Shelf.choose`."""
        reference = f"{tenant}/{name}@{version}" if version else f"{tenant}/{name}"
        try:
            return _choice(self._registry.choose(reference, key))
        except ConfigError as error:
            raise NotRegisteredError("this names nothing", found=reference) from error

    def hold(self, choice: Choice) -> Hold:
        """See `Shelf.hold`."""
        version: Version = choice.ticket.version
        place = (version.name.tenant, version.digest)
        now = self._monotonic()
        with self._lock:
            held = self._leases.get(place)
            if held is not None and now - held.renewed < LEASE_SECONDS / 2:
                held.users += 1
                held.last_used = now
                return _Held(self, version)
        try:
            lease = self._registry.lease(version, self._holder)
        except StorageError as error:
            # A full disk keeps nobody from reading. That files are collected at this very moment
            # is unlikely, and told when they are loaded.
            log.error("lease", extra={"fields": {"event": "no lease", **fault_fields(error)}})
            return _Held(self, version, leased=False)
        with self._lock:
            held = self._leases.get(place)
            if held is None:
                self._leases[place] = _Lease(lease, 1, now, now)
                return _Held(self, version)
            # Another thread was as quick, or the one that is kept was too old to be sure of.
            spare, held.id = held.id, lease
            held.users += 1
            held.renewed = held.last_used = now
        self._registry.release(spare)
        return _Held(self, version)

    def let_go(self, version: Version) -> None:
        """A request needs it no longer; called by what `hold` returns."""
        with self._lock:
            held = self._leases.get((version.name.tenant, version.digest))
            if held is not None:
                held.users -= 1
                held.last_used = self._monotonic()

    def load(self, version: Version) -> Adaptation:
        """Read a version's files; see `Hold.load`."""
        return load(self._registry.folder(version), base_fingerprint=self._base)

    def page(
        self, tenant: str, *, after: str, limit: int, only: Collection[str] | None
    ) -> list[Listed]:
        """See `Shelf.page`."""
        behind = f"{tenant}/{after}" if after else ""
        return [
            Listed(
                each.name.name,
                each.latest.created_at,
                {
                    "versions": each.versions,
                    "latest": each.latest.number,
                    "kinds": list(each.latest.kinds),
                    "task": each.latest.task,
                    "aliases": _aliases(each.aliases),
                },
            )
            for each in self._registry.names(tenant, after=behind, limit=limit, only=only)
        ]

    def show(self, tenant: str, name: str) -> Listed:
        """See `Shelf.show`."""
        reference = f"{tenant}/{name}"
        versions = self._registry.versions(reference)
        facts: Mapping[str, Any] = {
            "versions": [_version(each) for each in versions],
            "aliases": _aliases(self._registry.aliases_of(reference)),
            "trials": [_trial(each) for each in self._registry.trials_of(reference)],
        }
        return Listed(name, versions[-1].created_at, facts)

    def publish(self, tenant: str, name: str, folder: Path, *, actor: str, notes: str) -> Choice:
        """See `Shelf.publish`."""
        registration = Registration(
            Name(tenant, name),
            actor,
            notes=notes,
            base_fingerprint=self._base,
            check=self._check,
        )
        version = self._registry.add(folder, registration)
        return Choice(tenant, name, version.number, version.digest)

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
        """See `Shelf.promote`."""
        promotion = Promotion(alias=alias, share=share, reason=reason)
        now, verdict = self._registry.promote(f"{tenant}/{name}@{version}", actor, promotion)
        return {**now.as_dict(), "gate": verdict.as_dict()}

    def rollback(self, tenant: str, name: str, *, alias: str, actor: str) -> Mapping[str, Any]:
        """See `Shelf.rollback`."""
        return self._registry.rollback(f"{tenant}/{name}", actor, alias=alias).as_dict()

    def retire(self, tenant: str, name: str, version: str, *, actor: str) -> Mapping[str, Any]:
        """See `Shelf.retire`."""
        return _version(self._registry.retire(f"{tenant}/{name}@{version}", actor))

    def outcome(self, choice: Choice, *, request: str, key: str | None, score: float) -> None:
        """See `Shelf.outcome`; without a comparison that goes on nothing is to be noted."""
        found: Resolved = choice.ticket
        if found.trial is None:
            return
        unit = request if key is None else key
        self._registry.record_outcome(found.trial, unit, [(choice.number, score)], self._holder)

    def check(self) -> None:
        """See `Shelf.check`."""
        self._registry.changes()

    def close(self) -> None:
        """Let go of all leases and of the database."""
        self._stop.set()
        self._keeper.join()
        with self._lock:
            leases, self._leases = list(self._leases.values()), {}
        try:
            for each in leases:
                self._registry.release(each.id)
        finally:
            self._registry.close()

    def look_after_leases(self) -> None:
        """Renew what is used, end what was not for a while; the thread does so by itself."""
        now = self._monotonic()
        with self._lock:
            idle = [
                place
                for place, held in self._leases.items()
                if not held.users and now - held.last_used > IDLE_SECONDS
            ]
            ended = [self._leases.pop(place) for place in idle]
            old = [held for held in self._leases.values() if now - held.renewed > LEASE_SECONDS / 3]
        for each in ended:
            self._registry.release(each.id)
        for each in old:
            if self._registry.renew(each.id):
                each.renewed = now

    def _keep(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 10):
            try:
                self.look_after_leases()
            except Exception as error:  # whatever it is, leases are looked after again
                log.error("leases", extra={"fields": {"event": "leases", **fault_fields(error)}})


def _choice(found: Resolved) -> Choice:
    version = found.version
    if RECIPE in version.kinds:
        raise RegistryError(
            "a recipe is fitted and not served",
            found=str(version),
            fix="fit by it, and register what is found",
        )
    return Choice(version.name.tenant, version.name.name, version.number, version.digest, found)


def _aliases(aliases: tuple[Alias, ...]) -> dict[str, Any]:
    return {each.alias: [target.as_dict() for target in each.targets] for each in aliases}


def _trial(trial: Trial) -> dict[str, Any]:
    """How a split alias does or did; the tenant knows the name."""
    return {name: value for name, value in trial.as_dict().items() if name not in ("id", "name")}


def _version(version: Version) -> dict[str, Any]:
    """What a tenant may read of a version: nothing of where it lies."""
    return {
        "number": version.number,
        "digest": version.digest,
        "state": version.state,
        "kinds": list(version.kinds),
        "method": version.method,
        "task": version.task,
        "metric": version.metric,
        "notes": version.notes,
        "bytes": version.bytes,
        "created": int(version.created_at),
        "created_by": version.created_by,
    }
