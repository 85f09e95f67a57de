"""Finds the methods: every module of this folder, the entry points of `tunewise.methods`, and the
files in the folders that the environment variable TUNEWISE_METHODS names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tunewise.discovery import Shelf
from tunewise.errors import ConfigError
from tunewise.methods._chain import ARROW, Chain
from tunewise.methods._contract import Method
from tunewise.methods._joint import PLUS, Joint

FOLDERS_VARIABLE = "TUNEWISE_METHODS"
METHODS = Shelf[Method](
    Method,
    "method",
    "METHOD",
    "tunewise.methods",
    holds="name, summary, produces, needs, Settings and fit",
    group="tunewise.methods",
    names="see `tunewise methods`",
    guide="see docs/adding_a_method.md",
)


def discover_methods(extra_folders: Iterable[Path] = ()) -> dict[str, Method]:
    """All methods by name, in alphabetical order.

    Args:
        extra_folders: further folders of method files (each a module with `METHOD`), besides
            those of TUNEWISE_METHODS, which is read at every call.

    Raises:
        ConfigError: a folder is missing, a file cannot be imported or has no usable `METHOD`, or
            two methods share a name.
    """
    folders = {folder.resolve(): None for folder in (*extra_folders, *_named_folders())}
    return METHODS.discover(path for folder in folders for path in sorted(folder.glob("[!_]*.py")))


def find_method(name: str, methods: dict[str, Method] | None = None) -> Method:
    """The method of this name; a chain of several where arrows stand between them, two trained
    together where a plus does.

    Raises:
        UnknownNameError: there is none; close matches are shown.
        ConfigError: a method stands where it cannot.
    """
    known = discover_methods() if methods is None else methods
    if ARROW in name:
        return Chain([find_method(link.strip(), known) for link in name.split(ARROW)])
    if PLUS in name:
        return Joint([find_method(member.strip(), known) for member in name.split(PLUS)])
    return METHODS.find(name, known)


def _named_folders() -> list[Path]:
    """The folders of TUNEWISE_METHODS, separated as in PATH.

    Raises:
        ConfigError: one of them is no folder.
    """
    named = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    folders = [Path(name) for name in named if name.strip()]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                "a folder of methods is not there",
                found=f"{FOLDERS_VARIABLE} names {folder}",
                expected=f"folders, separated by {os.pathsep!r}",
                fix=f"correct {FOLDERS_VARIABLE}, or unset it",
            )
    return folders
