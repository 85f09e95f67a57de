"""A recipe: how a task is adapted, without its data. What a task file says, but where the rows are.

recipe.json   canonical JSON: the same recipe has the same bytes, and they name it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from tunewise.errors import ConfigError, CorruptAdaptationError
from tunewise.task.options import TaskOptions, read_task_file
from tunewise.task.types import TaskSpec

RECIPE_FILE = "recipe.json"
_FORMAT = 1

Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """See the module's text.

    Attributes:
        options: about the data, as far as they are given; by the names of `TaskOptions`.
        methods: settings by method or chain.
        questions: settings by question.
    """

    options: Mapping[str, Any]
    methods: Tables = field(default_factory=dict)
    questions: Tables = field(default_factory=dict)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a task file.

    Raises:
        ConfigError: the file cannot be read or has faults, or names no method.
    """
    held = read_task_file(path)
    if not held.methods:
        raise ConfigError(
            "the file names no method, so it is no recipe",
            found=str(path),
            expected="a table such as [methods.lora], which may be empty",
        )
    given = held.options.model_dump(mode="json", exclude_unset=True)
    return Recipe(given, held.methods, held.questions)


def recipe_for(spec: TaskSpec, method: str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe by which a method was fitted.

    Args:
        spec: of the task.
        method: name of a method or chain.
        settings: as used; those that are None are left to the method.
    """
    options = {
        "name": spec.name,
        "kind": str(spec.kind),
        "instruction": spec.instruction,
        "metric": spec.metric,
        "json_schema": None if spec.schema is None else dict(spec.schema),
    }
    known = {name: value for name, value in options.items() if value is not None}
    used = {name: value for name, value in settings.items() if value is not None}
    return Recipe(known, {method: used})


def recipe_bytes(recipe: Recipe) -> bytes:
    """What is stored.

    Raises:
        ConfigError: it holds something that JSON has no place for.
    """
    try:
        text = json.dumps(
            {"format": _FORMAT, **asdict(recipe)},
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
            indent=1,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError("the recipe cannot be stored", found=str(error)) from error
    return text.encode()


def recipe_digest(data: bytes) -> str:
    """The hash of its stored bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def stored_recipe(data: bytes) -> Recipe:
    """A recipe from its stored bytes.

    Raises:
        CorruptAdaptationError: they are none.
    """
    try:
        held = json.loads(data)
        if held.pop("format") != _FORMAT:
            raise ValueError("of another format")
        recipe = Recipe(**held)
        TaskOptions.model_validate(recipe.options)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CorruptAdaptationError("the recipe cannot be read", found=str(error)) from error
    return recipe


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as a task file; `read_recipe` reads the same from it.

    Raises:
        ConfigError: its schema holds a null, for which TOML has no word.
    """
    tables = {"methods": dict(recipe.methods), "questions": dict(recipe.questions)}
    content = {**recipe.options, **{name: each for name, each in tables.items() if each}}
    try:
        return tomli_w.dumps(content)
    except TypeError as error:
        raise ConfigError(
            "the recipe has no form in TOML",
            found=str(error),
            expected="a schema without null",
            fix="--json prints it as it is",
        ) from error
