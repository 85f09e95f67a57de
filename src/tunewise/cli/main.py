"""The root command, and the one place where errors become messages and exit codes.

0 done      2 what the user gave is wrong      3 the run could not finish
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from importlib.metadata import version

import click

from tunewise.cli.advise import advise_command
from tunewise.cli.commands import compare_command, data_group, measure_command, predict_command
from tunewise.cli.export import export_command
from tunewise.cli.fit import fit_group
from tunewise.cli.keys import keys_group
from tunewise.cli.lists import methods_command, models_command, questions_command
from tunewise.cli.registry import registry_group
from tunewise.cli.serve import serve_command
from tunewise.errors import (
    ConfigError,
    RunError,
    StorageError,
    TunewiseError,
    UnknownNameError,
)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK = (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("tunewise"), prog_name="tunewise")
def cli() -> None:
    """Fine-tune the weights or tune the prompt? Measured on your own task."""


for command in (
    advise_command,
    compare_command,
    fit_group,
    predict_command,
    measure_command,
    export_command,
    data_group,
    methods_command,
    questions_command,
    models_command,
    keys_group,
    registry_group,
    serve_command,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    # Read when torch loads. Threads that spin long at the end of every operation, as is the
    # default, wait for one that another process keeps from running; a short spin costs a free
    # machine nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    as_json = "--json" in sys.argv
    try:
        cli.main(standalone_mode=False)
        # What is still in the buffer goes out here, where a closed pipe is known for what it is.
        sys.stdout.flush()
        code = 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.exceptions.Abort:
        what = "stopped; the same command goes on from the last checkpoint"
        code = _tell(RunError(what), as_json, name="Stopped")
    except click.ClickException as error:
        code = _tell(_usage(error), as_json)
    except TunewiseError as error:
        code = _tell(error, as_json)
    except BrokenPipeError:
        # Nobody reads any more, as with `| head`; at exit Python would flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno not in _DISK:
            raise
        code = _tell(_disk(error), as_json)
    sys.exit(code)


def _tell(error: TunewiseError, as_json: bool, name: str | None = None) -> int:
    """Say what went wrong; returns the exit code."""
    click.echo(f"tunewise: {error}", err=True)
    if as_json:
        content = error.as_dict() if name is None else {**error.as_dict(), "error": name}
        click.echo(json.dumps(content, ensure_ascii=False))
    return error.exit_code


def _usage(error: click.ClickException) -> ConfigError:
    """What click found wrong with the command line, in the form of every other error."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = "tunewise" if context is None else context.command_path
    fix = f"see `{path} --help`"
    if isinstance(error, click.NoSuchOption) and context is not None:
        options = context.command.get_params(context)
        # Of a pair such as --climb/--all the second is a flag like the first.
        known = [flag for each in options for flag in (*each.opts, *each.secondary_opts)]
        flags = [flag for flag in known if flag.startswith("--")]
        return UnknownNameError("flag", error.option_name, flags, fix=fix)
    if isinstance(error, click.exceptions.NoSuchCommand) and context is not None:
        group = context.command
        names = group.list_commands(context) if isinstance(group, click.Group) else []
        return UnknownNameError("command", error.command_name, names, fix=fix)
    if "unexpected extra argument" in error.format_message():
        fix = f"a path with spaces stands in quotes; {fix}"
    usage = "tunewise COMMAND ..." if context is None else context.command.get_usage(context)
    return ConfigError(
        error.format_message().rstrip("."),
        found=shlex.join(["tunewise", *sys.argv[1:]]),
        expected=" ".join(usage.removeprefix("Usage: ").split()),
        fix=fix,
    )


def _disk(error: OSError) -> StorageError:
    """A disk that refuses, told as such wherever it happened."""
    full = error.errno in _FULL
    return StorageError(
        "the disk is full" if full else "a file or folder is refused by the disk",
        found=str(error),
        expected="room to write" if full else "a place that can be read and written",
        fix="free some space, then run the same command again"
        if full
        else "change its permissions or choose another place, then run the same command again",
    )
