"""Every error of the tree as an HTTP status and OpenAI's error object.

What a caller did wrong is told in full. What went wrong on this side is told by its kind only:
paths and addresses of the machine are for the log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tunewise.errors import (
    AccessError,
    AdaptationError,
    BusyError,
    ForbiddenError,
    GateRefusedError,
    GrammarError,
    InputError,
    NotRegisteredError,
    QuotaError,
    RegistryError,
    RequestTooLongError,
    RunError,
    StorageError,
    TunewiseError,
    UnavailableError,
    UnknownNameError,
)

BUSY_SECONDS = 1.0
UNAVAILABLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Problem:
    """What a caller is told.

    Attributes:
        status: HTTP status.
        kind: OpenAI's `type`.
        code: OpenAI's `code`, for programs.
        message: for people.
        param: the field that is wrong, or None.
        retry_after_seconds: when to try again, or None.
    """

    status: int
    kind: str
    code: str
    message: str
    param: str | None = None
    retry_after_seconds: float | None = None

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Headers beside it."""
        headers: dict[str, str] = {}
        if self.retry_after_seconds is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_seconds)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


class ServingError(RunError):
    """What is on this server cannot be used: a damaged file, an adaptation for another base."""


class GoneError(RunError):
    """Nobody waits for the answer any more."""


class TooSlowError(RunError):
    """The answer did not come within the time a request may take."""


class TooLargeError(InputError):
    """More bytes than a request may have."""


class SlowBodyError(InputError):
    """A request did not arrive whole in its time."""


# The first entry that fits wins, so what is narrower stands first.
_STATUS: tuple[tuple[type[TunewiseError], int, str, str], ...] = (
    (ForbiddenError, 403, "permission_error", "forbidden"),
    (AccessError, 401, "authentication_error", "invalid_api_key"),
    (NotRegisteredError, 404, "invalid_request_error", "model_not_found"),
    (UnknownNameError, 404, "invalid_request_error", "not_found"),
    (GateRefusedError, 409, "invalid_request_error", "gate_refused"),
    (RegistryError, 409, "invalid_request_error", "conflict"),
    (RequestTooLongError, 400, "invalid_request_error", "context_length_exceeded"),
    (SlowBodyError, 408, "invalid_request_error", "request_timeout"),
    (TooLargeError, 413, "invalid_request_error", "too_large"),
    (AdaptationError, 400, "invalid_request_error", "adaptation_refused"),
    (InputError, 400, "invalid_request_error", "invalid_value"),
    (GrammarError, 400, "invalid_request_error", "schema_refused"),
    (QuotaError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (BusyError, 429, "rate_limit_error", "queue_full"),
    (ServingError, 503, "server_error", "adaptation_unavailable"),
    (GoneError, 499, "server_error", "client_closed_request"),
    (TooSlowError, 504, "server_error", "timeout"),
    (StorageError, 507, "server_error", "storage_full"),
    (UnavailableError, 503, "server_error", "unavailable"),
    (TunewiseError, 500, "server_error", "internal_error"),
)


def problem_of(error: TunewiseError) -> Problem:
    """What a caller is told of an error."""
    status, kind, code = next(
        (status, kind, code) for type_, status, kind, code in _STATUS if isinstance(error, type_)
    )
    if isinstance(error, QuotaError):
        if error.retry_after_seconds is None:
            # Waiting does not help, and clients wait and repeat on 429 by themselves.
            status, kind, code = 400, "invalid_request_error", "over_limit"
        return Problem(status, kind, code, _told(error), None, error.retry_after_seconds)
    if isinstance(error, BusyError):
        return Problem(status, kind, code, _told(error), None, BUSY_SECONDS)
    if status < 500:
        return Problem(status, kind, code, _told(error))
    wait = UNAVAILABLE_SECONDS if isinstance(error, UnavailableError) else None
    return Problem(status, kind, code, error.what, None, wait)


def unexpected() -> Problem:
    """What a caller is told of a fault in the program."""
    return Problem(500, "server_error", "internal_error", "something went wrong on this side")


def _told(error: TunewiseError) -> str:
    """The four parts in one line: clients print the message as it is."""
    parts = [error.what]
    parts += [
        f"{name}: {text}"
        for name, text in (("found", error.found), ("expected", error.expected), ("fix", error.fix))
        if text
    ]
    return "; ".join(parts)
