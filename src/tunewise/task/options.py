"""What a user may say about the data: flags, or a task file in TOML that holds the same keys."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewise.errors import ConfigError
from tunewise.task.types import Kind


class TaskOptions(BaseModel):
    """Everything about the data that is not in the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str | None = Field(
        None, description="column with the text that is given; several: Subject,Body"
    )
    output: str | None = Field(None, description="column with the answer")
    references: str | None = Field(
        None, description="column with a list of further accepted answers"
    )
    domain: str | None = Field(None, description="column that names a slice of the data")
    group: str | None = Field(None, description="column whose equal rows never stand in two splits")
    id: str | None = Field(None, description="column with a unique name of each row")
    kind: Kind | None = Field(None, description="what an answer is; detected unless given")
    instruction: str | None = Field(
        None, description="what to do, in words; composed from kind and labels unless given"
    )
    metric: str | None = Field(None, description="metric to judge by; set by the kind unless given")
    json_schema: dict[str, Any] | None = Field(
        None, description="JSON schema that every answer of kind json must meet"
    )
    label_separator: str = Field(
        ",", min_length=1, description="text between the labels of one multi_label answer"
    )
    require_answers: bool = Field(
        False, description="refuse rows without an answer, which are left out and named otherwise"
    )
    name: str | None = Field(None, description="short name; taken from the file unless given")
    validation_fraction: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="share of the non-test rows kept for choosing, where not given",
    )
    test_fraction: float = Field(
        0.3, gt=0, lt=1, description="share of all rows kept for the test, where none is given"
    )
    split_seed: int = Field(13, ge=0, description="seed of the split; 0 is a seed like any other")
    near_duplicate_similarity: float = Field(
        0.9,
        gt=0,
        le=1,
        description="cosine of character 3-to-5-grams from which two inputs are one",
    )


@dataclass(frozen=True, slots=True)
class TaskFile:
    """What a task file holds.

    Attributes:
        data: the data source, or None.
        options: about the data.
        methods: settings by method or chain, in the order they stand; their names and values are
            for whoever knows the methods to check.
        questions: settings by question, likewise.
    """

    data: str | None
    options: TaskOptions
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    questions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_task_file(path: str | Path) -> TaskFile:
    """Read a task file: the keys of `TaskOptions`, and beside them `data`, `schema`, `methods` and
    `questions`.

    A table `[priorities]` may stand there too and is left to those who recommend.

    Args:
        path: a TOML file. `data` and a `schema` that is a path are relative to it; `schema` may
            also be a table and stands for `json_schema`.

    Raises:
        ConfigError: the file cannot be read, or has faults; all of them are told at once.
    """
    file = Path(path)
    values = _read_toml(file)
    faults: list[str] = []
    # What matters to the user is no fact of the data; who recommends reads it.
    values.pop("priorities", None)
    data = values.pop("data", None)
    if data is not None and not isinstance(data, str):
        faults.append(f"data: found {data!r}, expected a path or data set id in quotes")
        data = None
    if isinstance(data, str) and (file.parent / data).exists():
        data = str(file.parent / data)
    if "schema" in values:
        schema = _read_schema(values.pop("schema"), file.parent, faults)
        if "json_schema" in values:
            faults.append("schema and json_schema: found both, expected one of them")
        elif schema is not None:
            values["json_schema"] = schema
    methods = _tables("methods", values.pop("methods", {}), faults)
    questions = _tables("questions", values.pop("questions", {}), faults)
    beside = ("data", "schema", "methods", "questions")
    options = _validate(values, faults, known_besides=beside)
    if options is None:
        raise ConfigError(
            f"the task file {file} has {len(faults)} fault{'s' if len(faults) > 1 else ''}",
            found="\n    ".join(faults),
            expected=f"keys among {', '.join((*beside, *TaskOptions.model_fields))}",
            fix="correct the keys named above",
        )
    return TaskFile(data, options, methods, questions)


def _tables(what: str, value: Any, faults: list[str]) -> dict[str, dict[str, Any]]:
    """Settings by name: a table of tables. Spaces around arrows and pluses mean nothing."""
    example = {"methods": "[methods.lora]", "questions": "[questions.fragility]"}[what]
    if not isinstance(value, dict):
        faults.append(f"{what}: found {value!r}, expected tables such as {example}")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, settings in value.items():
        plain = re.sub(r"\s*([>+])\s*", r"\1", name.strip())
        if not isinstance(settings, dict):
            faults.append(
                f"{what}.{name}: found {settings!r}, expected a table such as [{what}.{name}]"
            )
        elif plain in found:
            faults.append(f"{what}.{name}: {plain} stands there twice")
        else:
            found[plain] = settings
    return found


def merge(options: TaskOptions, **overrides: Any) -> TaskOptions:
    """Lay flags over a task file's options; a flag that is None was not given.

    Args:
        options: from the task file, or the defaults.
        **overrides: values by the names of `TaskOptions`.

    Raises:
        ConfigError: a name or value is wrong; all faults are told at once.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    set_before = options.model_dump(exclude_unset=True)
    faults: list[str] = []
    merged = _validate({**set_before, **given}, faults, known_besides=())
    if merged is None:
        raise ConfigError(
            "the data options cannot be used",
            found="\n    ".join(faults),
            expected=f"options among {', '.join(TaskOptions.model_fields)}",
            fix="correct the options named above",
        )
    return merged


def _read_toml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        close = difflib.get_close_matches(
            file.name, [each.name for each in file.parent.glob("*.toml")], n=3, cutoff=0.5
        )
        raise ConfigError(
            f"there is no task file {file}",
            found=f"close to it: {', '.join(close)}" if close else "",
            expected="the path of a TOML file",
            fix="check the path",
        )
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the task file {file} is not valid TOML",
            found=str(error),
            expected='lines such as kind = "classification", in UTF-8',
            fix="correct the place named above",
        ) from error


def _read_schema(value: Any, folder: Path, faults: list[str]) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        faults.append(f"schema: found {value!r}, expected a table or the path of a JSON file")
        return None
    try:
        schema = json.loads((folder / value).read_text(encoding="utf-8-sig"))
    except OSError as error:
        faults.append(f"schema: {folder / value} cannot be read ({error.strerror})")
        return None
    except ValueError as error:
        faults.append(f"schema: {folder / value} is not JSON ({error})")
        return None
    if not isinstance(schema, dict):
        faults.append(f"schema: {folder / value} holds no JSON object")
        return None
    return schema


def _validate(
    values: dict[str, Any], faults: list[str], *, known_besides: tuple[str, ...]
) -> TaskOptions | None:
    """The options, or None with every fault appended; None too where faults were there before."""
    options = None
    try:
        options = TaskOptions.model_validate(values)
    except ValidationError as error:
        known = [*TaskOptions.model_fields, *known_besides]
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                faults.append(f"{name}: there is no such key{hint}")
            else:
                faults.append(f"{name}: found {fault['input']!r}; {fault['msg']}")
    faults += _schema_faults(values.get("json_schema"))
    return None if faults else options


def _schema_faults(schema: Any) -> list[str]:
    if not isinstance(schema, dict):
        return []
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        return [f"json_schema: it is no JSON schema ({error.message})"]
    return []
