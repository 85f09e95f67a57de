"""registry recipe: how a version was found, as a task file for the next fit."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunewise.cli.options import json_option
from tunewise.cli.registry_place import opened, place_options
from tunewise.errors import AdaptationError, ConfigError, StorageError

if TYPE_CHECKING:
    from tunewise.adaptation.bundle import Provenance

_IMPORTED = "import"


@click.command("recipe", short_help="Print the recipe of a version, as a task file.")
@click.argument("reference")
@click.option("--out", type=click.Path(path_type=Path), help="new file for it  [default: print it]")
@place_options
@json_option
def recipe_command(reference: str, out: Path | None, as_json: bool, **values: Any) -> None:
    """Print how a version was found, as a task file: by it other rows are fitted the same way.

    REFERENCE is a recipe that was registered, or an adaptation, whose own recipe is printed.
    """
    from tunewise.serve.registry.intake import check_folder
    from tunewise.task.recipe import Recipe, recipe_for, recipe_toml

    with opened(values["place"], values["files"]) as registry:
        version = registry.version(reference)
        content = check_folder(registry.folder(version), version.digest)
    heading = ""
    if isinstance(content, Recipe):
        recipe = content
    else:
        made = content.provenance
        if made.method == _IMPORTED:
            raise AdaptationError(
                "this was taken in from elsewhere, and nobody knows its recipe", found=str(version)
            )
        recipe = recipe_for(content.spec, made.method, made.settings)
        heading = _heading(made, str(version))
    if out is not None:
        schema = f"{out.name}.schema.json" if "json_schema" in recipe.options else ""
        _write(out, heading + recipe_toml(recipe, schema))
        if schema:
            text = json.dumps(recipe.options["json_schema"], ensure_ascii=False, indent=1)
            _write(out.with_name(schema), text)
    if as_json:
        click.echo(json.dumps(asdict(recipe), ensure_ascii=False))
    elif out is None:
        click.echo(heading + recipe_toml(recipe), nl=False)


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError as error:
        raise ConfigError(
            "the file is there already", found=str(file), fix="name another, or remove it"
        ) from error
    except OSError as error:
        raise StorageError(
            "the recipe cannot be written", found=f"{file}: {error.strerror}"
        ) from error


def _heading(made: Provenance, version: str) -> str:
    """What a task file has no keys for, as a comment."""
    passes = sum(made.work.get(f"{way}_tokens", 0) for way in ("forward", "backward"))
    flags = ["--seed", str(made.seed), "--base", made.base_name, "--dtype", made.dtype]
    command = ["tunewise", "fit", made.method, "DATA", "--task", "THIS_FILE", *flags]
    told = [
        f"{version} took {passes:,} token passes. The same way on other rows, with their columns "
        "and a --budget:",
        " ".join(map(shlex.quote, command)),
    ]
    if made.start is not None:
        told.append(f"It began at another adaptation, which --start takes: {made.start}")
    # Names may be other people's words: each stays within its line.
    return "".join(f"# {' '.join(line.split())}\n" for line in told)
