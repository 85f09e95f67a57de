"""What is known of a caller: tenant, rights, limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tunewise.errors import ConfigError, UnknownNameError

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
ANY = "*"
BASE = "@base"
"""The target that stands for the base model itself; no adaptation can be called so."""


class Right(StrEnum):
    """What a key may do with an adaptation; none contains another."""

    USE = "use"
    PUBLISH = "publish"
    PROMOTE = "promote"
    ADMINISTER = "administer"


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One right on one adaptation of the key's own tenant.

    Attributes:
        right: what may be done.
        target: the adaptation's name without its tenant, "@base" for the base model, or "*" for
            all of both.
    """

    right: Right
    target: str = ANY

    def __str__(self) -> str:
        return f"{self.right}:{self.target}"


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a tenant; None where there is none.

    Attributes:
        requests_per_minute: requests that begin, in bursts of at most as many.
        tokens_per_minute: prompt and answer tokens together, in bursts of at most as many.
        tokens_per_day: the same, per day in UTC.
        streams: requests that run at once.
        weight: share of the engine beside other tenants that wait as well; 2.0 gets twice the
            turns of 1.0.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    streams: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "streams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"{name} must be at least 1", found=str(value), fix="leave it out for no limit"
                )
        if not 0.01 <= self.weight <= 100:
            raise ConfigError("weight must be between 0.01 and 100", found=str(self.weight))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from.

    Attributes:
        tenant: the tenant's name.
        key_id: public part of the key; may stand in logs.
        grants: what the key may do.
        quota: the tenant's limits.
    """

    tenant: str
    key_id: str
    grants: frozenset[Grant]
    quota: Quota = Quota()

    def may(self, right: Right, target: str) -> bool:
        """Whether the key has this right on this adaptation (its name without the tenant)."""
        return bool(self.grants & {Grant(right, ANY), Grant(right, target)})

    def names(self, *rights: Right) -> frozenset[str] | None:
        """On which adaptations the key has any of these rights; None for all."""
        targets = {grant.target for grant in self.grants if grant.right in rights}
        return None if ANY in targets else frozenset(targets - {BASE})


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is listed: everything but the secret, of which only a hash is stored.

    Attributes:
        id: public part of the key.
        tenant: whose it is.
        label: what its owner calls it.
        grants: what it may do.
        created: when it was made (UTC).
        expires: when it stops working (UTC), or None.
        revoked: when it was revoked (UTC), or None.
    """

    id: str
    tenant: str
    label: str
    grants: frozenset[Grant]
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def state(self, now: datetime) -> str:
        """ "active", "expired" or "revoked"."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


def check_name(kind: str, name: str) -> str:
    """Refuse a name that cannot stand in an address.

    Args:
        kind: what it names, for the message.
        name: what was given.

    Returns:
        The name.

    Raises:
        ConfigError: it holds other characters, or too many.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"the {kind} cannot be called so",
            found=repr(name[:80]),
            expected="1 to 64 of a-z, 0-9, '.', '_', '-'; a letter or digit at both ends",
        )
    return name


def parse_grant(text: str) -> Grant:
    """A grant as it is written: "use", "use:*", "promote:tickets", "use:@base".

    Raises:
        UnknownNameError: there is no such right.
        ConfigError: the target cannot be a name.
    """
    word, _, target = text.partition(":")
    if word not in set(Right):
        raise UnknownNameError("right", word, list(Right))
    if ":" in text and target not in (ANY, BASE):
        check_name("adaptation", target)
    return Grant(Right(word), target or ANY)
