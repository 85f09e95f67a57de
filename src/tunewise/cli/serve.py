"""serve: one base model, every registered adaptation, over HTTP."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunewise.cli.keys import keys_place
from tunewise.cli.options import base_option, dtype_option
from tunewise.cli.registry_place import place_options
from tunewise.cli.serve_engine import MIB, check_engine, engine_options, make_engine
from tunewise.cli.serve_replicas import check_replicas, replica_options, run_replicas
from tunewise.config import DEFAULT_BASE
from tunewise.errors import ConfigError
from tunewise.model.dtypes import check_dtype

if TYPE_CHECKING:
    from tunewise.adaptation.bundle import Adaptation
    from tunewise.serve.http.service import Service
    from tunewise.serve.http.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def limit_options(function: F) -> F:
    """Flags of what the server allows."""
    numbers: tuple[tuple[str, type, Any, str], ...] = (
        ("--slots", int, 16, "requests in one batch"),
        ("--cache-mib", int, 1024, "memory for adaptations beside the base"),
        ("--context-tokens", int, None, "most positions of a request  [default: the base's]"),
        ("--answer-tokens", int, 2048, "longest answer"),
        ("--waiting", int, 1024, "requests that wait, of all tenants"),
        ("--waiting-per-tenant", int, 256, "requests that wait, of one tenant"),
        ("--request-seconds", float, 300.0, "time for a whole request"),
        ("--body-mib", int, 4, "size of a request"),
        ("--upload-mib", int, 2048, "size of an uploaded adaptation"),
        ("--grace-seconds", float, 0.0, "on SIGTERM: requests are still taken for so long"),
        ("--drain-seconds", float, 60.0, "then running requests may go on for so long"),
    )
    for flag, kind, default, text in reversed(numbers):
        checked: click.IntRange | click.FloatRange = click.IntRange(min=1)
        metavar = "N"
        if kind is float:
            checked, metavar = click.FloatRange(min=0.0, max=86_400.0), "SECONDS"
        option = click.option(
            flag, type=checked, default=default, metavar=metavar, help=text, show_default=True
        )
        function = option(function)
    return function


@click.command("serve", short_help="Serve a base and its adaptations over HTTP.")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--open", "unlocked", is_flag=True, help="no keys; for this machine alone")
@click.option(
    "--keys", default=None, metavar="PLACE", help="of the keys  [default: the registry's]"
)
@click.option("--operator", default="operator", show_default=True, metavar="TENANT",
              help="tenant whose keys see the figures of all")  # fmt: skip
@click.option("--no-probes", is_flag=True, help="ask uploads nothing; they promote by reason only")
@click.option("--log-prompts", is_flag=True, help="prompts and answers stand in the log")
@engine_options
@replica_options
@limit_options
@place_options
@base_option
@dtype_option
def serve_command(**values: Any) -> None:
    """Serve the base and every registered adaptation, with OpenAI's interface.

    Logs are JSON lines on standard error. SIGTERM lets running requests end.
    """
    try:
        from tunewise.serve.http.logs import handlers_to
        from tunewise.serve.http.server import refuse_strangers, refuse_taken, serve
    except ImportError as error:
        raise ConfigError(
            "the server is not installed",
            found=str(error),
            expected="the extra `serve`",
            fix="pip install 'tunewise[serve]'",
        ) from error
    check_engine(values)
    check_replicas(values)
    check_dtype(values["dtype"])
    handlers_to(sys.stderr)
    if values["replicas"] is not None:
        run_replicas(_service, _settings(values), values)
        return
    refuse_strangers(values["host"], unlocked=values["unlocked"])
    refuse_taken(values["host"], values["port"])
    service = _service(values)
    if service.store is not None and not service.store.list_keys():
        click.echo(
            "no key was made yet, and nobody gets in without one: "
            "`tunewise keys tenant NAME`, then `tunewise keys create NAME --right use`",
            err=True,
        )
    who = service.anybody().tenant
    if service.store is None and not service.shelf.page(who, after="", limit=1, only=None):
        click.echo(
            f"with --open everybody is the tenant {who!r}, of which no name is registered, so the "
            f"base alone answers: `tunewise registry add ADAPTATION {who}/NAME`, then promote it",
            err=True,
        )
    serve(service, host=values["host"], port=values["port"])


def _settings(values: dict[str, Any]) -> Settings:
    from tunewise.serve.http.settings import Settings

    replicas = values["replicas"]
    return Settings(
        body_bytes=values["body_mib"] * MIB,
        upload_bytes=values["upload_mib"] * MIB,
        request_seconds=values["request_seconds"],
        answer_tokens=values["answer_tokens"],
        waiting=values["waiting"],
        waiting_per_tenant=values["waiting_per_tenant"],
        log_prompts=values["log_prompts"],
        operator=values["operator"],
        grace_seconds=values["grace_seconds"],
        drain_seconds=values["drain_seconds"],
        processes=1 if replicas is None else replicas,
    )


def _service(values: dict[str, Any]) -> Service:
    from tunewise.model.base import load_base
    from tunewise.serve.http.registry_shelf import RegistryShelf
    from tunewise.serve.http.service import Service
    from tunewise.serve.http.traces import tracer_from_environment
    from tunewise.serve.registry.registry import Registry, default_place
    from tunewise.serve.tenants.store import TenantStore

    settings, tracer = _settings(values), tracer_from_environment()
    place = default_place() if values["place"] is None else values["place"]
    registry = Registry.open(place, files=values["files"])
    store = None if values["unlocked"] else TenantStore(keys_place(values["keys"], place))
    name = DEFAULT_BASE if values["base"] is None else values["base"]
    # Weights of 8 bits are rounded from float32; asked for another dtype, the engine refuses.
    rounded = values["weights"] == "int8" and values["dtype"] == "auto"
    # Behind what is refused early, so that a mistake is told at once and alone.
    click.echo(f"loading {name}", err=True)
    base = load_base(name, dtype="float32" if rounded else values["dtype"])
    engine = make_engine(values, base)
    check = None if values["no_probes"] else _Probes(name, values["dtype"])
    shelf = RegistryShelf(
        registry,
        base_fingerprint=base.fingerprint,
        holder=f"server on {socket.gethostname()}, process {os.getpid()}",
        check=check,
    )
    return Service(engine, shelf, store, settings, tracer)


class _Probes:
    """Holds an upload against a base of its own: attaching changes the model while it lasts."""

    def __init__(self, base: str, dtype: str) -> None:
        self._base, self._dtype = base, dtype
        self._one = threading.Lock()

    def __call__(self, adaptation: Adaptation) -> dict[str, Any]:
        from tunewise.adaptation.probes import hold_against_base
        from tunewise.model.base import load_base

        # One at a time: each takes the memory of a base.
        with self._one:
            base = load_base(self._base, dtype=self._dtype)
            return hold_against_base(base, adaptation).as_dict()
