"""What a server allows, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass

from tunewise.errors import ConfigError

KIB = 2**10
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of one server; all of them hold for every tenant alike.

    Attributes:
        head_bytes: size of a request's first line and headers.
        head_seconds: time in which these must have arrived.
        body_bytes: size of a request, an upload left aside.
        upload_bytes: size of an uploaded archive, and of what it unpacks to.
        body_seconds: time in which a whole request must have arrived.
        upload_seconds: the same for an upload.
        send_seconds: time in which a reader must take a piece of an answer.
        request_seconds: time from a request's arrival to the end of its answer.
        answer_tokens: length of an answer; asked for where a request names none for the base.
        inputs: texts in one request.
        places: requests that the engine works on at once; None for as many as it has slots, and
            two that stand ready.
        waiting: requests that wait for a place, all tenants together.
        waiting_per_tenant: of one tenant.
        uploads: that arrive at once.
        log_prompts: whether prompts and answers stand in the log.
        operator: tenant whose keys see the figures of all tenants, with the right to administer.
        usage_seconds: how often usage is written to the database.
        grace_seconds: how long requests are still taken after SIGTERM, while /readyz says no.
        drain_seconds: how long running requests may go on afterwards.
        processes: servers that answer for the same tenants, this one among them.
    """

    head_bytes: int = 64 * KIB
    head_seconds: float = 10.0
    body_bytes: int = 4 * MIB
    upload_bytes: int = 2048 * MIB
    body_seconds: float = 30.0
    upload_seconds: float = 600.0
    send_seconds: float = 30.0
    request_seconds: float = 300.0
    answer_tokens: int = 2048
    inputs: int = 256
    places: int | None = None
    waiting: int = 1024
    waiting_per_tenant: int = 256
    uploads: int = 4
    log_prompts: bool = False
    operator: str = "operator"
    usage_seconds: float = 10.0
    grace_seconds: float = 0.0
    drain_seconds: float = 60.0
    processes: int = 1

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            least = 0 if name in ("grace_seconds", "waiting", "waiting_per_tenant") else 1e-3
            if isinstance(value, int | float) and not isinstance(value, bool) and value < least:
                raise ConfigError(
                    f"the server's {name} is too small", found=f"{value}", expected=f"over {least}"
                )
