"""The settings of methods that are made of others: chains, and two trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, create_model

from tunewise.methods._contract import Declared, MethodSettings, member_field
from tunewise.methods._settings._training import TrainingSettings

ARROW, PLUS = ">", "+"
"""What stands between the links of a chain, and between methods that are trained together."""
EARLIER_SHARE, EITHER_START = "earlier_share", "either_start"
# What trains last has the most to find. A choice, not a measured optimum.
_SHARE = 1 / 3
_SHARED = set(TrainingSettings.model_fields)


def chain_settings(name: str, links: Sequence[Declared], *, either: bool) -> type[MethodSettings]:
    """The settings of all links, each behind its method's name; a method twice has them once.

    Args:
        name: of the chain.
        links: in their order.
        either: whether one of them has a choice of starts.
    """
    words = "share of the budget for all links but the last that trains, or the last"
    fields: dict[str, Any] = {
        EARLIER_SHARE: (
            float,
            Field(_SHARE, gt=0, lt=1, description=words),
        )
    }
    if either:
        words = "let what trains begin at the plain instruction where that is the better start"
        fields[EITHER_START] = (bool, Field(False, description=words))
    for link in links:
        for known, field in link.Settings.model_fields.items():
            fields[_field(link, known)] = (field.annotation, member_field(field, known))
    return create_model(f"{name} settings", __base__=MethodSettings, **fields)


def link_settings(link: Declared, settings: MethodSettings) -> MethodSettings:
    """Those of one link.

    Args:
        link: of the chain.
        settings: of the whole chain.
    """
    known = link.Settings.model_fields
    return link.Settings(**{name: getattr(settings, _field(link, name)) for name in known})


def joint_settings(name: str, members: Sequence[Declared]) -> type[MethodSettings]:
    """The training's once; those of either member, its learning rate among them, behind its name.

    Args:
        name: of both together.
        members: in their order.
    """
    fields: dict[str, Any] = {}
    for member in members:
        for own in _own(member):
            field = member.Settings.model_fields[own]
            fields[f"{member.name}_{own}"] = (field.annotation, member_field(field, own))
    return create_model(f"{name} settings", __base__=TrainingSettings, **fields)


def member_settings(member: Declared, settings: MethodSettings) -> Any:
    """Those of one member.

    Args:
        member: of two that are trained together.
        settings: of both.
    """
    given = {name: getattr(settings, f"{member.name}_{name}") for name in _own(member)}
    return member.Settings(**given, **{name: getattr(settings, name) for name in _SHARED})


def _own(member: Declared) -> list[str]:
    """The settings of a member that are not the training's."""
    return [name for name in member.Settings.model_fields if name not in _SHARED]


def _field(link: Declared, name: str) -> str:
    # A flag's name: the plus between methods that are trained together is no letter of it.
    return f"{link.name.replace(PLUS, '_and_')}_{name}"
