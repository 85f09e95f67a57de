"""Flags that several commands share; most are made from the fields of frozen records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel

from tunewise.config import DEFAULT_BASE
from tunewise.errors import ConfigError
from tunewise.task.options import TaskOptions, merge, read_task_file

F = TypeVar("F", bound=Callable[..., Any])

base_option = click.option(
    "--base",
    default=None,
    metavar="MODEL",
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


def split_data_options(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flags of the data, and all others."""
    names = {*TaskOptions.model_fields, "task_file", "schema_file"}
    mine = {name: value for name, value in values.items() if name in names}
    return mine, {name: value for name, value in values.items() if name not in names}


def read_options(data: str | None, flags: dict[str, Any]) -> tuple[str, TaskOptions]:
    """Data source and options from a task file and the flags over it.

    Raises:
        ConfigError: no data source was given, or an option cannot be used.
    """
    given = dict(flags)
    task_file, schema_file = given.pop("task_file", None), given.pop("schema_file", None)
    source, options = (
        (None, TaskOptions.model_validate({})) if task_file is None else read_task_file(task_file)
    )
    if schema_file is not None:
        given["json_schema"] = _read_schema(Path(schema_file))
    chosen = source if data is None else data
    if chosen is None:
        raise ConfigError(
            "no data was given",
            found="neither DATA nor a task file that names it",
            expected="a file, folder or data set id, or a task file with `data`",
            fix="tunewise ... DATA, or --task task.toml",
        )
    return chosen, merge(options, **given)


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
    # Spaces around names and arrows mean nothing, and must not make another run.
    plain = [">".join(link.strip() for link in name.split(">")) for name in text.split(",")]
    names = tuple(dict.fromkeys(name for name in plain if name))
    if not names:
        raise ConfigError(
            "no method is named",
            found=f"--methods {text!r}",
            expected="names such as lora,few_shot",
            fix="see `tunewise methods`, or leave --methods out to run all",
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
