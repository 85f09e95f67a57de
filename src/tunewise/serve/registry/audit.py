"""The audit trail: every change with who, when and why, each entry sealed with the one before.

The digest of an entry is SHA-256 over its content and the digest before it, so an entry that is
changed or taken out later no longer fits what follows. Whoever can write the database can also
write the whole chain anew; keeping the last digest elsewhere shows that too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, desc, insert, select

from tunewise.errors import RegistryError
from tunewise.serve.registry import tables
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.records import AuditEntry

START = "0" * 64


def write(
    connection: Connection,
    at: float,
    actor: str,
    action: str,
    name: Name | None = None,
    **detail: Any,
) -> None:
    """Add an entry, inside the transaction that does what it tells.

    Args:
        connection: a writer's.
        at: seconds since 1970.
        actor: who does it.
        action: what is done, one word.
        name: to what, or None for the registry as a whole.
        detail: JSON values.
    """
    table = tables.audit
    last = connection.execute(select(table.c.digest).order_by(desc(table.c.id)).limit(1)).scalar()
    before = START if last is None else str(last)
    tenant, word = ("", "") if name is None else (name.tenant, name.name)
    content = {
        "at": at,
        "actor": actor,
        "action": action,
        "tenant": tenant,
        "name": word,
        "detail": detail,
    }
    connection.execute(
        insert(table).values(**content, before=before, digest=_digest(content, before))
    )


def entries(
    connection: Connection, name: Name | None, *, after: int = 0, limit: int = 100
) -> list[AuditEntry]:
    """Entries about a name, or all of them, the oldest first.

    Args:
        connection: a reader's.
        name: of an adaptation; None for everything.
        after: only those with a higher id.
        limit: how many at most.
    """
    table = tables.audit
    chosen = select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
    if name is not None:
        chosen = chosen.where(table.c.tenant == name.tenant, table.c.name == name.name)
    return [_entry(row) for row in connection.execute(chosen)]


def check(connection: Connection) -> int:
    """Hold every entry against its digest and the one before.

    Returns:
        How many there are.

    Raises:
        RegistryError: one was changed or taken out.
    """
    before, count = START, 0
    for row in connection.execute(select(tables.audit).order_by(tables.audit.c.id)):
        entry = _entry(row)
        content = {
            "at": entry.at,
            "actor": entry.actor,
            "action": entry.action,
            "tenant": entry.tenant,
            "name": entry.name,
            "detail": entry.detail,
        }
        if row.before != before or entry.digest != _digest(content, before):
            raise RegistryError(
                "the audit trail was changed after it was written",
                found=f"entry {entry.id} ({entry.action} by {entry.actor}) does not fit the one "
                "before it",
                expected="every entry with the digest of its content and of the entry before",
                fix="compare with a backup of the database",
            )
        before, count = entry.digest, count + 1
    return count


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        row.id, row.at, row.actor, row.action, row.tenant, row.name, row.detail, row.digest
    )


def _digest(content: Mapping[str, Any], before: str) -> str:
    text = json.dumps([before, content], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
