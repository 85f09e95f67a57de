"""What a run is refused for at once, before torch is loaded: names, settings, columns, the place.

A typo must not cost the ten seconds that libraries take to load. What lies in a folder is known
by its modules' names without importing them, and the methods' settings lie in modules of their own;
what is read here is read again by whoever acts on it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import tempfile
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from tunewise.compare.run_folder import check_free
from tunewise.config import ALL_QUESTIONS, RunConfig, check_budget
from tunewise.discovery import METHOD_FOLDERS, folders_named
from tunewise.errors import OutputFolderError, UnknownNameError
from tunewise.methods._contract import parse_settings
from tunewise.methods._settings._find import declared
from tunewise.model.dtypes import check_dtype
from tunewise.model.names import check_name
from tunewise.task.columns import choose_columns
from tunewise.task.joined import with_joined_input
from tunewise.task.load import check_there, read_source
from tunewise.task.options import TaskOptions
from tunewise.task.score import METRICS

METHODS = "tunewise.methods"
QUESTIONS = "tunewise.measure.questions"
_QUESTION_GROUP = "tunewise.questions"


def check_run(config: RunConfig, out: Path | None = None) -> None:
    """Refuse what no data and no base could make right.

    Args:
        config: what would run.
        out: folder of the run; None where nothing is written.

    Raises:
        ConfigError: a method, one of its settings, a question, metric, base, dtype or budget that
            there is not.
        DataError: there is no such file, it cannot be read, or a column is not in it.
        OutputFolderError: the folder holds something else, or cannot be written.
    """
    check_methods((*config.methods, *config.settings))
    for name, given in config.settings.items():
        known = declared(name)
        if known is not None:
            parse_settings(known, given)
    asked = () if config.questions in (None, ALL_QUESTIONS) else config.questions
    _check("question", (*(asked or ()), *config.question_settings), QUESTIONS, _QUESTION_GROUP)
    metric = config.options.metric
    if metric is not None and metric not in METRICS:
        raise UnknownNameError("metric", metric, METRICS)
    check_dtype(config.dtype)
    check_budget(config.budget)
    check_name(config.base)
    check_there(config.source)
    if out is not None:
        check_free(out)
        check_writable(out)
    check_columns(config.source, config.options)


def check_columns(source: str, options: TaskOptions) -> None:
    """Refuse columns that the data do not have; what lies on the Hub is not fetched for this.

    Args:
        source: as `task.load.read_source` takes it.
        options: which columns are named.

    Raises:
        DataError: the source cannot be read, or it has no such columns.
    """
    if not check_there(source).exists():
        return
    splits = with_joined_input(read_source(source), options)
    records = [record for part in splits.values() for record in part]
    if records:
        choose_columns(records, options)


def check_methods(names: Iterable[str]) -> None:
    """Refuse names of methods, or of links of chains, that none has.

    Raises:
        UnknownNameError: with close names.
    """
    if folders_named(METHOD_FOLDERS):
        return  # their files say what the methods are called
    single = [each.strip() for name in names for each in re.split("[>+]", name)]
    _check("method", single, METHODS, METHODS)


def check_fresh(out: Path) -> None:
    """Refuse a folder that holds something, before any work is done.

    Args:
        out: where an adaptation or an export goes.

    Raises:
        OutputFolderError: it is a file, or not empty.
    """
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held or out.is_file():
        raise OutputFolderError(
            "--out is taken",
            found=f"{out}: {', '.join(held[:5]) or 'a file'}",
            expected="a new or empty folder",
            fix="choose another --out, or remove it",
        )


def check_writable(out: Path) -> None:
    """Refuse a folder that cannot be made or written; nothing is left behind.

    Args:
        out: which may not exist yet; then the nearest folder above it is tried.

    Raises:
        OutputFolderError: with what the disk said.
    """
    where = out.absolute()
    while not where.exists() and where != where.parent:
        where = where.parent
    try:
        # To ask for permissions is not enough: a disk may be read-only, or no disk at all.
        with tempfile.TemporaryDirectory(prefix=".tunewise-", dir=where):
            pass
    except OSError as error:
        raise OutputFolderError(
            "the output folder cannot be written",
            found=f"{out}: {error.strerror} in {where}",
            expected="a place for a new folder, with room",
            fix="choose another --out, or change the permissions",
        ) from error


def _check(what: str, names: Iterable[str], package: str, group: str) -> None:
    if entry_points(group=group):
        return  # what they are called is known once they are loaded
    folder = importlib.import_module(package).__path__
    known = [each.name for each in pkgutil.iter_modules(folder) if each.name[0] != "_"]
    for name in names:
        if name not in known:
            raise UnknownNameError(what, name, known, fix=f"see `tunewise {what}s`")
