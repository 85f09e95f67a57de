"""Is all there that should be? Every byte of every version, every alias, the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, select

from tunewise.errors import AdaptationError, RegistryError
from tunewise.serve.registry import audit, lookup, tables
from tunewise.serve.registry.database import Database
from tunewise.serve.registry.files import Files
from tunewise.serve.registry.intake import check_folder
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.records import READY, Version


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, and what is wrong.

    Attributes:
        versions: whose files were read, every byte.
        aliases: whose targets were looked up.
        audit_entries: whose digests were held against each other.
        faults: one sentence each; none where all is well.
    """

    versions: int
    aliases: int
    audit_entries: int
    faults: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def verify(
    database: Database,
    files: Files,
    name: Name | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Checked:
    """Read everything, or all of one name.

    Args:
        database: the tables.
        files: where files lie; what is elsewhere is fetched again.
        name: of an adaptation; None for everything.
        report: called as report(contents read, contents to read), or None.
    """
    faults: list[str] = []
    versions, meant = _versions(database, name), 0
    contents: dict[tuple[str, str], list[Version]] = {}
    for version in versions:
        contents.setdefault((version.name.tenant, version.digest), []).append(version)
    for count, ((tenant, digest), holders) in enumerate(contents.items(), start=1):
        try:
            check_folder(files.fresh(tenant, digest), digest)
        except AdaptationError as error:
            told = f"{error.what} ({error.found})" if error.found else error.what
            faults.append(f"{', '.join(map(str, holders))}: {told}")
        if report is not None:
            report(count, len(contents))
    with database.read() as connection:
        # Aliases first: a version that is registered and promoted meanwhile is then seen as well.
        aliases = [lookup.alias_of(row) for row in connection.execute(select(tables.aliases))]
        ready = {(each.name, each.number) for each in _ready(connection, name)}
        for alias in aliases:
            if name is not None and alias.name != name:
                continue
            meant += 1
            faults += [
                f"{alias.name}@{alias.alias} leads to version {target.number}, "
                "which is not there or retired"
                for target in alias.targets
                if (alias.name, target.number) not in ready
            ]
            if abs(sum(target.share for target in alias.targets) - 1) > 1e-9:
                faults.append(f"the shares of {alias.name}@{alias.alias} do not sum to 1")
        try:
            entries = audit.check(connection)
        except RegistryError as error:
            entries = 0
            faults.append(f"{error.what}: {error.found}")
    return Checked(len(versions), meant, entries, tuple(faults))


def _versions(database: Database, name: Name | None) -> list[Version]:
    with database.read() as connection:
        return _ready(connection, name)


def _ready(connection: Connection, name: Name | None) -> list[Version]:
    table = tables.versions
    chosen = select(table).where(table.c.state == READY).order_by(table.c.id)
    if name is not None:
        chosen = chosen.where(table.c.tenant == name.tenant, table.c.name == name.name)
    return [lookup.version_of(row) for row in connection.execute(chosen)]
