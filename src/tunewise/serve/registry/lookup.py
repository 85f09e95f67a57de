"""Finding what is registered: one version, one choice among the targets of an alias, lists."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, select, tuple_

from tunewise.errors import NotRegisteredError, RegistryError
from tunewise.serve.registry import tables
from tunewise.serve.registry.database import changes
from tunewise.serve.registry.names import Name, Reference
from tunewise.serve.registry.records import RETIRED, Alias, Listed, Resolved, Target, Version

MOST_LISTED = 1000


def find_version(connection: Connection, reference: Reference) -> Version:
    """The version a reference names, retired or not; of an alias the stable one.

    Raises:
        NotRegisteredError: there is none.
        RegistryError: a hash that several begin with.
    """
    if reference.alias:
        alias = find_alias(connection, reference.name, reference.alias)
        return _by_number(connection, reference, alias.stable)
    if reference.number is not None:
        return _by_number(connection, reference, reference.number)
    table = tables.versions
    chosen = _of(reference.name).where(table.c.digest.startswith(reference.digest, autoescape=True))
    rows = connection.execute(chosen.limit(2)).all()
    if not rows:
        raise not_registered(reference)
    if len(rows) > 1:
        raise RegistryError(
            "several versions begin with this hash",
            found=str(reference),
            expected="enough digits for one of them",
            fix="give more digits, or the number",
        )
    return version_of(rows[0])


def resolve(connection: Connection, reference: Reference, key: str | None) -> Resolved:
    """What a request gets.

    Args:
        connection: a reader's.
        reference: what it asks for.
        key: the same key gets the same version while the alias stays as it is, and one that is
            tried keeps its keys while its share grows; None draws anew each time.

    Raises:
        NotRegisteredError: there is none.
        RegistryError: the version is retired.
    """
    count = changes(connection)
    alias = None
    if reference.alias:
        alias = find_alias(connection, reference.name, reference.alias)
        version = _by_number(connection, reference, draw(alias, key))
    else:
        version = find_version(connection, reference)
    if version.state == RETIRED:
        raise RegistryError(
            "this version is retired",
            found=str(version),
            expected="a version that is in use",
            fix=f"see `tunewise registry show {version.name}`",
        )
    if alias is None:
        return Resolved(version, "", 0, None, count)
    trial = None if len(alias.targets) == 1 else open_trial(connection, alias, version.number)
    return Resolved(version, alias.alias, alias.revision, trial, count)


def draw(alias: Alias, key: str | None) -> int:
    """The number of the version that a key, or chance, gets from an alias.

    The versions that are tried stand at the low end of the line from 0 to 1 in their order, so a
    key that had one keeps it while shares only grow.
    """
    tried = alias.targets[1:]
    if not tried:
        return alias.stable
    if key is None:
        place = random.random()
    else:
        salt = f"{alias.name}@{alias.alias}:{','.join(str(each.number) for each in tried)}"
        digest = hashlib.sha256(f"{salt}\n{key}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
    for target in tried:
        if place < target.share:
            return target.number
        place -= target.share
    return alias.stable


def open_trial(connection: Connection, alias: Alias, number: int) -> int | None:
    """The comparison that a version of a split alias takes part in; of the stable one the first."""
    table = tables.trials
    chosen = (
        select(table.c.id)
        .where(
            table.c.tenant == alias.name.tenant,
            table.c.name == alias.name.name,
            table.c.alias == alias.alias,
            table.c.stable == alias.stable,
            table.c.ended_at.is_(None),
        )
        .order_by(table.c.id)
        .limit(1)
    )
    if number != alias.stable:
        chosen = chosen.where(table.c.candidate == number)
    found = connection.execute(chosen).scalar()
    return None if found is None else int(found)


def find_alias(connection: Connection, name: Name, alias: str) -> Alias:
    """What an alias means now.

    Raises:
        NotRegisteredError: there is no such alias.
    """
    table = tables.aliases
    chosen = select(table).where(
        table.c.tenant == name.tenant, table.c.name == name.name, table.c.alias == alias
    )
    row = connection.execute(chosen).first()
    if row is None:
        raise not_registered(Reference(name, alias=alias))
    return alias_of(row)


def aliases_of(connection: Connection, names: Sequence[Name]) -> dict[Name, tuple[Alias, ...]]:
    """Every alias of names that follow each other in a list, in the order of the alphabet."""
    if not names:
        return {}
    table = tables.aliases
    found: dict[Name, list[Alias]] = {name: [] for name in names}
    place, first, last = tuple_(table.c.tenant, table.c.name), min(names), max(names)
    chosen = (
        select(table)
        .where(place >= tuple_(first.tenant, first.name), place <= tuple_(last.tenant, last.name))
        .order_by(table.c.tenant, table.c.name, table.c.alias)
    )
    for row in connection.execute(chosen):
        alias = alias_of(row)
        if alias.name in found:
            found[alias.name].append(alias)
    return {name: tuple(each) for name, each in found.items()}


def list_names(
    connection: Connection,
    tenant: str | None,
    *,
    after: str = "",
    limit: int = 100,
    only: Collection[str] | None = None,
) -> list[Listed]:
    """Names in the order of the alphabet, a page at a time.

    Args:
        connection: a reader's.
        tenant: whose; None for everybody's.
        after: only names behind this one, "tenant/name"; "" begins.
        limit: how many at most, up to 1000.
        only: of these names, each without its tenant; None for all.
    """
    table, versions = tables.names, tables.versions
    # Versions are never taken out, so the last number is also how many there are.
    chosen = (
        select(versions, table.c.last_number)
        .join(
            versions,
            and_(
                versions.c.tenant == table.c.tenant,
                versions.c.name == table.c.name,
                versions.c.number == table.c.last_number,
            ),
        )
        .order_by(table.c.tenant, table.c.name)
        .limit(min(limit, MOST_LISTED))
    )
    if tenant is not None:
        chosen = chosen.where(table.c.tenant == tenant)
    if only is not None:
        chosen = chosen.where(table.c.name.in_(only))
    if after:
        first, _, second = after.partition("/")
        chosen = chosen.where(tuple_(table.c.tenant, table.c.name) > tuple_(first, second))
    rows = connection.execute(chosen).all()
    found = [(version_of(row), int(row.last_number)) for row in rows]
    meant = aliases_of(connection, [version.name for version, _ in found])
    return [Listed(version.name, version, count, meant[version.name]) for version, count in found]


def versions_of(connection: Connection, name: Name) -> list[Version]:
    """Every version of a name, the oldest first.

    Raises:
        NotRegisteredError: there is no such name.
    """
    chosen = _of(name).order_by(tables.versions.c.number)
    found = [version_of(row) for row in connection.execute(chosen)]
    if not found:
        raise not_registered(Reference(name, alias=""))
    return found


def not_registered(reference: Reference) -> NotRegisteredError:
    """The error for what is not there; it tells nothing of what is."""
    return NotRegisteredError(
        "the registry holds no such adaptation",
        found=str(reference).rstrip("@"),
        expected="a name, version or alias that is registered",
        fix="see `tunewise registry list`; a version without an alias is asked for by its number",
    )


def version_of(row: Row[Any]) -> Version:
    """The record of a row of `versions`."""
    facts = {
        name: getattr(row, name)
        for name in Version.__dataclass_fields__
        if name not in {"name", "kinds"}
    }
    return Version(name=Name(row.tenant, row.name), kinds=tuple(row.kinds), **facts)


def alias_of(row: Row[Any]) -> Alias:
    """The record of a row of `aliases` or `alias_history`."""
    targets = tuple(Target(int(each["number"]), float(each["share"])) for each in row.targets)
    return Alias(Name(row.tenant, row.name), row.alias, row.revision, targets, row.at)


def _of(name: Name) -> Any:
    table = tables.versions
    return select(table).where(table.c.tenant == name.tenant, table.c.name == name.name)


def _by_number(connection: Connection, reference: Reference, number: int) -> Version:
    row = connection.execute(_of(reference.name).where(tables.versions.c.number == number)).first()
    if row is None:
        raise not_registered(reference)
    return version_of(row)
