"""Rows in memory as a source: written as JSON lines for as long as they are read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewise.errors import ConfigError

_SPLITS = ("train", "validation", "test")
_IN_MEMORY = "rows"


@contextmanager
def source_of(data: Any) -> Iterator[tuple[str, str | None]]:
    """A source that `read_source` takes while the context lasts, and a name for what has none.

    Args:
        data: a path or data set id; a data frame or a sequence of mappings; or a mapping of train,
            validation and test to such rows.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(data, str | Path):
        yield str(data), None
        return
    splits = data if isinstance(data, Mapping) else {_IN_MEMORY: data}
    if isinstance(data, Mapping) and not {*data} <= {*_SPLITS}:
        raise ConfigError(
            "the data cannot be read",
            found=f"a mapping with {', '.join(map(str, data))}",
            expected=f"{', '.join(_SPLITS)}, each with its rows",
            fix="name the splits so, or give the rows alone",
        )
    with tempfile.TemporaryDirectory(prefix="tunewise-") as folder:
        files = [Path(folder) / f"{name}.jsonl" for name in splits]
        for file, rows in zip(files, splits.values(), strict=True):
            file.write_text(_lines(rows), encoding="utf-8")
        yield folder if isinstance(data, Mapping) else str(files[0]), _IN_MEMORY


def _lines(rows: Any) -> str:
    """Rows as JSON lines."""
    try:
        # Polars, Arrow and `datasets` have this; pandas itself has the other.
        frame = rows.to_pandas() if hasattr(rows, "to_pandas") else rows
        if hasattr(frame, "to_json"):
            written = {"orient": "records", "lines": True, "force_ascii": False}
            return str(frame.to_json(date_format="iso", **written))
        return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in frame)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "the rows cannot be read",
            found=f"{type(rows).__name__}: {error}",
            expected="a path, a data frame, or a sequence of mappings of column to text or number",
            fix='compare([{"text": "...", "label": "..."}, ...])',
        ) from error
