"""Which engine answers: the embedded one, or a vLLM server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunewise.errors import ConfigError

if TYPE_CHECKING:
    from tunewise.model.base import Base
    from tunewise.serve.contract import Engine

F = TypeVar("F", bound=Callable[..., Any])
MIB = 2**20
NOWHERE = "none"

log = logging.getLogger("tunewise.serve")


def engine_options(function: F) -> F:
    """Flags of the engine."""
    options = (
        click.option("--engine", type=click.Choice(["embedded", "vllm"]), default="embedded",
                     show_default=True, help="what runs the base"),
        click.option("--weights", type=click.Choice(["own", "int8"]), default="own",
                     show_default=True,
                     help="int8: rounded to 8 bits; faster, and answers may differ"),
        click.option("--prefix-folder", default=None, metavar="DIR",
                     help="keep computed prefixes there, for restarts and what was evicted; 'none' "
                     "keeps none  [default: in the cache folder]"),
        click.option("--prefix-folder-mib", type=click.IntRange(min=1), default=None, metavar="N",
                     help="size of that folder  [default: 1024]"),
        click.option("--vllm-url", default=None, metavar="URL",
                     help="vllm: a server that runs; its key from VLLM_API_KEY"),
        click.option("--vllm-python", default=None, metavar="FILE",
                     help="vllm: start a server with the Python of its own environment"),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def check_engine(values: dict[str, Any]) -> None:
    """Refuse flags that could not take effect, before anything is loaded.

    Args:
        values: all flags of the command.

    Raises:
        ConfigError: says which.
    """
    if values["prefix_folder_mib"] is not None and values["prefix_folder"] == NOWHERE:
        raise ConfigError(
            "there is no folder whose size to bound",
            found=f"--prefix-folder {NOWHERE} --prefix-folder-mib {values['prefix_folder_mib']}",
            fix="leave one of them out",
        )
    given = [name for name in ("vllm_url", "vllm_python") if values[name] is not None]
    if values["engine"] == "embedded":
        if given:
            raise ConfigError(
                "this flag is for the vLLM engine",
                found=_flag(given[0]),
                expected="--engine vllm beside it",
            )
        return
    if len(given) != 1:
        raise ConfigError(
            "the vLLM engine needs one server",
            found=" and ".join(_flag(name) for name in given) or "none",
            expected="--vllm-url of one that runs, or --vllm-python to start one",
        )
    given = [name for name in ("prefix_folder", "prefix_folder_mib") if values[name] is not None]
    if given:
        raise ConfigError(
            "vLLM keeps its prefixes itself",
            found=f"--engine vllm {_flag(given[0])}",
            fix=f"leave {_flag(given[0])} out",
        )
    if values["weights"] != "own":
        raise ConfigError(
            "weights of 8 bits are for the embedded engine",
            found=f"--engine vllm --weights {values['weights']}",
            fix="leave --weights out",
        )


def make_engine(values: dict[str, Any], base: Base) -> Engine:
    """The engine that the flags ask for.

    Args:
        values: all flags of the command, checked.
        base: the base.

    Raises:
        ConfigError: a flag does not fit the base or the machine.
        WrongBaseError: the vLLM server has another base.
        UnavailableError: the vLLM server does not answer, or did not start.
    """
    budget, context = values["cache_mib"] * MIB, values["context_tokens"]
    if values["engine"] == "vllm":
        return _vllm(values, base, budget, context)
    from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings

    settings = EngineSettings(
        slots=values["slots"],
        budget_bytes=budget,
        context_tokens=context,
        weights=values["weights"],
        prefix_folder=_prefix_folder(values["prefix_folder"]),
    )
    if values["prefix_folder_mib"] is not None:
        settings = replace(settings, prefix_folder_bytes=values["prefix_folder_mib"] * MIB)
    return EmbeddedEngine(base, settings)


def _prefix_folder(given: str | None) -> Path | None:
    """Where prefixes are kept; nobody need have asked for it, so that a cache folder which cannot
    be written to is no reason not to serve.
    """
    from tunewise.model.cache import home
    from tunewise.serve.engine.prefix_names import FOLDER, make

    if given is not None:
        return None if given == NOWHERE else Path(given).expanduser()
    folder = home() / FOLDER
    try:
        make(folder, own=True)
    except OSError as refused:
        log.warning("computed prefixes are not kept", extra={"error": str(refused)})
        return None
    return folder


def _vllm(values: dict[str, Any], base: Base, budget: int, context: int | None) -> Engine:
    from tunewise.serve.vllm.engine import VllmEngine, VllmSettings
    from tunewise.serve.vllm.process import Start, VllmProcess

    process, slots = None, values["slots"]
    url, key = values["vllm_url"], os.environ.get("VLLM_API_KEY")
    if url is None:
        process = VllmProcess(
            Start(
                values["vllm_python"],
                base.path,
                base.dtype_name,
                context_tokens=context,
                slots=slots,
                on_cpu=base.device.type == "cpu",
            )
        )
        url, key = process.url, process.key
    settings = VllmSettings(slots=slots, budget_bytes=budget, context_tokens=context, key=key)
    return VllmEngine(base, url, settings, process=process)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
