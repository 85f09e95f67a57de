"""The root command, and the one place where errors become messages and exit codes.

0 done      2 what the user gave is wrong      3 the run could not finish
"""

from __future__ import annotations

import errno
import json
import sys
from importlib.metadata import version

import click

from tunewise.cli.commands import compare_command, data_group, measure_command, predict_command
from tunewise.cli.fit import fit_group
from tunewise.cli.lists import methods_command, models_command
from tunewise.errors import StorageError, TunewiseError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("tunewise"), prog_name="tunewise")
def cli() -> None:
    """Fine-tune the weights or tune the prompt? Measured on your own task."""


for command in (
    compare_command,
    fit_group,
    predict_command,
    measure_command,
    data_group,
    methods_command,
    models_command,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    as_json = "--json" in sys.argv
    try:
        cli.main(standalone_mode=False)
        code = 0
    except click.exceptions.Abort:
        _tell("stopped; the same command goes on from the last checkpoint", as_json)
        code = 3
    except click.ClickException as error:
        error.show()
        code = 2
    except TunewiseError as error:
        _tell(str(error), as_json, error.as_dict())
        code = error.exit_code
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = StorageError("the disk is full", found=str(error), fix="free some space, run again")
        _tell(str(full), as_json, full.as_dict())
        code = full.exit_code
    sys.exit(code)


def _tell(text: str, as_json: bool, content: dict[str, str] | None = None) -> None:
    click.echo(f"tunewise: {text}", err=True)
    if as_json:
        click.echo(json.dumps(content or {"error": "Stopped", "what": text}))
