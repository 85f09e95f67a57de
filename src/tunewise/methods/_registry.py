"""Finds the methods: every module of this folder, the entry points of `tunewise.methods`, and the
files in the folders that the environment variable TUNEWISE_METHODS names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tunewise.discovery import METHOD_FOLDERS, Shelf, folders_named
from tunewise.methods._chain import Chain
from tunewise.methods._contract import Method
from tunewise.methods._joint import Joint
from tunewise.methods._settings._composed import ARROW, PLUS

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
    folders = {
        folder.resolve(): None for folder in (*extra_folders, *folders_named(METHOD_FOLDERS))
    }
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
