"""Tenants and keys in a database: a file of SQLite, or PostgreSQL by its URL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.serve.tenants.database import Database
from tunewise.serve.tenants.keys import NewKey, new_key
from tunewise.serve.tenants.records import Grant, KeyRecord, Quota, check_name, parse_grant
from tunewise.serve.tenants.tables import KEYS, TENANTS, USAGE

QUOTA_FIELDS = tuple(Quota.__dataclass_fields__)
DAY = "%Y-%m-%d"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key's record, the hash of its secret, and its tenant's limits."""

    record: KeyRecord
    hashed: str = field(repr=False)
    quota: Quota


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used of one adaptation.

    Attributes:
        requests: requests that were answered.
        prompt_tokens: tokens of their prompts.
        completion_tokens: tokens of the answers.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    @property
    def tokens(self) -> int:
        """Prompt and answer tokens together."""
        return self.prompt_tokens + self.completion_tokens


Columns: TypeAlias = sa.RowMapping
UsageKey: TypeAlias = tuple[str, str, str]
"""Day in UTC ("2026-01-31"), tenant, adaptation."""


class TenantStore:
    """Tenants, keys and usage.

    Args:
        place: path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL.
        clock: seconds since the epoch.

    Raises:
        ConfigError: the place cannot be used, something else is there, or a newer version of
            Tunewise wrote the tables.
        UnavailableError: the database does not answer; so does every method.
        StorageError: the disk refuses the file, or is full; so does every method that writes.
    """

    def __init__(self, place: str, *, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = Database(place), clock

    def close(self) -> None:
        """Let go of all connections."""
        self._database.close()

    def check(self) -> None:
        """Ask the database something.

        Raises:
            UnavailableError: it does not answer.
        """
        with self._database.read() as connection:
            connection.execute(sa.select(sa.literal(1)))

    def set_tenant(self, name: str, quota: Quota | None = None) -> None:
        """Make a tenant, or change its limits.

        Args:
            name: small letters, digits, ".", "_" and "-".
            quota: its limits; None makes a tenant without limits and changes none that is there.

        Raises:
            ConfigError: the name cannot be one.
        """
        check_name("tenant", name)
        with self._database.write() as connection:
            known = connection.execute(sa.select(TENANTS.c.name).where(TENANTS.c.name == name))
            if known.first() is None:
                values = {"name": name, "created": self._clock(), **asdict(quota or Quota())}
                connection.execute(sa.insert(TENANTS).values(**values))
            elif quota is not None:
                change = sa.update(TENANTS).where(TENANTS.c.name == name)
                connection.execute(change.values(**asdict(quota)))

    def tenants(self) -> dict[str, Quota]:
        """All tenants with their limits, by name."""
        with self._database.read() as connection:
            found = connection.execute(sa.select(TENANTS).order_by(TENANTS.c.name)).mappings()
            return {row["name"]: _quota(row) for row in found}

    def make_key(
        self,
        tenant: str,
        grants: Iterable[Grant],
        *,
        label: str = "",
        expires: datetime | None = None,
    ) -> tuple[KeyRecord, NewKey]:
        """Make a key. Its secret is in the answer and nowhere else.

        Args:
            tenant: whose it is; must be there.
            grants: what it may do; at least one thing.
            label: what its owner calls it.
            expires: when it stops working; None for never.

        Raises:
            UnknownNameError: there is no such tenant.
            ConfigError: a key that could do nothing, or one that has expired already.
        """
        held = frozenset(grants)
        now = self._clock()
        if not held:
            raise ConfigError("the key could do nothing", fix="give it at least one right")
        if expires is not None and expires.timestamp() <= now:
            raise ConfigError("the key would have expired already", found=expires.isoformat())
        if len(label) > 200:
            raise ConfigError("the label is longer than 200 characters", found=f"{len(label)}")
        if tenant not in self.tenants():
            raise UnknownNameError(
                "tenant", tenant, self.tenants(), fix=f"make it: tunewise keys tenant {tenant}"
            )
        made = new_key()
        with self._database.write() as connection:
            connection.execute(
                sa.insert(KEYS).values(
                    id=made.id,
                    tenant=tenant,
                    label=label,
                    hashed=made.hashed,
                    grants=sorted(str(grant) for grant in held),
                    created=now,
                    expires=None if expires is None else expires.timestamp(),
                )
            )
        return KeyRecord(made.id, tenant, label, held, _moment(now), expires), made

    def revoke(self, key_id: str, *, tenant: str | None = None) -> bool:
        """Stop a key from working, for good.

        Args:
            key_id: its public part.
            tenant: refuse keys of others; None for any.

        Returns:
            Whether there was such a key.
        """
        rows = KEYS.c.id == key_id
        if tenant is not None:
            rows &= KEYS.c.tenant == tenant
        # The first moment stays where it was revoked before.
        moment = sa.func.coalesce(KEYS.c.revoked, self._clock())
        with self._database.write() as connection:
            done = connection.execute(sa.update(KEYS).where(rows).values(revoked=moment))
            return done.rowcount > 0

    def list_keys(self, tenant: str | None = None) -> list[KeyRecord]:
        """Keys in the order they were made; of one tenant or of all."""
        chosen = sa.select(KEYS).order_by(KEYS.c.created, KEYS.c.id)
        if tenant is not None:
            chosen = chosen.where(KEYS.c.tenant == tenant)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(chosen).mappings()]

    def find(self, key_id: str) -> StoredKey | None:
        """A key by its public part, whether it works or not; None where there is none."""
        limits = [TENANTS.c[name] for name in QUOTA_FIELDS]
        chosen = sa.select(KEYS, *limits).join(TENANTS).where(KEYS.c.id == key_id)
        with self._database.read() as connection:
            row = connection.execute(chosen).mappings().first()
        return None if row is None else StoredKey(_record(row), row["hashed"], _quota(row))

    def add_usage(self, used: Mapping[UsageKey, Usage]) -> None:
        """Add to what was used, all in one transaction."""
        with self._database.write() as connection:
            for (day, tenant, adaptation), more in sorted(used.items()):
                place = {"day": day, "tenant": tenant, "adaptation": adaptation}
                where = sa.and_(*(USAGE.c[name] == value for name, value in place.items()))
                added = {name: USAGE.c[name] + value for name, value in asdict(more).items()}
                done = connection.execute(sa.update(USAGE).where(where).values(**added))
                if done.rowcount == 0:
                    connection.execute(sa.insert(USAGE).values(**place, **asdict(more)))

    def usage(self, *, day: str | None = None, tenant: str | None = None) -> dict[UsageKey, Usage]:
        """What was used, by day, tenant and adaptation; of one day or tenant where given."""
        chosen = sa.select(USAGE).order_by(USAGE.c.day, USAGE.c.tenant, USAGE.c.adaptation)
        if day is not None:
            chosen = chosen.where(USAGE.c.day == day)
        if tenant is not None:
            chosen = chosen.where(USAGE.c.tenant == tenant)
        names = tuple(Usage.__dataclass_fields__)
        with self._database.read() as connection:
            return {
                (row["day"], row["tenant"], row["adaptation"]): Usage(*(row[n] for n in names))
                for row in connection.execute(chosen).mappings()
            }


def _moment(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _quota(row: Columns) -> Quota:
    return Quota(**{name: row[name] for name in QUOTA_FIELDS})


def _record(row: Columns) -> KeyRecord:
    grants = frozenset(parse_grant(text) for text in row["grants"])
    moments = (_moment(row[name]) for name in ("created", "expires", "revoked"))
    return KeyRecord(row["id"], row["tenant"], row["label"], grants, *moments)
