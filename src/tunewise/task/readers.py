"""Files to records: JSON lines, JSON, CSV, TSV and Parquet, with the place of every fault."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import DataError

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in the data.

    Attributes:
        values: by column; None where a value is missing.
        origin: file and place, for messages ("tickets.csv row 17 (line 18)").
    """

    values: dict[str, Any]
    origin: str


def read_file(path: Path) -> list[Record]:
    """Read one data file by its extension.

    Args:
        path: a file that exists, with one of the extensions of `EXTENSIONS`.

    Raises:
        DataError: it cannot be read as what its extension says, or holds no rows.
    """
    if path.stat().st_size == 0:
        raise _empty(path)
    records = EXTENSIONS[path.suffix.lower()](path)
    if not records:
        raise _empty(path)
    return records


def _empty(path: Path) -> DataError:
    return DataError(
        f"the file {path.name} has no rows",
        found=f"{path.stat().st_size} bytes",
        expected="at least 8 rows",
        fix="check that this is the right file and that it was written to the end",
    )


def _text(path: Path) -> str:
    data = path.read_bytes().removeprefix(_BOM)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        offset = error.start + (len(_BOM) if path.read_bytes().startswith(_BOM) else 0)
        other = "UTF-16" if data.startswith(_UTF16) else "WINDOWS-1252"
        raise DataError(
            f"{path.name} is not UTF-8",
            found=f"byte 0x{data[error.start]:02x} at offset {offset}, line {line}",
            expected="a text file in UTF-8",
            fix=f"convert it: iconv -f {other} -t UTF-8 {path.name} > utf8-{path.name} "
            f"({other} is a guess)",
        ) from error


def _shown(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


def _read_jsonl(path: Path) -> list[Record]:
    return _parse_lines(path, _text(path))


def _parse_lines(path: Path, text: str) -> list[Record]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"broken JSON in {path.name} line {number}",
                found=f"{_shown(line.strip())} ({error})",
                expected="one JSON object a line",
                fix=f"correct or remove line {number}",
            ) from error
        records.append(_object(value, f"{path.name} line {number}"))
    return records


def _object(value: Any, origin: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(
            f"{origin} is not a JSON object",
            found=_shown(json.dumps(value, ensure_ascii=False)),
            expected='an object such as {"input": "...", "output": "..."}',
            fix="write every row as an object with the same keys",
        )
    return Record(value, origin)


def _read_json(path: Path) -> list[Record]:
    text = _text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and lines[0].strip().startswith("{") and _is_json(lines[0]):
            return _parse_lines(path, text)  # JSON lines under the name of JSON
        line = getattr(error, "lineno", 1)
        raise DataError(
            f"broken JSON in {path.name} line {line}",
            found=str(error),
            expected="a list of objects, or an object with such a list under data",
            fix=f"correct line {line}",
        ) from error
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        keys = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(
            f"{path.name} holds no list of rows",
            found=keys,
            expected="a list of objects, or an object with such a list under data",
            fix="put the rows into a list, or write one object a line into a .jsonl file",
        )
    return [_object(row, f"{path.name} row {n}") for n, row in enumerate(rows, start=1)]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read_csv(path: Path) -> list[Record]:
    text = _text(path)
    return _parse_table(path, text, _delimiter(text))


def _read_tsv(path: Path) -> list[Record]:
    return _parse_table(path, _text(path), "\t")


def _delimiter(text: str) -> str:
    """The delimiter that gives the first rows one width above 1; a comma where none does."""
    best = (0, ",")
    for delimiter in (",", ";", "\t", "|"):
        widths: set[int] = set()
        try:
            for number, cells in enumerate(csv.reader(io.StringIO(text, ""), delimiter=delimiter)):
                if number == 50:
                    break
                if cells:
                    widths.add(len(cells))
        except csv.Error:
            continue
        if len(widths) == 1 and max(widths) > best[0] and max(widths) > 1:
            best = (max(widths), delimiter)
    if best[0]:
        return best[1]
    header = text.lstrip("\r\n").split("\n", 1)[0]
    return ";" if ";" in header and "," not in header else ","


def _table_rows(path: Path, text: str, delimiter: str) -> Iterable[tuple[int, list[str]]]:
    """First line number and cells of every row that is not blank."""
    limit = csv.field_size_limit(max(len(text), 1))
    reader = csv.reader(io.StringIO(text, ""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells) or len(cells) > 1:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path.name} cannot be read from line {line} on",
            found=str(error),
            expected='cells with line feeds or quotes in double quotes, a quote inside as ""',
            fix=f"check the quotes in line {line}",
        ) from error
    finally:
        csv.field_size_limit(limit)


def _parse_table(path: Path, text: str, delimiter: str) -> list[Record]:
    rows = list(_table_rows(path, text, delimiter))
    if not rows:
        return []
    header = [name.strip() for name in rows[0][1]]
    body = rows[1:]
    for number, (line, cells) in enumerate(body, start=1):
        if len(cells) != len(header):
            raise DataError(
                f"{path.name} row {number} (line {line}) has {len(cells)} columns, "
                f"the header has {len(header)}",
                found=_shown(delimiter.join(cells)),
                expected=f"the columns {', '.join(header)}, separated by {delimiter!r}",
                fix="put cells that hold the separator or a line feed into double quotes",
            )
    columns = [[cells[i] for _, cells in body] for i in range(len(header))]
    skip = bool(header) and not header[0] and _is_index(columns[0])
    _check_header(path, header[1:] if skip else header, columns[1:] if skip else columns)
    return [
        Record(
            # An empty cell is how a table writes a missing value.
            {
                name: cell if cell else None
                for i, (name, cell) in enumerate(zip(header, cells, strict=True))
                if not (skip and i == 0)
            },
            f"{path.name} row {number} (line {line})",
        )
        for number, (line, cells) in enumerate(body, start=1)
    ]


def _is_index(values: list[str]) -> bool:
    """True for the unnamed row numbers that data frames write as their first column."""
    return all(value.isdigit() for value in values) and len(set(values)) == len(values)


def _check_header(path: Path, header: list[str], columns: list[list[str]]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path.name} names a column twice: {', '.join(twice)}",
            found=f"header: {', '.join(header)}",
            expected="one column of each name",
            fix="rename or remove one of them",
        )
    for name, values in zip(header, columns, strict=True):
        number = name.replace(".", "", 1).lstrip("-").isdigit()
        repeated = len(values) > 2 and sum(value.strip() == name for value in values) >= 2
        if not name or number or repeated or len(name) > 80:
            raise DataError(
                f"{path.name} has no header, or a column without a name",
                found=f"first line: {_shown(', '.join(header), 120)}",
                expected="a first line with the names of the columns, such as text,label",
                fix="write the names of the columns into the first line",
            )


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path.name} is not a Parquet file",
            found=str(error).split("\n")[0],
            expected="a Parquet file",
            fix="write it anew, or give it the extension of what it is",
        ) from error
    return [Record(row, f"{path.name} row {n}") for n, row in enumerate(rows, start=1)]


EXTENSIONS: dict[str, Callable[[Path], list[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
