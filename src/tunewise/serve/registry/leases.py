"""Leases: who uses a content now. Files under a lease that has not run out are not collected."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, delete, insert, select, update

from tunewise.serve.registry import tables

PUBLISHING_SECONDS = 3600.0


def take(connection: Connection, tenant: str, digest: str, holder: str, until: float) -> str:
    """Begin to use a content.

    Args:
        connection: a writer's.
        tenant: whose content.
        digest: its content hash.
        holder: who uses it, for people to read.
        until: seconds since 1970 at which the lease runs out by itself.

    Returns:
        The lease's id.
    """
    lease = uuid.uuid4().hex
    connection.execute(
        insert(tables.leases).values(
            id=lease, tenant=tenant, digest=digest, holder=holder, expires_at=until
        )
    )
    return lease


def renew(connection: Connection, lease: str, until: float) -> bool:
    """Go on using it; False where the lease is gone."""
    table = tables.leases
    done = connection.execute(update(table).where(table.c.id == lease).values(expires_at=until))
    return done.rowcount == 1


def release(connection: Connection, lease: str) -> None:
    """Use it no longer; nothing happens where the lease is gone."""
    connection.execute(delete(tables.leases).where(tables.leases.c.id == lease))


def forget_expired(connection: Connection, now: float) -> None:
    """Take out what ran out."""
    connection.execute(delete(tables.leases).where(tables.leases.c.expires_at <= now))


def holders(connection: Connection, tenant: str, digest: str, now: float) -> list[str]:
    """Who uses a content now."""
    table = tables.leases
    chosen = select(table.c.holder).where(
        table.c.tenant == tenant, table.c.digest == digest, table.c.expires_at > now
    )
    return sorted(str(holder) for holder in connection.execute(chosen).scalars())
