"""Rates and quotas, counted in this process.

Each rate is a bucket that fills evenly and holds a minute's worth (a token bucket; Turner 1986).
Tokens are taken before a request runs, at the most it may use, and what it did not use is given
back when it ends: so the limit holds at every moment, whatever the requests turn out to need.

Where several processes answer for the same tenants, each lets an equal share of a minute's limits
and of the requests at once through. Of the day's tokens they learn now and then what all used.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tunewise.errors import QuotaError
from tunewise.serve.tenants.records import Principal, Quota
from tunewise.serve.tenants.store import DAY, Usage, UsageKey

MINUTE_SECONDS = 60.0
DAY_SECONDS = 86_400


@dataclass(slots=True)
class _Bucket:
    """How much is left, as of a moment."""

    left: float
    at: float

    def fill(self, now: float, per_minute: float) -> None:
        grown = self.left + (now - self.at) * per_minute / MINUTE_SECONDS
        self.left, self.at = min(grown, per_minute), now

    def wait_seconds(self, amount: float, per_minute: float) -> float:
        """How long until this much is there; what is over the whole bucket waits for a full one."""
        short = min(amount, per_minute) - self.left
        return max(0.0, short * MINUTE_SECONDS / per_minute)


@dataclass(slots=True)
class _Tenant:
    """What is counted of one tenant."""

    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    streams: int = 0
    day: str = ""
    day_tokens: int = 0
    running_tokens: int = 0  # of the day's, those of requests that have not ended
    used: dict[UsageKey, Usage] = field(default_factory=dict)


class Limiter:
    """Admits requests within their tenant's limits and counts what they use.

    Args:
        spent_today: tokens used today by tenant, from earlier processes.
        processes: that answer for the same tenants, this one among them.
        monotonic: a clock for rates, in seconds.
        wall: seconds since the epoch, for days.
    """

    def __init__(
        self,
        spent_today: Mapping[str, int] | None = None,
        *,
        processes: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic, self._wall, self._processes = monotonic, wall, processes
        self._lock = threading.Lock()
        today = self._today()
        spent = {} if spent_today is None else spent_today
        self._tenants = {name: _Tenant(day=today, day_tokens=n) for name, n in spent.items()}

    def admit(self, principal: Principal, adaptation: str, tokens: int) -> Permit:
        """Take one request and its tokens from the tenant's limits.

        Args:
            principal: who asks.
            adaptation: under which name usage is counted.
            tokens: the most it may use, prompt and answer together.

        Raises:
            QuotaError: a limit is used up; nothing was taken. Says how long to wait.
        """
        quota = principal.quota
        with self._lock:
            held = self._tenants.setdefault(principal.tenant, _Tenant())
            self._refresh(held, quota)
            self._check(held, quota, tokens)
            if held.requests is not None:
                held.requests.left -= 1
            if held.tokens is not None:
                held.tokens.left -= tokens
            held.day_tokens += tokens
            held.running_tokens += tokens
            held.streams += 1
        return Permit(self, principal, adaptation, tokens, held.day)

    def grow(self, permit: Permit, tokens: int) -> None:
        """Take more tokens for a request that runs; called by `Permit.take`."""
        quota = permit.principal.quota
        with self._lock:
            held = self._tenants[permit.principal.tenant]
            self._refresh(held, quota)
            self._check_tokens(held, quota, tokens, permit.tokens)
            if held.tokens is not None:
                held.tokens.left -= tokens
            if held.day == permit.day:
                held.day_tokens += tokens
                held.running_tokens += tokens

    def settle(self, permit: Permit, used: Usage) -> None:
        """Give back what a request did not use; called by `Permit.close`."""
        unused = permit.tokens - used.tokens
        with self._lock:
            held = self._tenants[permit.principal.tenant]
            held.streams -= 1
            if held.tokens is not None:
                held.tokens.left += unused
            if held.day == permit.day:
                held.day_tokens -= unused
                held.running_tokens -= permit.tokens
            place = (self._today(), permit.principal.tenant, permit.adaptation)
            held.used[place] = held.used.get(place, Usage()) + used

    def take_usage(self) -> dict[UsageKey, Usage]:
        """What was used since the last call, to be stored."""
        with self._lock:
            taken = {k: v for held in self._tenants.values() for k, v in held.used.items()}
            for held in self._tenants.values():
                held.used = {}
        return taken

    def put_back(self, used: Mapping[UsageKey, Usage]) -> None:
        """Usage that could not be stored, for the next call of `take_usage`."""
        with self._lock:
            for place, more in used.items():
                held = self._tenants.setdefault(place[1], _Tenant())
                held.used[place] = held.used.get(place, Usage()) + more

    def learn(self, day: str, stored: Mapping[str, int]) -> None:
        """Count what other processes used of the day's tokens.

        Args:
            day: of the count.
            stored: tokens of every tenant that are in the database, this process's among them.
        """
        with self._lock:
            if day != self._today():
                return
            for name, tokens in stored.items():
                held = self._tenants.setdefault(name, _Tenant())
                self._turn_day(held, day)
                own = sum(used.tokens for place, used in held.used.items() if place[0] == day)
                held.day_tokens = tokens + own + held.running_tokens

    def streams(self) -> dict[str, int]:
        """Requests that run now, by tenant."""
        with self._lock:
            return {name: held.streams for name, held in self._tenants.items() if held.streams}

    def _today(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).strftime(DAY)

    def _refresh(self, held: _Tenant, quota: Quota) -> None:
        """Let time pass: buckets fill, a new day begins, changed limits take effect."""
        now = self._monotonic()
        held.requests = _refilled(held.requests, now, self._own(quota.requests_per_minute))
        held.tokens = _refilled(held.tokens, now, self._own(quota.tokens_per_minute))
        self._turn_day(held, self._today())

    def _own(self, per_minute: int | None) -> float | None:
        """This process's share of a rate."""
        return None if per_minute is None else per_minute / self._processes

    @staticmethod
    def _turn_day(held: _Tenant, today: str) -> None:
        if held.day != today:
            held.day, held.day_tokens, held.running_tokens = today, 0, 0

    def _check(self, held: _Tenant, quota: Quota, tokens: int) -> None:
        # Rounded up: what shares would leave over is let through rather than refused.
        streams = None if quota.streams is None else math.ceil(quota.streams / self._processes)
        if streams is not None and held.streams >= streams:
            raise _over("requests that run at once", streams, 1.0)
        if held.requests is not None and quota.requests_per_minute is not None:
            wait = held.requests.wait_seconds(1, quota.requests_per_minute / self._processes)
            if wait > 0:
                raise _over("requests a minute", quota.requests_per_minute, wait)
        self._check_tokens(held, quota, tokens, 0)

    def _check_tokens(self, held: _Tenant, quota: Quota, tokens: int, taken: int) -> None:
        """Refuse tokens that are not left; `taken` are held by the same request already."""
        if held.tokens is not None and quota.tokens_per_minute is not None:
            if tokens + taken > quota.tokens_per_minute:
                raise _never("tokens a minute", quota.tokens_per_minute, tokens + taken)
            # One request may ask for more than the share, up to the limit: it waits for a full
            # bucket, of which it may have taken some itself, and leaves a debt.
            share = quota.tokens_per_minute / self._processes
            wait = held.tokens.wait_seconds(min(tokens + taken, share) - taken, share)
            if wait > 0:
                raise _over("tokens a minute", quota.tokens_per_minute, wait)
        if quota.tokens_per_day is not None:
            if tokens + taken > quota.tokens_per_day:
                raise _never("tokens a day", quota.tokens_per_day, tokens + taken)
            if held.day_tokens + tokens > quota.tokens_per_day:
                wait = DAY_SECONDS - self._wall() % DAY_SECONDS
                raise _over("tokens a day", quota.tokens_per_day, wait)


@dataclass(slots=True)
class Permit:
    """One admitted request; closing it twice counts once.

    Attributes:
        principal: who asked.
        adaptation: under which name usage is counted.
        tokens: what was taken.
        day: the day it was taken on.
    """

    _limiter: Limiter
    principal: Principal
    adaptation: str
    tokens: int
    day: str
    _closed: bool = False

    def take(self, tokens: int) -> None:
        """Take more tokens, once it is known how many are needed.

        Args:
            tokens: beside those taken before.

        Raises:
            QuotaError: they are not left; nothing was taken.
        """
        self._limiter.grow(self, tokens)
        self.tokens += tokens

    def close(self, used: Usage) -> None:
        """End the request.

        Args:
            used: what it used in the end; requests 0 where it was refused before it ran.
        """
        if not self._closed:
            self._closed = True
            self._limiter.settle(self, used)


def _refilled(bucket: _Bucket | None, now: float, per_minute: float | None) -> _Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return _Bucket(per_minute, now)
    bucket.fill(now, per_minute)
    return bucket


def _over(what: str, limit: int, wait_seconds: float) -> QuotaError:
    return QuotaError(
        f"the limit of {what} is used up",
        expected=f"at most {limit:,} {what}",
        fix=f"try again in {wait_seconds:.0f} s",
        retry_after_seconds=wait_seconds,
    )


def _never(what: str, limit: int, tokens: int) -> QuotaError:
    return QuotaError(
        f"one request asks for more than the limit of {what}",
        found=f"{tokens:,} tokens, prompt and longest answer together",
        expected=f"at most {limit:,}",
        fix="ask for a shorter answer (max_tokens), or send less text",
        retry_after_seconds=None,
    )
