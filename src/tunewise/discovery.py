"""Things that are found by lying in a folder, not by standing in a list.

    FORMATS = Shelf[ExportFormat](ExportFormat, "export format", "FORMAT", "a.package", holds="...")
    FORMATS.find("gguf")

Each module of the package is one thing, in a module-level variable and under the module's own name;
a file whose name begins with an underscore is none. Other packages add theirs by entry points.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from tunewise.errors import ConfigError, UnknownNameError

Thing = TypeVar("Thing")
# Names folders with further methods.
METHOD_FOLDERS = "TUNEWISE_METHODS"


def folders_named(variable: str) -> list[Path]:
    """The folders that an environment variable names, separated as in PATH.

    Raises:
        ConfigError: one of them is no folder.
    """
    named = os.environ.get(variable, "").split(os.pathsep)
    folders = [Path(name) for name in named if name.strip()]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                "a folder of methods is not there",
                found=f"{variable} names {folder}",
                expected=f"folders, separated by {os.pathsep!r}",
                fix=f"correct {variable}, or unset it",
            )
    return folders


@dataclass(frozen=True)  # without slots: a generic class with them cannot be written Shelf[T]()
class Shelf(Generic[Thing]):
    """One kind of things.

    Attributes:
        contract: what each must be: a protocol that can be checked while running, with a `name`.
        what: the kind in words, "question".
        variable: the module-level name that holds it.
        package: the package in whose folder they lie.
        holds: what each has, for whoever writes one.
        group: of the entry points by which other packages add theirs; "" where they cannot.
        names: where the names can be read.
        guide: where it is told how one is written.
    """

    contract: Any
    what: str
    variable: str
    package: str
    holds: str
    group: str = ""
    names: str = ""
    guide: str = ""

    def discover(self, files: Iterable[Path] = ()) -> dict[str, Thing]:
        """All things by name, in alphabetical order.

        Args:
            files: further files outside the package, each with one thing.

        Raises:
            ConfigError: a file cannot be imported or holds no such thing, or two share a name.
        """
        found: dict[str, Thing] = {}
        folder = importlib.import_module(self.package).__path__
        for info in pkgutil.iter_modules(folder):
            if not info.name.startswith("_"):
                name = f"{self.package}.{info.name}"
                self._add(found, self._held(importlib.import_module(name)), name)
        for point in entry_points(group=self.group) if self.group else ():
            self._add(found, point.load(), f"entry point {point.value}")
        for path in files:
            self._add(found, self._held(self._module_of(path)), str(path))
        return dict(sorted(found.items()))

    def find(self, name: str, known: Mapping[str, Thing] | None = None) -> Thing:
        """The thing of this name.

        Args:
            name: its name.
            known: those to look among; None for all there are.

        Raises:
            UnknownNameError: there is none; close matches are shown.
        """
        among = self.discover() if known is None else known
        if name not in among:
            raise UnknownNameError(self.what, name, among, fix=self.names)
        return among[name]

    def _held(self, module: ModuleType) -> object:
        return getattr(module, self.variable, None)

    def _add(self, found: dict[str, Thing], thing: Any, where: str) -> None:
        if not isinstance(thing, self.contract):
            raise ConfigError(
                f"a file of the {self.what}s does not hold one",
                found=f"{where}: {self.variable} is {type(thing).__name__}",
                expected=f"a module-level {self.variable} with {self.holds}",
                fix=self.guide,
            )
        if thing.name in found:
            raise ConfigError(
                f"two {self.what}s share a name", found=f"{thing.name!r} again in {where}"
            )
        found[thing.name] = thing

    def _module_of(self, path: Path) -> ModuleType:
        """The module of a file outside the package, imported once like any other.

        Raises:
            ConfigError: it cannot be imported.
        """
        # Two folders may hold files of one name; the hash keeps their modules apart.
        name = f"tunewise_extra_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"a file of the {self.what}s cannot be imported", found=str(path))
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and settings look up their annotations in the module's entry.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ConfigError(
                f"a file of the {self.what}s cannot be imported",
                found=f"{path}: {type(error).__name__}: {error}",
                fix=self.guide,
            ) from error
        return module
