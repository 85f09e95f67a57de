"""How things are called: `tenant/name`, `tenant/name@3`, `tenant/name@production`.

What stands behind the "@" is a version's number, an alias, or the first eight or more digits of a
content hash. An alias may not look like one of the others, so a reference has one meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tunewise.errors import ConfigError

WORD = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
ALIAS = re.compile(r"[a-z](?:[a-z0-9_-]{0,62})")
HASH = re.compile(r"[0-9a-f]{8,64}")
DEFAULT_ALIAS = "production"
# Numbers that every database column and every reader holds.
MOST_VERSIONS = 2**31 - 1


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """Whose it is and what it is called."""

    tenant: str
    name: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A name, and which of its versions.

    Attributes:
        name: whose, and what it is called.
        number: of a version, or None.
        digest: the first digits of a content hash, or "".
        alias: the alias; the default one where nothing was said; "" with a number or a digest.
    """

    name: Name
    number: int | None = None
    digest: str = ""
    alias: str = ""

    def __str__(self) -> str:
        chosen = self.alias if self.number is None else str(self.number)
        return f"{self.name}@{chosen if chosen else self.digest}"


def parse_name(text: str) -> Name:
    """A name from "tenant/name".

    Raises:
        ConfigError: it is none.
    """
    pieces = text.split("/")
    if len(pieces) != 2 or not all(WORD.fullmatch(piece) for piece in pieces):
        raise ConfigError(
            "this is not a name in the registry",
            found=repr(text),
            expected="tenant/name, each of small letters, digits, '.', '_' and '-' (64 at most), "
            "with a letter or digit at both ends",
            fix="for example acme/tickets",
        )
    return Name(*pieces)


def parse_alias(text: str) -> str:
    """An alias, checked.

    Raises:
        ConfigError: it is none, or looks like a content hash.
    """
    if ALIAS.fullmatch(text) is None or HASH.fullmatch(text) is not None:
        raise ConfigError(
            "this is not an alias",
            found=repr(text),
            expected="small letters, digits, '_' and '-', a letter first, 64 at most, and not "
            "eight or more digits of a hash",
            fix="for example production or canary",
        )
    return text


def parse_reference(text: str) -> Reference:
    """A reference from "tenant/name", with "@" and a number, an alias or a hash behind it.

    Raises:
        ConfigError: it is none.
    """
    given, mark, chosen = text.partition("@")
    name = parse_name(given)
    if not mark:
        return Reference(name, alias=DEFAULT_ALIAS)
    if chosen.isascii() and chosen.isdigit() and len(chosen) < 8:
        number = int(chosen)
        if 1 <= number <= MOST_VERSIONS and str(number) == chosen:
            return Reference(name, number=number)
    elif HASH.fullmatch(chosen):
        return Reference(name, digest=chosen)
    elif ALIAS.fullmatch(chosen):
        return Reference(name, alias=chosen)
    raise ConfigError(
        "this does not name a version",
        found=repr(text),
        expected="behind the '@' a number from 1 on, an alias, or eight or more digits of a hash",
        fix=f"for example {name}@1 or {name}@{DEFAULT_ALIAS}",
    )
