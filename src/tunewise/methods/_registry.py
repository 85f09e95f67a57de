"""Finds the methods: every module of this folder, the entry points of `tunewise.methods`, and the
files in the folders that the environment variable TUNEWISE_METHODS names.

Nothing is listed by hand. A file whose name begins with an underscore is not a method.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.methods._chain import ARROW, Chain
from tunewise.methods._contract import Method

ENTRY_POINT_GROUP = "tunewise.methods"
FOLDERS_VARIABLE = "TUNEWISE_METHODS"


def discover_methods(extra_folders: Iterable[Path] = ()) -> dict[str, Method]:
    """All methods by name, in alphabetical order.

    Args:
        extra_folders: further folders of method files (each a module with `METHOD`), besides
            those of TUNEWISE_METHODS, which is read at every call.

    Raises:
        ConfigError: a folder is missing, a file cannot be imported or has no usable `METHOD`, or
            two methods share a name.
    """
    found: dict[str, Method] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"tunewise.methods.{info.name}")
            _add(found, getattr(module, "METHOD", None), f"tunewise.methods.{info.name}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _add(found, point.load(), f"entry point {point.value}")
    folders = {folder.resolve(): None for folder in (*extra_folders, *_named_folders())}
    for folder in folders:
        for path in sorted(folder.glob("[!_]*.py")):
            _add(found, getattr(_module_of(path), "METHOD", None), str(path))
    return dict(sorted(found.items()))


def find_method(name: str, methods: dict[str, Method] | None = None) -> Method:
    """The method of this name; a chain of several where arrows stand between them.

    Raises:
        UnknownNameError: there is none; close matches are shown.
        ConfigError: a method stands where it cannot in a chain.
    """
    known = discover_methods() if methods is None else methods
    if ARROW in name:
        return Chain([find_method(link.strip(), known) for link in name.split(ARROW)])
    if name not in known:
        raise UnknownNameError("method", name, known, fix="see `tunewise methods`")
    return known[name]


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


def _module_of(path: Path) -> ModuleType:
    """The module of a method file outside the package, imported once like any other.

    Raises:
        ConfigError: it cannot be imported.
    """
    # Two folders may hold files of one name; the hash keeps their modules apart.
    name = f"tunewise_extra_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("a method file cannot be imported", found=str(path))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and settings look up their annotations in the module's entry.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            "a method file cannot be imported",
            found=f"{path}: {type(error).__name__}: {error}",
            fix="see docs/adding_a_method.md",
        ) from error
    return module


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
