"""One HTTP request, from its arrival to its last byte: what is known of it and told of it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from tunewise.errors import ForbiddenError
from tunewise.serve.tenants.records import Principal, Right

STATE = "tunewise"


@dataclass(slots=True)
class Call:
    """What is known of a request so far.

    Attributes:
        id: names it in logs, answers and errors.
        started: when it arrived, of a monotonic clock.
        principal: who asks; None on pages that need no key.
        endpoint: the route, not the address.
        model: what answered it, "tenant/name@3" or the base's name.
        usage_model: the same without a version, under which it is counted.
        status: of the response, 0 before.
        code: of the problem that a caller was told, "" where there was none.
        failed: whether it was a fault of this side; a stream may break off behind a status of 200.
        figures: numbers for the log: tokens, milliseconds.
        texts: prompts and answers, where they are to be logged.
    """

    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started: float = field(default_factory=time.monotonic)
    principal: Principal | None = None
    endpoint: str = ""
    model: str = ""
    usage_model: str = ""
    status: int = 0
    code: str = ""
    failed: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time since it arrived."""
        return time.monotonic() - self.started

    def mark(self, name: str) -> None:
        """Note the milliseconds since its arrival, the first time only."""
        self.figures.setdefault(name, round(self.seconds * 1000, 3))

    def add(self, name: str, amount: float) -> None:
        """Add to a number."""
        self.figures[name] = self.figures.get(name, 0) + amount


def call_of(request: Request) -> Call:
    """The call that a request is."""
    call: Call = request.scope[STATE]
    return call


def caller_of(request: Request) -> Principal:
    """Who asks; the entrance lets nobody else through.

    Raises:
        ForbiddenError: a page without a key asked for one.
    """
    principal = call_of(request).principal
    if principal is None:
        raise ForbiddenError("this page is for holders of a key")
    return principal


def require(principal: Principal, right: Right, target: str) -> None:
    """Refuse what a key may not do, before anything is looked up.

    Args:
        principal: who asks.
        right: what is to be done.
        target: name of the adaptation without the tenant, or "@base".

    Raises:
        ForbiddenError: the key has no such right; the same whether the target is there or not.
    """
    if not principal.may(right, target):
        raise ForbiddenError(
            f"this key may not {right} this",
            found=target,
            expected=f"a key with the right {right}:{target} or {right}:*",
            fix="ask your administrator for a key that may",
        )
