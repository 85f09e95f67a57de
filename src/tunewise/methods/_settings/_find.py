"""Finds the settings of a method by its name, without the method."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

from tunewise.methods._contract import Declared, MethodSettings
from tunewise.methods._settings._composed import ARROW, PLUS, chain_settings, joint_settings
from tunewise.methods._settings._training import TrainingSettings

_PACKAGE = __name__.rpartition(".")[0]


@dataclass(slots=True)
class _Known:
    name: str
    Settings: type[MethodSettings]


def declared(name: str) -> Declared | None:
    """A method, a chain or a pair as far as its settings go.

    Args:
        name: as typed.

    Returns:
        None where that is known only once it is loaded: a method of another package or folder, or
        a pair inside a chain, whose order the methods themselves decide.
    """
    if ARROW not in name and PLUS not in name:
        return _single(name.strip())
    if ARROW in name and PLUS in name:
        return None
    mark = ARROW if ARROW in name else PLUS
    found = [_single(each.strip()) for each in name.split(mark)]
    members = [each for each in found if each is not None]
    if len(members) < len(found):
        return None
    joined = mark.join(each.name for each in members)
    if mark == PLUS:
        return _Known(joined, joint_settings(joined, members))
    either = any(issubclass(link.Settings, TrainingSettings) for link in members[1:])
    return _Known(joined, chain_settings(joined, members, either=either))


def _single(name: str) -> _Known | None:
    folder = importlib.import_module(_PACKAGE).__path__
    if name not in {each.name for each in pkgutil.iter_modules(folder) if each.name[0] != "_"}:
        return None
    return _Known(name, importlib.import_module(f"{_PACKAGE}.{name}").SETTINGS)
