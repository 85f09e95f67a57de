"""Removing files that no version needs, and none that anybody uses.

Collected are: files that were written for a version that never came to be (a process was killed),
files that no table knows, and, where asked for, files of versions retired long enough ago, whose
record and history stay. Never what is younger than the age given, and never what is under a lease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from tunewise.serve.registry import audit, leases, tables
from tunewise.serve.registry.database import Database
from tunewise.serve.registry.files import Files, Held
from tunewise.serve.registry.publish import REMOVING
from tunewise.serve.registry.records import READY

DAY_SECONDS = 86_400.0
Removing = Callable[[str, str], None]
"""Told the tenant and content hash of what is about to be removed."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed, or would be.

    Attributes:
        removed: "tenant/content hash" of every folder removed.
        in_use: those that were left since somebody uses them.
        abandoned: folders of interrupted work that were removed.
        bytes: freed, as far as known.
    """

    removed: tuple[str, ...]
    in_use: tuple[str, ...]
    abandoned: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ages:
    """How old what is removed must be.

    Attributes:
        orphan_seconds: files that belong to no version.
        retired_seconds: how long ago their last version was retired; None keeps them.
    """

    orphan_seconds: float = DAY_SECONDS
    retired_seconds: float | None = None


def collect(
    database: Database,
    files: Files,
    ages: Ages,
    actor: str,
    clock: Callable[[], float],
    *,
    dry_run: bool = False,
    removing: Removing | None = None,
) -> Collected:
    """Remove what nobody needs.

    Args:
        database: the tables.
        files: where files lie.
        ages: how old what is removed must be.
        actor: who asks for it.
        clock: seconds since 1970.
        dry_run: only say what would be removed.
        removing: called with tenant and content hash before each is removed, for what else was
            made of it; again where a removal was interrupted.

    Raises:
        UnavailableError, StorageError: database or files cannot be reached.
    """
    held = files.held()
    removed, in_use, total = [], [], 0
    known = {(each.tenant, each.digest) for each in held}
    unwritten = [Held(*key, 0.0) for key in _announced(database) - known]
    for each in [*held, *unwritten]:
        with database.write(changes=False) as connection:
            now = clock()
            leases.forget_expired(connection, now)
            if not _is_due(connection, each, ages, now):
                continue
            shown = f"{each.tenant}/{each.digest}"
            if leases.holders(connection, each.tenant, each.digest, now):
                in_use.append(shown)
                continue
            total += _bytes(connection, each)
            removed.append(shown)
            if not dry_run:
                _mark(connection, each)
        if not dry_run:
            # From here on nobody can begin to use it; an interrupted removal is ended next time.
            if removing is not None:
                removing(each.tenant, each.digest)
            files.remove(each.tenant, each.digest)
            with database.write(changes=False) as connection:
                connection.execute(delete(tables.contents).where(_here(each)))
    abandoned = 0 if dry_run else files.sweep(clock() - ages.orphan_seconds)
    if removed and not dry_run:
        with database.write(changes=False) as connection:
            audit.write(connection, clock(), actor, "gc", removed=removed, bytes=total)
    return Collected(tuple(removed), tuple(in_use), abandoned, total)


def _announced(database: Database) -> set[tuple[str, str]]:
    """Contents that stand in the table."""
    table = tables.contents
    with database.read() as connection:
        rows = connection.execute(select(table.c.tenant, table.c.digest))
        return {(row.tenant, row.digest) for row in rows}


def _is_due(connection: Connection, each: Held, ages: Ages, now: float) -> bool:
    table, contents = tables.versions, tables.contents
    of_it = (table.c.tenant == each.tenant) & (table.c.digest == each.digest)
    in_place = select(table.c.id).where(of_it, table.c.state == READY).limit(1)
    if connection.execute(in_place).first() is not None:
        return False
    row = connection.execute(select(contents).where(_here(each))).first()
    if row is not None and row.state == REMOVING:
        return True
    retired = connection.execute(select(func.max(table.c.retired_at)).where(of_it)).scalar()
    if retired is not None:
        return ages.retired_seconds is not None and now - retired >= ages.retired_seconds
    written = max(each.modified_at, 0.0 if row is None else row.at)
    return bool(now - written >= ages.orphan_seconds)


def _mark(connection: Connection, each: Held) -> None:
    """Say that it is being removed; also of what no table knew, so that nobody relies on it."""
    done = connection.execute(update(tables.contents).where(_here(each)).values(state=REMOVING))
    if done.rowcount == 0:
        row = {"tenant": each.tenant, "digest": each.digest, "state": REMOVING}
        connection.execute(insert(tables.contents).values(**row, bytes=0, at=each.modified_at))


def _bytes(connection: Connection, each: Held) -> int:
    found = connection.execute(select(tables.contents.c.bytes).where(_here(each))).scalar()
    return 0 if found is None else int(found)


def _here(each: Held) -> Any:
    table = tables.contents
    return (table.c.tenant == each.tenant) & (table.c.digest == each.digest)
