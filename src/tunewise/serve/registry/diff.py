"""What differs between two versions: their parts, their making, their words, their scores."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    ShallowModelPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.errors import RegistryError
from tunewise.task.prompt import PromptText
from tunewise.task.recipe import Recipe

_LISTED = 20


def difference(old: Adaptation | Recipe, new: Adaptation | Recipe) -> dict[str, Any]:
    """What the second has other than the first; what is the same is left out.

    Returns:
        JSON values: `parts` by kind, `prompt` as a unified diff, `tensors` by part, and the fields
        of `decoding`, `task` and `made` with their two values. Of recipes the fields of their
        tables.

    Raises:
        RegistryError: one is a recipe and the other is not.
    """
    if isinstance(old, Adaptation) and isinstance(new, Adaptation):
        return _between(old, new)
    if isinstance(old, Recipe) and isinstance(new, Recipe):
        pairs = {name: _fields(first, asdict(new)[name]) for name, first in asdict(old).items()}
        return {name: changed for name, changed in pairs.items() if changed}
    raise RegistryError(
        "a recipe and an adaptation are not alike enough to be compared",
        expected="two of one kind",
        fix="`tunewise registry recipe` prints the recipe of either",
    )


def _between(old: Adaptation, new: Adaptation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    kinds = {"only_old": _less(old.kinds, new.kinds), "only_new": _less(new.kinds, old.kinds)}
    if any(kinds.values()):
        found["parts"] = {name: each for name, each in kinds.items() if each}
    prompt = _prompt(old, new)
    if prompt:
        found["prompt"] = prompt
    tensors = {
        part.kind: changed
        for part in old.parts
        for other in new.parts
        if part.kind == other.kind and (changed := _tensors(part, other))
    }
    if tensors:
        found["tensors"] = tensors
    for name, first, second in (
        ("decoding", asdict(old.decoding), asdict(new.decoding)),
        ("task", asdict(old.spec), asdict(new.spec)),
        ("made", asdict(old.provenance), asdict(new.provenance)),
    ):
        changed = _fields(first, second)
        if changed:
            found[name] = changed
    return found


def _less(some: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    return [kind for kind in some if kind not in others]


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Fields whose values differ, those of objects within by dotted names."""
    found: dict[str, Any] = {}
    for name in sorted({*old, *new}):
        first, second = old.get(name), new.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found |= {f"{name}.{key}": each for key, each in _fields(first, second).items()}
        elif first != second:
            found[name] = {"old": first, "new": second}
    return found


def _prompt(old: Adaptation, new: Adaptation) -> list[str]:
    first, second = (_lines(each.part(PromptTextPart)) for each in (old, new))
    return list(difflib.unified_diff(first, second, "old", "new", lineterm="", n=1))


def _lines(part: PromptTextPart | None) -> list[str]:
    if part is None:
        return []
    if not part.others:
        return _prompt_lines(part.prompt)
    lines = []
    for number, prompt in enumerate(part.prompts, start=1):
        lines += [f"prompt {number}:", *_prompt_lines(prompt)]
    return lines


def _prompt_lines(prompt: PromptText) -> list[str]:
    lines = prompt.instruction.split("\n") if prompt.instruction else []
    for word, shown in (("shown", prompt.demonstrations), ("pool", prompt.pool)):
        lines += [f"{word}: {each.input} -> {each.output}" for each in shown]
    return [*lines, f"nearest: {prompt.nearest}"] if prompt.nearest else lines


def _tensors(old: Part, new: Part) -> dict[str, Any]:
    """Tensors of one kind of part that differ, the ones that changed most first."""
    first, second = _named(old), _named(new)
    found: dict[str, Any] = {}
    for name, count in (
        ("only_old", sorted(set(first) - set(second))),
        ("only_new", sorted(set(second) - set(first))),
    ):
        if count:
            found[name] = count[:_LISTED] + (
                [f"and {len(count) - _LISTED} more"] * (len(count) > _LISTED)
            )
    changed = {
        name: _moved(first[name], second[name])
        for name in sorted(set(first) & set(second))
        if not _equal(first[name], second[name])
    }
    if changed:
        found["changed"] = len(changed)
        found["same"] = len(set(first) & set(second)) - len(changed)
        most = sorted(changed.items(), key=lambda item: -item[1].get("relative", float("inf")))
        found["most"] = dict(most[:_LISTED])
    return found


def _named(part: Part) -> Mapping[str, Tensor]:
    if isinstance(part, VirtualTokensPart):
        return {"embeddings": part.embeddings}
    if isinstance(part, KVPrefixPart):
        keys = {f"layers.{index}.key": each for index, each in enumerate(part.keys)}
        return keys | {f"layers.{index}.value": each for index, each in enumerate(part.values)}
    if isinstance(part, LowRankPart | WeightsPart | ShallowModelPart):
        return part.tensors
    return {}


def _equal(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape and old.dtype == new.dtype and bool(old.equal(new))


def _moved(old: Tensor, new: Tensor) -> dict[str, Any]:
    if old.shape != new.shape or old.dtype != new.dtype:
        told = [
            f"{list(each.shape)} {str(each.dtype).removeprefix('torch.')}" for each in (old, new)
        ]
        return {"old": told[0], "new": told[1]}
    before, after = old.double(), new.double()
    size = float(before.norm())
    moved = float((after - before).norm())
    return {
        "largest": float((after - before).abs().max()),
        "relative": moved / size if size else float(moved > 0),
    }
