"""Flags that several commands share; most are made from the fields of frozen records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click
from pydantic import BaseModel

from tunewise.compare.priorities import Priorities, priorities_from
from tunewise.config import ALL_QUESTIONS, DEFAULT_BASE
from tunewise.errors import ConfigError
from tunewise.model.names import check_name
from tunewise.task.options import TaskFile, TaskOptions, merge, read_task_file

F = TypeVar("F", bound=Callable[..., Any])
# Settings by method.
MethodTables: TypeAlias = Mapping[str, Mapping[str, Any]]


def _known_base(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """Refuse a typo before anything is loaded."""
    if name is not None:
        check_name(name)
    return name


base_option = click.option(
    "--base",
    default=None,
    metavar="MODEL",
    callback=_known_base,
    help=f"base model: short name, hub id, folder or GGUF file  [default: {DEFAULT_BASE}]",
)
dtype_option = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="dtype of the frozen weights: auto, bfloat16 or float32",
)
json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON document")
budget_option = click.option(
    "--budget",
    default=None,
    metavar="PASSES",
    help="token passes per fit: a number, 150k, or small, default, large",
)
run_budget_option = click.option(
    "--budget",
    default=None,
    metavar="PASSES|TIME",
    help="token passes per fit: a number, 150k, or small, default, large; "
    "or a time for the whole comparison on this machine: 20min, 2h",
)


def flag_name(field: str) -> str:
    """The flag of a field: virtual_tokens -> --virtual-tokens."""
    return "--" + field.replace("_", "-")


def field_options(model: type[BaseModel], leave_out: Iterable[str] = ()) -> list[click.Option]:
    """One flag per field, named and described by the field itself."""
    skip = set(leave_out)
    options = []
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        flag = flag_name(name)
        shown = "" if field.default is None else f"  [default: {field.default}]"
        declaration = f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag
        options.append(
            click.Option(
                [declaration, name],
                default=None,
                metavar=None if field.annotation is bool else _metavar(field.annotation),
                help=f"{field.description or ''}{shown}",
            )
        )
    return options


def _metavar(annotation: Any) -> str:
    text = str(annotation)
    for word, shown in (("int", "N"), ("float", "X")):
        if word in text:
            return shown
    return "TEXT"


def data_options(function: F) -> F:
    """The flags of `TaskOptions`, --task for a file that holds them, --schema for a file."""
    extra = [
        click.Option(["--task", "task_file"], metavar="TOML", help="task file with these options"),
        click.Option(
            ["--schema", "schema_file"],
            metavar="FILE",
            help="file with the JSON schema of an answer",
        ),
    ]
    for option in reversed(field_options(TaskOptions, leave_out=("json_schema",)) + extra):
        parameters = getattr(function, "__click_params__", [])
        parameters.append(option)
        function.__click_params__ = parameters  # type: ignore[attr-defined]  # click's own place
    return function


def priority_options(*, only: Iterable[str] = ()) -> Callable[[F], F]:
    """The flags of `Priorities`.

    Args:
        only: the fields that can take effect; empty for all.
    """
    chosen = set(only) or set(Priorities.model_fields)

    def add(function: F) -> F:
        left_out = set(Priorities.model_fields) - chosen
        parameters = getattr(function, "__click_params__", [])
        parameters.extend(reversed(field_options(Priorities, leave_out=left_out)))
        function.__click_params__ = parameters  # type: ignore[attr-defined]  # click's own place
        return function

    return add


def take_priorities(values: dict[str, Any]) -> Priorities:
    """Take the flags of `Priorities` out of `values`, laid over those of the task file.

    Raises:
        ConfigError: one cannot be used.
    """
    given = {name: values.pop(name, None) for name in Priorities.model_fields}
    return priorities_from(values.get("task_file"), given)


def split_data_options(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flags of the data, and all others."""
    names = {*TaskOptions.model_fields, "task_file", "schema_file"}
    mine = {name: value for name, value in values.items() if name in names}
    return mine, {name: value for name, value in values.items() if name not in names}


def read_options(data: str | None, flags: dict[str, Any]) -> tuple[str, TaskOptions]:
    """Data source and options from a task file and the flags over it; see `read_task`."""
    source, options, _ = read_task(data, flags)
    return source, options


def read_task(data: str | None, flags: dict[str, Any]) -> tuple[str, TaskOptions, MethodTables]:
    """Data source, options and settings of methods from a task file and the flags over it.

    Raises:
        ConfigError: no data source was given, or an option cannot be used.
    """
    given = dict(flags)
    task_file, schema_file = given.pop("task_file", None), given.pop("schema_file", None)
    held = (
        TaskFile(None, TaskOptions.model_validate({}))
        if task_file is None
        else read_task_file(task_file)
    )
    if schema_file is not None:
        given["json_schema"] = _read_schema(Path(schema_file))
    chosen = held.data if data is None else data
    if chosen is None:
        raise ConfigError(
            "no data was given",
            found="neither DATA nor a task file that names it",
            expected="a file, folder or data set id, or a task file with `data`",
            fix="tunewise ... DATA, or --task task.toml",
        )
    return chosen, merge(held.options, **given), held.methods


def question_tables(flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of questions from the task file, where one was given; see `read_task_file`."""
    path = flags.get("task_file")
    held = {} if path is None else read_task_file(path).questions
    return {name: dict(given) for name, given in held.items()}


def _read_schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the schema file cannot be read",
            found=f"{path}: {error}",
            expected="a JSON file with the schema of one answer",
            fix="check --schema",
        ) from error


def parse_methods(text: str | None) -> tuple[str, ...]:
    """Names of methods from "lora,few_shot", each once; none where nothing was given.

    Raises:
        ConfigError: something was given and no name is in it.
    """
    if text is None:
        return ()
    # Spaces around names and marks mean nothing, and must not make another run.
    plain = [re.sub(r"\s*([>+])\s*", r"\1", name.strip()) for name in text.split(",")]
    names = tuple(dict.fromkeys(name for name in plain if name))
    if not names:
        raise ConfigError(
            "no method is named",
            found=f"--methods {text!r}",
            expected="names such as lora,few_shot",
            fix="see `tunewise methods`, or leave --methods out to run all",
        )
    return names


def parse_questions(text: str | None, *, everything: bool) -> tuple[str, ...] | None:
    """Questions from "all", "none" or names; None where nothing was given: the cheap ones.

    Args:
        text: of --questions.
        everything: whether --evidence was given.

    Raises:
        ConfigError: no name is in it, or the two flags contradict each other.
    """
    if everything and text is not None:
        raise ConfigError(
            "it is said twice what is asked",
            found=f"--evidence and --questions {text}",
            expected="one of the two",
            fix="--evidence, which is --questions all",
        )
    if everything:
        return ALL_QUESTIONS
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if names == ("none",):
        return ()
    if not names:
        raise ConfigError(
            "no question is named",
            found=f"--questions {text!r}",
            expected="all, none, or names such as fragility,forgetting",
            fix="see `tunewise questions`, or leave --questions out to ask what is cheap",
        )
    return names


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from "3" (0, 1, 2) or "0,5,7" (these).

    Raises:
        ConfigError: it is neither.
    """
    try:
        numbers = tuple(int(piece) for piece in text.split(",") if piece.strip())
    except ValueError:
        numbers = ()
    counted = len(numbers) == 1 and "," not in text
    if not numbers or min(numbers) < 0 or (counted and numbers[0] == 0):
        raise ConfigError(
            "the seeds cannot be read",
            found=f"--seeds {text}",
            expected="a number of seeds such as 3, or seeds such as 0,5,7",
            fix="--seeds 3, or --seeds 0, (with the comma) for just seed 0",
        )
    seeds = tuple(range(numbers[0])) if counted else numbers
    if len(set(seeds)) != len(seeds):
        raise ConfigError(
            "a seed stands twice",
            found=f"--seeds {text}",
            expected="seeds that differ",
            fix=f"--seeds {','.join(map(str, dict.fromkeys(seeds)))}",
        )
    return seeds
