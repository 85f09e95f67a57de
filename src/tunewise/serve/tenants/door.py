"""From the key of a request to who asks.

A key is hashed with scrypt the first time it is seen; afterwards a keyed digest of it is compared,
while its record is read anew at least every second, so a revoked key stops working within one.
What cannot be a key, an unknown key and a wrong secret get the same answer after the same work.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from tunewise.errors import AccessError, QuotaError
from tunewise.serve.tenants.keys import hash_secret, secret_fits, split_key
from tunewise.serve.tenants.records import Principal
from tunewise.serve.tenants.store import StoredKey, TenantStore

K = TypeVar("K")
V = TypeVar("V")

RECORD_SECONDS = 1.0
KNOWN_KEYS = 4096
FAILURES, FAILURES_PER_SECOND = 20.0, 0.5
ADDRESSES = 4096


@dataclass(slots=True)
class _Failures:
    left: float
    at: float


class Door:
    """Tells who holds a key.

    Args:
        store: where keys are.
        monotonic: a clock in seconds.
        wall: seconds since the epoch, for expiry.
        hashing: how many keys may be hashed at once; each takes 16 MiB and some 40 ms.
    """

    def __init__(
        self,
        store: TenantStore,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        hashing: int = 2,
    ) -> None:
        self._store, self._monotonic, self._wall = store, monotonic, wall
        self._secret = secrets.token_bytes(32)
        self._nobody = hash_secret(secrets.token_urlsafe(32))
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(hashing)
        # Digest of a whole key -> the stored hash that it was found to fit.
        self._fitted: OrderedDict[bytes, str] = OrderedDict()
        self._records: OrderedDict[str, tuple[float, StoredKey]] = OrderedDict()
        # By address, and by the public part of a key that is there, "" for all others.
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def quick(self, text: str) -> Principal | None:
        """Who holds this key, where it is known without hashing or asking the database."""
        parts = split_key(text)
        if parts is None:
            return None
        with self._lock:
            held = self._records.get(parts[0])
            if held is None or self._monotonic() - held[0] > RECORD_SECONDS:
                return None
            fitted = self._fitted.get(self._digest(text))
        stored = held[1]
        return self._principal(stored) if fitted == stored.hashed else None

    def fitted(self, text: str) -> bool:
        """Whether this key was found to fit before, so that `principal` need not hash it."""
        digest = self._digest(text)
        with self._lock:
            return digest in self._fitted

    def principal(self, text: str, address: str = "") -> Principal:
        """Who holds this key; may hash for some 40 ms, so not for an event loop.

        Args:
            text: the key as it was sent.
            address: where it came from; too many wrong keys from one are refused unhashed.

        Raises:
            AccessError: nobody does, or no longer.
            QuotaError: too many wrong keys from this address.
            UnavailableError: the database does not answer.
        """
        parts = split_key(text)
        stored = None if parts is None else self._stored(parts[0])
        digest = self._digest(text)
        with self._lock:
            fitted = self._fitted.get(digest)
        if stored is None or fitted != stored.hashed:
            # Wrong secrets count against their own key, so that a key that works and was not seen
            # yet gets in, whatever else comes from its address, which may be a proxy's. That this
            # tells which public parts exist, of 2^48, helps nobody.
            place = (address, "" if stored is None else stored.record.id)
            self._refuse_guessing(place)
            hashed = self._nobody if stored is None else stored.hashed
            with self._slots:
                fits = secret_fits("" if parts is None else parts[1], hashed)
            if stored is None or not fits:
                self._note_failure(place)
                raise unknown_key()
            with self._lock:
                _put(self._fitted, digest, stored.hashed, KNOWN_KEYS)
        found = self._principal(stored)
        if found is None:
            raise unknown_key()
        return found

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(errors="replace"), hashlib.sha256)

    def _stored(self, key_id: str) -> StoredKey | None:
        now = self._monotonic()
        with self._lock:
            held = self._records.get(key_id)
        if held is not None and now - held[0] <= RECORD_SECONDS:
            return held[1]
        stored = self._store.find(key_id)
        with self._lock:
            if stored is None:
                self._records.pop(key_id, None)
            else:
                _put(self._records, key_id, (now, stored), KNOWN_KEYS)
        return stored

    def _principal(self, stored: StoredKey) -> Principal | None:
        record = stored.record
        if record.state(datetime.fromtimestamp(self._wall(), UTC)) != "active":
            return None
        return Principal(record.tenant, record.id, record.grants, stored.quota)

    def _refuse_guessing(self, place: tuple[str, str]) -> None:
        with self._lock:
            held = self._failures.get(place)
            if held is None:
                return
            now = self._monotonic()
            held.left = min(FAILURES, held.left + (now - held.at) * FAILURES_PER_SECOND)
            held.at = now
            left = held.left
        if left < 1:
            wait = (1 - left) / FAILURES_PER_SECOND
            raise QuotaError(
                "too many wrong keys came from this address",
                fix=f"try again in {wait:.0f} s with a key that works",
                retry_after_seconds=wait,
            )

    def _note_failure(self, place: tuple[str, str]) -> None:
        with self._lock:
            held = self._failures.get(place, _Failures(FAILURES, self._monotonic()))
            held.left -= 1
            _put(self._failures, place, held, ADDRESSES)


def unknown_key() -> AccessError:
    """The one error for keys that open nothing, whatever the reason."""
    return AccessError(
        "the API key is not known here",
        expected="the header `Authorization: Bearer tw_...` with a key that is active",
        fix="ask who runs this server for a key",
    )


def _put(held: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Keep this, and forget what was put first where there are too many."""
    held[key] = value
    held.move_to_end(key)
    while len(held) > most:
        held.popitem(last=False)
