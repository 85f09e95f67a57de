"""Data sets of the Hugging Face `datasets` library, from the Hub or from a saved folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewise.errors import DataError, UnavailableError
from tunewise.task.readers import Record


def is_saved_dataset(folder: Path) -> bool:
    """True for a folder that `save_to_disk` wrote."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def read_saved(folder: Path) -> dict[str, list[Record]]:
    """Read a folder that `save_to_disk` wrote.

    Args:
        folder: it.

    Returns:
        records by split; a data set without splits is under "all".

    Raises:
        DataError: it is damaged.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow, json and datasets errors alike
        raise DataError(
            f"the saved data set {folder} cannot be read",
            found=_first_line(error),
            expected="a folder as save_to_disk writes it",
            fix="save it again",
        ) from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}
    return {name: _records(part, f"{folder.name}/{name}") for name, part in splits.items()}


def read_hub(identifier: str) -> dict[str, list[Record]]:
    """Read a data set of the Hugging Face Hub.

    Args:
        identifier: owner/name or owner/name:configuration.

    Returns:
        records by split.

    Raises:
        DataError: the Hub has no such data set, or it needs a configuration.
        UnavailableError: the Hub cannot be reached.
    """
    import datasets

    name, _, configuration = identifier.partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    except datasets.exceptions.DatasetNotFoundError as error:
        if _is_network(error):
            raise _unavailable(name, error) from error
        raise DataError(
            f"there is no data set {name} on the Hugging Face Hub, and no such file or folder",
            found=_first_line(error),
            expected="a data set id owner/name, or the path of a file",
            fix="check the spelling, or log in if the data set is not public",
        ) from error
    except ValueError as error:
        raise DataError(
            f"the data set {name} cannot be loaded as asked",
            found=str(error)[:500],
            expected="a data set without code of its own, with its configuration if it has several",
            fix=f"name the configuration: {name}:configuration",
        ) from error
    except Exception as error:  # whatever the network layers raise
        raise _unavailable(name, error) from error
    return {split: _records(part, f"{name}/{split}") for split, part in loaded.items()}


def _unavailable(name: str, error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"the data set {name} cannot be fetched from the Hugging Face Hub",
        found=_first_line(error),
        expected="a network connection, or the data set in the local cache",
        fix=f"check the connection; if {name} was meant as a file, there is none at this path",
    )


def _is_network(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError)) or "offline" in str(error).lower():
            return True
        error = error.__cause__
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]


def _records(part: Any, where: str) -> list[Record]:
    """Rows of one split, with class numbers turned into the names of the classes."""
    names = {
        column: feature.names
        for column, feature in part.features.items()
        if hasattr(feature, "int2str") and hasattr(feature, "names")
    }
    records = []
    for number, values in enumerate(part, start=1):
        row = dict(values)
        for column, labels in names.items():
            index = row[column]
            # -1 is how many data sets write "no label".
            row[column] = labels[index] if index is not None and index >= 0 else None
        records.append(Record(row, f"{where} row {number}"))
    return records
