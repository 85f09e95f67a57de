"""Where the registry is, and who asks: flags that its commands share."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunewise.errors import ConfigError

if TYPE_CHECKING:
    from tunewise.serve.registry.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


def place_options(function: F) -> F:
    """--registry, --files, --actor: where it is, and who asks."""
    for option in (
        click.option(
            "--actor", default=None, metavar="WHO", help="for the audit trail  [default: the user]"
        ),
        click.option(
            "--files",
            default=None,
            metavar="PLACE",
            help="folder or URL of the files  [default: in the registry's folder]",
        ),
        click.option(
            "--registry",
            "place",
            default=None,
            metavar="PLACE",
            help="folder, sqlite:///FILE or postgresql://...  [default: the user's data folder]",
        ),
    ):
        function = option(function)
    return function


@contextmanager
def opened(place: str | None, files: str | None) -> Iterator[Registry]:
    """The registry while the context lasts."""
    from tunewise.serve.registry.registry import Registry, default_place

    if place == "" or files == "":
        raise ConfigError(
            "the place of the registry is empty", found="''", expected="a folder or a URL"
        )
    registry = Registry.open(default_place() if place is None else place, files=files)
    try:
        yield registry
    finally:
        registry.close()


def who(actor: str | None) -> str:
    """Who asks, for the audit trail."""
    if actor is not None:
        if not actor.strip():
            raise ConfigError("--actor is empty", found=repr(actor), expected="a name")
        return actor.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry, as in some containers
        return f"user {os.getuid()}"
