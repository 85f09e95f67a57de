"""What a method is: a name, what it produces and needs, its settings, and one `fit`.

A method is one file in this folder (or an entry point of the group `tunewise.methods`) with a
module-level `METHOD`. The loop, the renderer, the ledger and the maths live elsewhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.task.types import Kind

if TYPE_CHECKING:  # settings are read before torch is loaded
    from tunewise.adaptation.bundle import Adaptation
    from tunewise.adaptation.context import FitContext

ALL_KINDS = frozenset(Kind)
ENSEMBLE = "ensemble"
"""The setting of a method that finds several prompts: how many."""
_OWN_NAME = "own_name"


class MethodSettings(BaseModel):
    """Base class of a method's settings: frozen, and a field that is not known is refused.

    Every field has a `description` of one line that names its unit: the command-line help and the
    documentation are made from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be there before a method can run.

    Attributes:
        gradients: whether it trains by gradient.
        minimum_rows: training rows below which it is refused.
        kinds: kinds of task it can do.
        base: whether it calls the base model at all.
        seeds: whether another seed can give another result; if not, one fit is enough.
    """

    gradients: bool = False
    minimum_rows: int = 1
    kinds: frozenset[Kind] = ALL_KINDS
    base: bool = True
    seeds: bool = True


class Declared(Protocol):
    """A method as far as its settings go.

    Attributes:
        name: its name.
        Settings: its settings class.
    """

    name: str
    Settings: type[MethodSettings]


@runtime_checkable
class Method(Protocol):
    """The contract itself.

    Attributes:
        name: the field's own term, also the file's name.
        summary: one line for `tunewise methods`.
        produces: kinds of part in what it finds, at most these.
        needs: what must be there.
        Settings: its settings class.
    """

    name: str
    summary: str
    produces: tuple[str, ...]
    needs: Needs
    Settings: type[MethodSettings]

    def fit(self, context: FitContext, settings: Any) -> Adaptation:
        """Find an adaptation.

        Args:
            context: base, rows, ledger, seed, start.
            settings: an instance of `Settings`.

        Returns:
            The adaptation, made with `context.finish`.

        Raises:
            BudgetTooSmallError: the ledger does not cover one step.
        """
        ...


def prompts_at_most(settings: MethodSettings) -> int:
    """Prompts that what is found answers through, at most: what a setting `ensemble` says.

    Args:
        settings: of a method, or of one that is made of others.
    """
    fields = type(settings).model_fields
    named = [name for name in fields if ENSEMBLE in (name, _own(fields[name]))]
    return max([1, *(int(getattr(settings, name)) for name in named)])


def member_field(field: FieldInfo, name: str) -> FieldInfo:
    """The field of a member's setting in the settings of a method that is made of others.

    Args:
        field: of the member's settings.
        name: its name there.
    """
    own = _own(field)
    made = copy(field)
    made.json_schema_extra = {_OWN_NAME: name if own is None else own}
    return made


def _own(field: FieldInfo) -> Any:
    extra = field.json_schema_extra
    return extra.get(_OWN_NAME) if isinstance(extra, dict) else None


def full_names(method: Declared, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings by their whole names.

    A method that is made of others has their settings behind their names, such as `lora_rank`; a
    name that only one of them has may stand alone.

    Args:
        method: whose settings.
        given: values by name.

    Raises:
        UnknownNameError: the method has no such setting; close ones are shown.
        ConfigError: several of its members have it, or it is given twice.
    """
    known = method.Settings.model_fields
    found: dict[str, Any] = {}
    for name, value in given.items():
        ends = [name] if name in known else [each for each in known if _own(known[each]) == name]
        if not ends:
            raise UnknownNameError(f"setting of {method.name}", name, known)
        if len(ends) > 1 or ends[0] in found:
            raise ConfigError(
                f"a setting of {method.name} is not clear",
                found=f"{name}, which may be {' or '.join(ends)}"
                if len(ends) > 1
                else f"{ends[0]} twice",
                expected="each setting once, by a name that only one has",
                fix=f"write {ends[0]}" if len(ends) > 1 else "leave one of them out",
            )
        found[ends[0]] = value
    return found


def parse_settings(method: Declared, given: Mapping[str, Any]) -> MethodSettings:
    """Settings from names and values, as flags or a file give them; see `full_names`.

    Raises:
        UnknownNameError: the method has no such setting; close ones are shown.
        ConfigError: a value cannot be used; all faults are told at once.
    """
    try:
        return method.Settings(**full_names(method, given))
    except ValidationError as error:
        faults = [
            f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {fault['msg']}"
            for fault in error.errors()
        ]
        many = "a setting" if len(faults) == 1 else "some settings"
        raise ConfigError(
            f"{many} of {method.name} cannot be used",
            found="\n    ".join(faults),
            expected="values that its settings take",
            fix=f"see `tunewise fit {shlex.quote(method.name)} --help`",
        ) from error
