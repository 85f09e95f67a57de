"""A recipe: how a task is adapted, without its data. What a task file says, but where the rows are.

recipe.json   the same recipe has the same bytes, and they name it; the order of a schema's
              keys is kept, for answers follow it
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from tunewise.errors import ConfigError, CorruptAdaptationError
from tunewise.task.kind import default_instruction
from tunewise.task.options import TaskOptions, read_task_file
from tunewise.task.types import TaskSpec

RECIPE_FILE = "recipe.json"
_SUFFIX = ".toml"
_FORMAT = 1
_SCHEMA = "json_schema"
# A setting of questions that is a path.
_FILE = "file"

Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """See the module's text.

    Attributes:
        options: about the data, as far as they are given; by the names of `TaskOptions`.
        methods: settings by method or chain.
        questions: settings by question.
        priorities: what matters, as far as it is given.
    """

    options: Mapping[str, Any]
    methods: Tables = field(default_factory=dict)
    questions: Tables = field(default_factory=dict)
    priorities: Mapping[str, Any] = field(default_factory=dict)


def is_recipe(path: Path) -> bool:
    """Whether a path looks like a recipe: a task file."""
    return path.is_file() and path.suffix == _SUFFIX


def read_recipe(path: Path) -> Recipe:
    """The recipe in a task file.

    Raises:
        ConfigError: the file cannot be read or has faults, names no method, or a file of its own.
    """
    held = read_task_file(path)
    priorities = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("priorities", {})
    paths = [name for name, values in held.questions.items() if _FILE in values]
    if paths:
        raise ConfigError(
            "a recipe names no files of one machine",
            found=f"{_FILE} under [questions.{paths[0]}]",
            fix="leave it out; give it where the recipe is used",
        )
    if not held.methods:
        raise ConfigError(
            "the file names no method, so it is no recipe",
            found=str(path),
            expected="a table such as [methods.lora], which may be empty",
        )
    given = held.options.model_dump(mode="json", exclude_unset=True)
    return Recipe(given, held.methods, held.questions, priorities)


def recipe_for(spec: TaskSpec, method: str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe by which a method was fitted.

    Args:
        spec: of the task.
        method: name of a method or chain.
        settings: as used; those that are None are left to the method.
    """
    # One that was composed names the labels of its time, and is composed anew for others.
    composed = default_instruction(spec.kind, spec.labels, schema=spec.schema)
    options = {
        "name": spec.name,
        "kind": str(spec.kind),
        "instruction": None if spec.instruction == composed else spec.instruction,
        "metric": spec.metric,
        _SCHEMA: None if spec.schema is None else dict(spec.schema),
    }
    known = {name: value for name, value in options.items() if value is not None}
    used = {name: value for name, value in settings.items() if value is not None}
    return Recipe(known, {method: used})


def recipe_bytes(recipe: Recipe) -> bytes:
    """What is stored.

    Raises:
        ConfigError: it holds something that JSON has no place for.
    """
    content: dict[str, Any] = {"format": _FORMAT, "options": dict(sorted(recipe.options.items()))}
    for name in ("methods", "questions", "priorities"):
        content[name] = json.loads(json.dumps(getattr(recipe, name), sort_keys=True, default=str))
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError("the recipe cannot be stored", found=str(error)) from error


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


def recipe_toml(recipe: Recipe, schema: str = "") -> str:
    """The recipe as a task file; `read_recipe` reads the same from it.

    Args:
        recipe: what is written.
        schema: name of a file beside it that holds the JSON schema; "" writes it into the text.

    Raises:
        ConfigError: its schema holds a null, for which TOML has no word.
    """
    content = dict(recipe.options)
    if schema and _SCHEMA in content:
        del content[_SCHEMA]
        content["schema"] = schema
    tables = {name: getattr(recipe, name) for name in ("methods", "questions", "priorities")}
    content |= {name: dict(each) for name, each in tables.items() if each}
    try:
        return tomli_w.dumps(content)
    except TypeError as error:
        raise ConfigError(
            "the recipe has no form in TOML",
            found=str(error),
            expected="a schema without null",
            fix="--out FILE writes the schema into a file beside it",
        ) from error
