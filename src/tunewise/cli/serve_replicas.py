"""Flags of several replicas, and how the command starts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunewise.errors import ConfigError

if TYPE_CHECKING:
    from tunewise.serve.http.service import Service
    from tunewise.serve.http.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
MOST_REPLICAS = 1000


def replica_options(function: F) -> F:
    """Flags of several replicas."""
    options = (
        click.option("--replicas", type=click.IntRange(1, MOST_REPLICAS), default=None,
                     metavar="N", help="processes with a base each, through Ray Serve"),
        click.option("--replica-cores", type=click.IntRange(min=1), default=None, metavar="N",
                     help="of each replica  [default: an equal share; 1 in a cluster]"),
        click.option("--ray-address", default=None, metavar="ADDRESS",
                     help="a Ray cluster that runs  [default: one of its own, on this machine]"),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def check_replicas(values: dict[str, Any]) -> None:
    """Refuse flags that could not take effect, before anything is loaded.

    Args:
        values: all flags of the command.

    Raises:
        ConfigError: says which, or that Ray is not installed.
    """
    if values["replicas"] is None:
        for name in ("replica_cores", "ray_address"):
            if values[name] is not None:
                raise ConfigError(
                    "this flag is for several replicas",
                    found="--" + name.replace("_", "-"),
                    expected="--replicas N beside it",
                )
        return
    if values["engine"] != "embedded":
        raise ConfigError(
            "several replicas are for the embedded engine",
            found=f"--engine {values['engine']} --replicas {values['replicas']}",
            fix="leave --replicas out: a vLLM server is scaled by its own settings",
        )
    if values["ray_address"] is not None and values["port"] == 0:
        raise ConfigError(
            "in a cluster the port must be known beforehand", found="--port 0", expected="a port"
        )
    if values["ray_address"] is not None and values["unlocked"]:
        # The proxy of a cluster may listen elsewhere than this command says.
        raise ConfigError(
            "a server without keys is for this machine alone",
            found="--open --ray-address",
            expected="one of the two",
            fix="make keys (`tunewise keys create`) and leave --open out",
        )
    from tunewise.serve.replicas.driver import require_ray

    require_ray(values["ray_address"])


def run_replicas(
    make: Callable[[dict[str, Any]], Service], settings: Settings, values: dict[str, Any]
) -> None:
    """Serve from several processes until a signal comes.

    Args:
        make: makes what is behind one server of the flags; called in each replica.
        settings: limits.
        values: all flags of the command, checked.

    Raises:
        TunewiseError: what each of the replicas would raise, or they did not start.
    """
    from tunewise.model.base import load_tokenizer
    from tunewise.serve.http.server import refuse_strangers
    from tunewise.serve.replicas.driver import Layout, serve_replicas

    refuse_strangers(values["host"], unlocked=values["unlocked"])
    values = {**values, **_absolute(values)}
    # What one process would complain of is told here, once and whole; and a base that must be
    # fetched, and tables that must be made, are so before several processes ask for them.
    load_tokenizer(values["base"])
    _open_once(values)
    layout = Layout(
        values["replicas"],
        values["host"],
        values["port"],
        address=values["ray_address"],
        cores=values["replica_cores"],
    )
    serve_replicas(partial(make, values), settings, layout)


def _absolute(values: dict[str, Any]) -> dict[str, Any]:
    """The places as they are named from anywhere: replicas may run in another folder."""
    from tunewise.cli.keys import keys_place
    from tunewise.config import DEFAULT_BASE
    from tunewise.serve.registry.registry import default_place

    base = DEFAULT_BASE if values["base"] is None else values["base"]
    keys = keys_place(values["keys"], values["place"])
    place = default_place() if values["place"] is None else values["place"]
    files = values["files"]
    return {
        "base": str(Path(base).absolute()) if Path(base).exists() else base,
        "place": _path(place),
        "keys": _path(keys),
        "files": None if files is None else _path(files),
    }


def _path(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


def _open_once(values: dict[str, Any]) -> None:
    from tunewise.serve.registry.registry import Registry
    from tunewise.serve.tenants.store import TenantStore

    Registry.open(values["place"], files=values["files"]).close()
    if not values["unlocked"]:
        TenantStore(values["keys"]).close()
