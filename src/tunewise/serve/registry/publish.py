"""Registering a version: files first, then one transaction that makes it known.

Whatever moment a process is killed at, a version is there whole or not at all: before the second
transaction nothing points to the files, and what lies there without a version is collected later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tunewise.adaptation.bundle import Adaptation
from tunewise.errors import AdaptationError, RegistryError, RunError, UnavailableError
from tunewise.serve.registry import audit, leases, tables
from tunewise.serve.registry.database import Database
from tunewise.serve.registry.files import Files
from tunewise.serve.registry.intake import Candidate, check_folder, take_in
from tunewise.serve.registry.lookup import find_version
from tunewise.serve.registry.names import Name, Reference
from tunewise.serve.registry.records import READY, RECIPE, RETIRED, Version
from tunewise.task.recipe import Recipe

WRITING, STORED, REMOVING = "writing", "stored", "removing"
Check = Callable[[Adaptation], Mapping[str, Any]]
"""Holds an adaptation against its base and gives a report of JSON values, or raises."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What is said about an adaptation when it is registered.

    Attributes:
        name: whose, and what it is called.
        actor: who registers it.
        run: where it was found, or "".
        notes: free text, or "".
        base_fingerprint: of the base it must be for; None for any.
        check: holds it against its base, or None; see `probes`. Without, it cannot be promoted
            but by a written reason.
    """

    name: Name
    actor: str
    run: str = ""
    notes: str = ""
    base_fingerprint: str | None = None
    check: Check | None = None


def add(
    database: Database,
    files: Files,
    source: Path,
    registration: Registration,
    clock: Callable[[], float],
) -> Version:
    """Check and register an adaptation or a recipe; what is registered already is not once more.

    Args:
        database: the tables.
        files: where files lie.
        source: folder of the adaptation, or a recipe's task file.
        registration: what is said about it.
        clock: seconds since 1970.

    Returns:
        The version, new or the one that was there.

    Raises:
        AdaptationError: it is not let in; see `intake.take_in` and the given check.
        RegistryError: this very content is registered under this name and retired.
        UnavailableError, StorageError: database or files cannot be reached or written.
    """
    name = registration.name
    with files.incoming() as private:
        candidate = take_in(source, private, registration.base_fingerprint)
        report = None
        if registration.check is not None and isinstance(candidate.content, Adaptation):
            report = dict(registration.check(candidate.content))
        with database.write(changes=False) as connection:
            lease = _announce(connection, candidate, registration, clock())
        try:
            if not _intact(files, name.tenant, candidate.digest):
                files.publish(name.tenant, candidate.digest, private)
            with database.write() as connection:
                version = _register(connection, candidate, registration, report, clock())
        finally:
            # Where the database is gone meanwhile, the lease runs out by itself.
            with suppress(RunError), database.write(changes=False) as connection:
                leases.release(connection, lease)
    return version


def holds(connection: Connection, tenant: str, digest: str) -> bool:
    """Whether the files of a content are there, and not being removed."""
    table = tables.contents
    chosen = select(table.c.state).where(table.c.tenant == tenant, table.c.digest == digest)
    return bool(connection.execute(chosen).scalar() == STORED)


def _announce(
    connection: Connection, candidate: Candidate, registration: Registration, now: float
) -> str:
    """Say that files are about to be written, and keep them from being collected meanwhile."""
    table, tenant = tables.contents, registration.name.tenant
    here = (table.c.tenant == tenant) & (table.c.digest == candidate.digest)
    found = connection.execute(select(table.c.state).where(here)).scalar()
    if found == REMOVING:
        raise UnavailableError(
            "these very files are being collected at this moment",
            found=f"{tenant}, {candidate.digest}",
            fix="try again in a minute; `tunewise registry gc` ends what an interrupted one left",
        )
    if found is None:
        connection.execute(
            insert(table).values(
                tenant=tenant,
                digest=candidate.digest,
                state=WRITING,
                bytes=candidate.bytes,
                at=now,
            )
        )
    else:
        connection.execute(update(table).where(here).values(at=now))
    holder = f"registering {registration.name}"
    until = now + leases.PUBLISHING_SECONDS
    return leases.take(connection, tenant, candidate.digest, holder, until)


def _intact(files: Files, tenant: str, digest: str) -> bool:
    """Whether the files are there already, every byte of them."""
    try:
        check_folder(files.fresh(tenant, digest), digest)
    except AdaptationError:
        return False
    return True


def _register(
    connection: Connection,
    candidate: Candidate,
    registration: Registration,
    report: dict[str, Any] | None,
    now: float,
) -> Version:
    name, digest = registration.name, candidate.digest
    versions = tables.versions
    _store(connection, name, digest)
    row = connection.execute(
        select(versions.c.id, versions.c.number, versions.c.state).where(
            versions.c.tenant == name.tenant,
            versions.c.name == name.name,
            versions.c.digest == digest,
        )
    ).first()
    if row is not None and row.state == RETIRED:
        raise RegistryError(
            "this very adaptation was registered before and retired",
            found=f"{name}@{row.number}, {digest[:12]}",
            expected="something else, or another name",
            fix="see `tunewise registry show` for why it was retired",
        )
    if row is None:
        _refuse_another_sort(connection, name, candidate)
        number = _next_number(connection, name, now)
        columns = _columns(candidate, registration, number, now)
        key = connection.execute(insert(versions).values(columns).returning(versions.c.id)).scalar()
        audit.write(
            connection,
            now,
            registration.actor,
            "add",
            name,
            number=number,
            digest=digest,
            run=registration.run,
            probed=report is not None,
        )
    else:
        number, key = row.number, row.id
    if report is not None:
        held = select(tables.probes.c.version).where(tables.probes.c.version == key)
        if connection.execute(held).first() is None:
            connection.execute(insert(tables.probes).values(version=key, report=report))
    return find_version(connection, Reference(name, number=number))


def _refuse_another_sort(connection: Connection, name: Name, candidate: Candidate) -> None:
    """Who asks for a name to be served must never be led to a recipe."""
    table = tables.versions
    here = (table.c.tenant == name.tenant) & (table.c.name == name.name)
    kinds = connection.execute(select(table.c.kinds).where(here).limit(1)).scalar()
    is_recipe = isinstance(candidate.content, Recipe)
    if kinds is not None and (kinds == [RECIPE]) is not is_recipe:
        sorts = ("adaptations", "a recipe") if is_recipe else ("recipes", "an adaptation")
        raise RegistryError(
            f"this name is one of {sorts[0]}", found=f"{sorts[1]}", fix="give it a name of its own"
        )


def _store(connection: Connection, name: Name, digest: str) -> None:
    """Say that the files are there, if nobody removed them meanwhile."""
    contents = tables.contents
    done = connection.execute(
        update(contents)
        .where(
            contents.c.tenant == name.tenant,
            contents.c.digest == digest,
            contents.c.state.in_((WRITING, STORED)),
        )
        .values(state=STORED)
    )
    if done.rowcount == 0:
        raise UnavailableError(
            "the files were collected while they were being registered",
            found=f"{name}, {digest}; registering took longer than "
            f"{leases.PUBLISHING_SECONDS:.0f} seconds",
            fix="try again",
        )


def _next_number(connection: Connection, name: Name, now: float) -> int:
    table = tables.names
    here = (table.c.tenant == name.tenant) & (table.c.name == name.name)
    last = connection.execute(select(table.c.last_number).where(here)).scalar()
    if last is None:
        connection.execute(
            insert(table).values(tenant=name.tenant, name=name.name, last_number=1, created_at=now)
        )
        return 1
    connection.execute(update(table).where(here).values(last_number=last + 1))
    return int(last) + 1


def _columns(
    candidate: Candidate, registration: Registration, number: int, now: float
) -> dict[str, Any]:
    return {
        "tenant": registration.name.tenant,
        "name": registration.name.name,
        "number": number,
        "digest": candidate.digest,
        "state": READY,
        **_facts(candidate.content),
        "run": registration.run,
        "notes": registration.notes,
        "bytes": candidate.bytes,
        "created_at": now,
        "created_by": registration.actor,
        "retired_at": None,
    }


def _facts(content: Adaptation | Recipe) -> dict[str, Any]:
    """What a version tells of what it is; a recipe has no base, no rows and no parent."""
    if isinstance(content, Recipe):
        told = {name: str(content.options.get(name, "")) for name in ("name", "kind", "metric")}
        return {
            "kinds": [RECIPE],
            "method": ", ".join(content.methods),
            "task": told["name"],
            "task_kind": told["kind"],
            "metric": told["metric"],
            **dict.fromkeys(("base_name", "base_fingerprint", "data_hash"), ""),
            "parent": None,
        }
    made, spec = content.provenance, content.spec
    return {
        "kinds": list(content.kinds),
        "method": made.method,
        "task": spec.name,
        "task_kind": str(spec.kind),
        "metric": spec.metric,
        "base_name": made.base_name,
        "base_fingerprint": made.base_fingerprint,
        "data_hash": made.data_hash,
        "parent": made.start,
    }
