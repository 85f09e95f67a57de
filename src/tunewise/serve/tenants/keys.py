"""What a key looks like and how its secret is kept.

    tw_<id>_<secret>      id: 12 characters, public, finds the record; secret: 256 random bits

Of the secret only a scrypt hash with a salt of its own is stored (RFC 7914). A secret of 256 bits
cannot be guessed even at one cheap hash per guess; scrypt is for the day such a secret is chosen by
hand. Its cost is paid once per key and minute, see `door`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from tunewise.errors import ConfigError

SCHEME = "scrypt"
COST, BLOCK, PARALLEL = 2**14, 8, 1  # 16 MiB and some 40 ms
SALT_BYTES, HASH_BYTES, SECRET_BYTES, ID_BYTES = 16, 32, 32, 6
# Characters that a key may hold; anything else is told apart before any hashing.
KEY = re.compile(r"tw_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; the only time its secret is at hand.

    Attributes:
        id: public part.
        text: the whole key.
        hashed: what is stored of the secret.
    """

    id: str
    text: str = field(repr=False)
    hashed: str = field(repr=False)


def new_key() -> NewKey:
    """Make a key from the system's random source."""
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    return NewKey(key_id, f"tw_{key_id}_{secret}", hash_secret(secret))


def split_key(text: str) -> tuple[str, str] | None:
    """Public part and secret of a key; None where the text cannot be a key."""
    found = KEY.fullmatch(text)
    return None if found is None else (found[1], found[2])


def hash_secret(secret: str) -> str:
    """What is stored of a secret: scheme, costs, salt and hash, "$" between them."""
    salt = secrets.token_bytes(SALT_BYTES)
    costs = (COST, BLOCK, PARALLEL)
    return "$".join((SCHEME, *map(str, costs), salt.hex(), _scrypt(secret, salt, costs).hex()))


def secret_fits(secret: str, hashed: str) -> bool:
    """Whether this secret was hashed to this; compared in constant time.

    Raises:
        ConfigError: the stored text is no hash of ours.
    """
    try:
        scheme, cost, block, parallel, salt, stored = hashed.split("$")
        costs = (int(cost), int(block), int(parallel))
        expected, salted = bytes.fromhex(stored), bytes.fromhex(salt)
        if scheme != SCHEME:
            raise ValueError(scheme)
    except ValueError as error:
        raise ConfigError(
            "a stored key hash cannot be read",
            expected=f"{SCHEME}$cost$block$parallel$salt$hash",
            fix="revoke the key and make a new one",
        ) from error
    return hmac.compare_digest(_scrypt(secret, salted, costs), expected)


def _scrypt(secret: str, salt: bytes, costs: tuple[int, int, int]) -> bytes:
    cost, block, parallel = costs
    return hashlib.scrypt(
        secret.encode(),
        salt=salt,
        n=cost,
        r=block,
        p=parallel,
        maxmem=256 * cost * block,
        dklen=HASH_BYTES,
    )
