"""Finds the methods: every module of this folder, and the entry points of `tunewise.methods`.

Nothing is listed by hand. A file whose name begins with an underscore is not a method.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.methods._contract import Method

ENTRY_POINT_GROUP = "tunewise.methods"


def discover_methods(extra_folders: Iterable[Path] = ()) -> dict[str, Method]:
    """All methods by name, in alphabetical order.

    Args:
        extra_folders: further folders of method files (each a module with `METHOD`).

    Raises:
        ConfigError: a module has no usable `METHOD`, or two methods share a name.
    """
    found: dict[str, Method] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"tunewise.methods.{info.name}")
            _add(found, getattr(module, "METHOD", None), f"tunewise.methods.{info.name}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _add(found, point.load(), f"entry point {point.value}")
    for folder in extra_folders:
        for path in sorted(folder.glob("[!_]*.py")):
            spec = importlib.util.spec_from_file_location(f"tunewise_extra.{path.stem}", path)
            if spec is None or spec.loader is None:
                raise ConfigError("a method file cannot be imported", found=str(path))
            extra = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(extra)
            _add(found, getattr(extra, "METHOD", None), str(path))
    return dict(sorted(found.items()))


def find_method(name: str, methods: dict[str, Method] | None = None) -> Method:
    """The method of this name.

    Raises:
        UnknownNameError: there is none; close matches are shown.
    """
    known = discover_methods() if methods is None else methods
    if name not in known:
        raise UnknownNameError("method", name, known, fix="see `tunewise methods`")
    return known[name]


def _add(found: dict[str, Method], method: object, where: str) -> None:
    if not isinstance(method, Method):
        raise ConfigError(
            "a method file does not hold a method",
            found=f"{where}: METHOD is {type(method).__name__}",
            expected="a module-level METHOD with name, summary, produces, needs, Settings and fit",
            fix="see docs/adding_a_method.md",
        )
    if method.name in found:
        raise ConfigError("two methods share a name", found=f"{method.name!r} again in {where}")
    found[method.name] = method
