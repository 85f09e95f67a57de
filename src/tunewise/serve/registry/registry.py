"""The registry's door: everything that commands and servers ask of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from tunewise.errors import ConfigError, NotRegisteredError, StorageError
from tunewise.serve.database import read_url
from tunewise.serve.registry import aliases, audit, gate, leases, lookup, trials
from tunewise.serve.registry.database import SCHEMA, Database, note_change
from tunewise.serve.registry.files import Files, LocalFiles, files_at
from tunewise.serve.registry.names import (
    DEFAULT_ALIAS,
    parse_alias,
    parse_name,
    parse_reference,
)
from tunewise.serve.registry.records import Alias, AuditEntry, Listed, Resolved, Version

if TYPE_CHECKING:
    from tunewise.serve.registry.collect import Ages, Collected, Removing
    from tunewise.serve.registry.publish import Registration
    from tunewise.serve.registry.verify import Checked

LEASE_SECONDS = 300.0
DATABASE_FILE = "registry.db"


def default_place() -> str:
    """Where the registry is unless said otherwise: `TUNEWISE_REGISTRY`, or the user's data."""
    given = os.environ.get("TUNEWISE_REGISTRY")
    return given if given else str(Path(platformdirs.user_data_dir("tunewise")) / "registry")


@dataclass(frozen=True, slots=True)
class Registry:
    """One registry. Threads may share it; processes may open the same one.

    Attributes:
        database: its tables.
        files: where files lie.
        clock: seconds since 1970.
    """

    database: Database
    files: Files
    clock: Callable[[], float] = time.time

    @classmethod
    def open(cls, place: str, *, files: str | None = None, cache: Path | None = None) -> Registry:
        """Open a registry, or begin one.

        Args:
            place: a folder (SQLite and files in it), "sqlite:///FILE" or "postgresql://...".
            files: folder or fsspec URL of the files; needed where `place` is no folder.
            cache: folder for files fetched from elsewhere; the user's cache folder if not given.

        Raises:
            ConfigError: a place cannot be used.
            UnavailableError: the database does not answer.
            StorageError: the folder cannot be written.
            RegistryError: something else is there, or of a newer version.
        """
        here = Path(platformdirs.user_cache_dir("tunewise")) / "registry"
        kept = here if cache is None else cache
        if "://" in place:
            read_url(place, SCHEMA)
            if files is None:
                raise ConfigError(
                    "it is not said where the registry's files lie",
                    found="a database alone",
                    expected="a folder or an fsspec URL besides",
                    fix="--files FOLDER_OR_URL",
                )
            return cls(Database(place), files_at(files, kept))
        if not place.strip():
            # Else it would be the folder one happens to be in.
            raise ConfigError(
                "the place of the registry is empty",
                found=repr(place),
                expected="a folder, sqlite:///FILE or postgresql://USER@HOST/DATABASE",
                fix="say where it is, or leave --registry out",
            )
        folder = Path(place).absolute()
        with _made(folder):
            folder.mkdir(parents=True, exist_ok=True)
        chosen = LocalFiles(folder) if files is None else files_at(files, kept)
        return cls(Database(f"sqlite:///{folder / DATABASE_FILE}"), chosen)

    def close(self) -> None:
        """Give back every connection."""
        self.database.close()

    def add(self, source: Path, registration: Registration) -> Version:
        """Check and register an adaptation; see `publish.add`."""
        from tunewise.serve.registry.publish import add

        return add(self.database, self.files, source, registration, self.clock)

    def names(
        self,
        tenant: str | None,
        *,
        after: str = "",
        limit: int = 100,
        only: Collection[str] | None = None,
    ) -> list[Listed]:
        """Names in order, a page at a time; see `lookup.list_names`."""
        with self.database.read() as connection:
            return lookup.list_names(connection, tenant, after=after, limit=limit, only=only)

    def version(self, reference: str) -> Version:
        """The version that "tenant/name@..." names, retired or not; of an alias the stable one.

        Raises:
            NotRegisteredError: there is none.
            ConfigError: it is no reference.
        """
        with self.database.read() as connection:
            return lookup.find_version(connection, parse_reference(reference))

    def versions(self, name: str) -> list[Version]:
        """Every version of a name, the oldest first; see `lookup.versions_of`."""
        with self.database.read() as connection:
            return lookup.versions_of(connection, parse_name(name))

    def aliases_of(self, name: str) -> tuple[Alias, ...]:
        """What the aliases of a name mean."""
        parsed = parse_name(name)
        with self.database.read() as connection:
            return lookup.aliases_of(connection, [parsed])[parsed]

    def choose(self, reference: str, key: str | None = None) -> Resolved:
        """What a request gets, without its files; see `lookup.resolve`."""
        with self.database.read() as connection:
            return lookup.resolve(connection, parse_reference(reference), key)

    def resolve(self, reference: str, key: str | None = None) -> Resolved:
        """What a request gets, with the folder of its files, fetched where they are elsewhere.

        Args:
            reference: "tenant/name", "tenant/name@3", "tenant/name@production", ...
            key: requests with the same one get the same version; None draws anew each time.

        Raises:
            NotRegisteredError: there is none.
            RegistryError: the version is retired.
            ConfigError: it is no reference.
        """
        found = self.choose(reference, key)
        version = found.version
        return replace(found, folder=self.files.folder(version.name.tenant, version.digest))

    def folder(self, version: Version) -> Path:
        """The folder of a version's files on this machine; `adaptation.store.load` checks it."""
        return self.files.folder(version.name.tenant, version.digest)

    def changes(self) -> int:
        """A counter that grows whenever a name may have come to mean something else."""
        return self.database.changes()

    @contextmanager
    def in_use(
        self, version: Version, holder: str, seconds: float = LEASE_SECONDS
    ) -> Iterator[str]:
        """A lease on a version's files while the context lasts; its id, for `renew`.

        Args:
            version: whose files must stay.
            holder: who uses them, for people to read.
            seconds: after which the lease runs out if nobody renews or ends it.
        """
        lease = self.lease(version, holder, seconds)
        try:
            yield lease
        finally:
            self.release(lease)

    def lease(self, version: Version, holder: str, seconds: float = LEASE_SECONDS) -> str:
        """Begin to use a version's files; see `in_use`.

        Raises:
            NotRegisteredError: the files are being collected, or are gone.
        """
        from tunewise.serve.registry.publish import holds

        tenant, digest = version.name.tenant, version.digest
        with self.database.write(changes=False) as connection:
            if not holds(connection, tenant, digest):
                raise NotRegisteredError(
                    "the files of this version were collected",
                    found=str(version),
                    expected="a version that is in use",
                )
            return leases.take(connection, tenant, digest, holder, self.clock() + seconds)

    def renew(self, lease: str, seconds: float = LEASE_SECONDS) -> bool:
        """Go on using; False where the lease is gone."""
        with self.database.write(changes=False) as connection:
            return leases.renew(connection, lease, self.clock() + seconds)

    def release(self, lease: str) -> None:
        """End a lease; nothing happens where it is gone."""
        with self.database.write(changes=False) as connection:
            leases.release(connection, lease)

    def attach(self, version: Version, scores: gate.Scores, actor: str) -> None:
        """Store scores of a version on rows; see `gate.attach`."""
        with self.database.write(changes=False) as connection:
            gate.attach(connection, version, scores, self.clock())
            audit.write(
                connection,
                self.clock(),
                actor,
                "measure",
                version.name,
                number=version.number,
                rows=len(scores.scores),
                rows_hash=scores.rows_hash,
                source=scores.source,
            )

    def measured(self, version: Version) -> list[dict[str, Any]]:
        """What was measured of a version, the newest first; see `gate.measured`."""
        with self.database.read() as connection:
            return gate.measured(connection, version)

    def promote(
        self, reference: str, actor: str, promotion: aliases.Promotion | None = None
    ) -> tuple[Alias, gate.Verdict]:
        """Let an alias mean a version, if the gate lets it; see `aliases.promote`."""
        chosen = aliases.Promotion() if promotion is None else promotion
        parse_alias(chosen.alias)
        with self.database.write() as connection:
            parsed = parse_reference(reference)
            return aliases.promote(connection, parsed, chosen, actor, self.clock())

    def rollback(
        self, name: str, actor: str, *, alias: str = DEFAULT_ALIAS, reason: str = ""
    ) -> Alias:
        """Go back to what an alias meant before; see `aliases.rollback`."""
        parsed = parse_name(name)
        with self.database.write() as connection:
            return aliases.rollback(connection, parsed, alias, actor, self.clock(), reason)

    def drop_alias(self, name: str, alias: str, actor: str) -> None:
        """Take an alias away; its history stays."""
        parsed = parse_name(name)
        with self.database.write() as connection:
            aliases.drop(connection, parsed, alias, actor, self.clock())

    def retire(self, reference: str, actor: str, *, reason: str = "") -> Version:
        """Take a version out of use; see `aliases.retire`."""
        parsed = parse_reference(reference)
        with self.database.write() as connection:
            return aliases.retire(connection, parsed, actor, self.clock(), reason)

    def record_outcome(
        self, trial: int, unit: str, values: Sequence[tuple[int, float]], actor: str
    ) -> trials.Trial:
        """Take in the outcome of one unit; a version shown to be worse leaves its alias at once.

        See `trials.record`.
        """
        with self.database.write(changes=False) as connection:
            now = self.clock()
            found = trials.record(connection, trial, unit, values, now)
            for each in trials.of_name(connection, found.name):
                open_still = each.alias == found.alias and each.ended_at is None
                if (
                    open_still
                    and each.verdict == trials.WORSE
                    and aliases.end_worse(connection, each, actor, now) is not None
                ):
                    note_change(connection)
            return trials.find(connection, trial)

    def trials_of(self, name: str) -> list[trials.Trial]:
        """Every trial of a name, the newest first."""
        parsed = parse_name(name)
        with self.database.read() as connection:
            return trials.of_name(connection, parsed)

    def trial_limits(self, trial: trials.Trial) -> tuple[float, float]:
        """Limits of a trial's difference that hold at all times together; see `trials.limits`."""
        with self.database.read() as connection:
            return trials.limits(connection, trial)

    def history(self, name: str, alias: str) -> list[dict[str, Any]]:
        """What an alias meant, the oldest first; see `aliases.history`."""
        parsed = parse_name(name)
        with self.database.read() as connection:
            return aliases.history(connection, parsed, alias)

    def audit_trail(
        self, name: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[AuditEntry]:
        """Who did what, the oldest first; see `audit.entries`."""
        parsed = None if name is None else parse_name(name)
        with self.database.read() as connection:
            return audit.entries(connection, parsed, after=after, limit=limit)

    def collect(
        self, ages: Ages, actor: str, *, dry_run: bool = False, removing: Removing | None = None
    ) -> Collected:
        """Remove files that nobody needs; see `collect.collect`."""
        from tunewise.serve.registry.collect import collect

        return collect(
            self.database, self.files, ages, actor, self.clock, dry_run=dry_run, removing=removing
        )

    def verify(
        self, name: str | None = None, report: Callable[[int, int], None] | None = None
    ) -> Checked:
        """Read every byte of every version, or of one name's; see `verify.verify`."""
        from tunewise.serve.registry.verify import verify

        parsed = None if name is None else parse_name(name)
        return verify(self.database, self.files, parsed, report)

    def probe_report(self, version: Version) -> dict[str, Any] | None:
        """What the version and its base answered when it was registered, or None."""
        with self.database.read() as connection:
            return gate.probe_report(connection, version)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            "the registry's folder cannot be made",
            found=f"{folder}: {error.strerror}",
            expected="a folder that can be written",
            fix="choose another --registry",
        ) from error
