"""A source to records by split: a file, a folder of split files, or a Hugging Face data set."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from tunewise.errors import DataError
from tunewise.task.hub import is_saved_dataset, read_hub, read_saved
from tunewise.task.readers import EXTENSIONS, Record, read_file

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_SHARD = re.compile(r"^(?P<name>[a-z]+)(-\d+-of-\d+)?$")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$")
_HUB_PREFIX = "hub:"
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")


def read_source(source: str) -> dict[str, list[Record]]:
    """Read all rows of a source.

    Args:
        source: a file (JSONL, JSON, CSV, TSV, Parquet); a folder with files named train,
            validation and test, or one that the `datasets` library saved; a data set of the
            Hugging Face Hub as owner/name, owner/name:configuration or hub:name.

    Returns:
        records under "train", "validation" and "test", or all under "all" where there are no
        splits.

    Raises:
        DataError: there is no such source, or it cannot be read.
        UnavailableError: the Hub cannot be reached.
    """
    if source.startswith(_HUB_PREFIX):
        return _named(read_hub(source.removeprefix(_HUB_PREFIX)), source)
    path = check_there(source)
    if path.is_dir():
        if is_saved_dataset(path):
            return _named(read_saved(path), source)
        return _read_folder(path)
    if path.exists():
        return {"all": read_file(_checked_extension(path))}
    return _named(read_hub(source), source)


def check_there(source: str) -> Path:
    """Refuse a path where nothing is, unless it is the name of a data set of the Hub.

    Args:
        source: as `read_source` takes it.

    Returns:
        The path, which is there, or the name.

    Raises:
        DataError: with names that are close.
    """
    path = Path(source).expanduser()
    # owner/name is a data set of the Hub unless it points into a folder that is here.
    looks_like_file = path.suffix.lower() in EXTENSIONS or path.parent.is_dir()
    of_hub = _HUB_ID.match(source) is not None and not looks_like_file
    if not (of_hub or path.exists() or source.startswith(_HUB_PREFIX)):
        raise _missing(path)
    return path


def _missing(path: Path) -> DataError:
    beside = (
        sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))
        if path.parent.is_dir()
        else []
    )
    close = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
    return DataError(
        f"there is no file or folder {path}",
        found=f"in {path.parent}: {', '.join(close or beside[:5]) or 'nothing'}"
        if path.parent.is_dir()
        else f"no folder {path.parent} either",
        expected="a data file, a folder with train and test files, or a data set id owner/name",
        fix=f"did you mean {' or '.join(close)}?" if close else "check the path",
    )


def _checked_extension(path: Path) -> Path:
    if path.suffix.lower() in _SPREADSHEETS:
        raise DataError(
            f"{path.name} is a spreadsheet, which is not read",
            found=path.suffix,
            expected=f"one of {', '.join(EXTENSIONS)}",
            fix="save the sheet as CSV in UTF-8; a new extension alone does not make it one",
        )
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(
            f"{path.name} has an extension that is not known",
            found=path.suffix or "no extension",
            expected=f"one of {', '.join(EXTENSIONS)}",
            fix="save it as one of these, or rename it to the extension of what it is",
        )
    return path


def _read_folder(folder: Path) -> dict[str, list[Record]]:
    files = _data_files(folder)
    where = folder
    if not files and (folder / "data").is_dir():
        where = folder / "data"
        files = _data_files(where)
    by_split: dict[str, list[Path]] = {}
    for file in files:
        match = _SHARD.match(file.stem.lower())
        if match and match.group("name") in SPLIT_NAMES:
            by_split.setdefault(SPLIT_NAMES[match.group("name")], []).append(file)
    for split, parts in by_split.items():
        if len(parts) > 1 and not all("-of-" in part.stem for part in parts):
            raise DataError(
                f"{where} has more than one file for the {split} split",
                found=", ".join(part.name for part in parts),
                expected=f"one file named {split}",
                fix="remove or rename the others",
            )
    if by_split:
        return {
            split: [r for f in parts for r in read_file(f)] for split, parts in by_split.items()
        }
    if len(files) == 1:
        return {"all": read_file(files[0])}
    raise DataError(
        f"the folder {folder} has no files named train, validation or test",
        found=", ".join(sorted(each.name for each in folder.iterdir())[:10]) or "an empty folder",
        expected=f"train.jsonl, validation.jsonl, test.jsonl (or {', '.join(EXTENSIONS)})",
        fix="rename the files, or give one file instead of the folder",
    )


def _data_files(folder: Path) -> list[Path]:
    return sorted(
        each for each in folder.iterdir() if each.is_file() and each.suffix.lower() in EXTENSIONS
    )


def _named(splits: dict[str, list[Record]], source: str) -> dict[str, list[Record]]:
    """Give a data set's splits our names; a single one without a known name is "all"."""
    named = {
        SPLIT_NAMES[name.lower()]: rows
        for name, rows in splits.items()
        if name.lower() in SPLIT_NAMES
    }
    if not named and len(splits) == 1:
        named = {"all": next(iter(splits.values()))}
    if not named or not any(named.values()):
        raise DataError(
            f"the data set {source} has no usable split",
            found=", ".join(f"{name} ({len(rows)} rows)" for name, rows in splits.items()),
            expected="splits named train, validation, test",
            fix="save the split you need as a file and give that",
        )
    return named
