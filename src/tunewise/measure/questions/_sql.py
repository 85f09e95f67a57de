"""Run queries against a database in memory; they may read and nothing else."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass

from tunewise.errors import ConfigError

_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_MOST_ROWS = 10_000
_STEPS = 10_000  # virtual-machine steps between two looks at the clock


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows of a query, or why there are none.

    Attributes:
        rows: as they came.
        ordered: whether the query says in which order.
        error: "" where it ran.
    """

    rows: tuple[tuple[object, ...], ...] = ()
    ordered: bool = False
    error: str = ""

    def same_as(self, reference: QueryResult) -> bool:
        """Whether the rows are those of the reference, in its order where it says one."""
        if reference.ordered:
            return self.rows == reference.rows
        return Counter(self.rows) == Counter(reference.rows)


class ScriptDatabase:
    """A database made by a script.

    Args:
        script: SQL that makes and fills the tables.
        seconds: that one query may take.

    Raises:
        ConfigError: the script does not run.
    """

    def __init__(self, script: str, seconds: float) -> None:
        self._seconds = seconds
        self._connection = sqlite3.connect(":memory:")
        try:
            self._connection.executescript(script)
        except sqlite3.Error as error:
            raise ConfigError(
                "the SQL script does not run",
                found=str(error),
                expected="CREATE and INSERT statements for SQLite",
                fix="correct the script",
            ) from error
        self._connection.set_authorizer(_may_read)

    def rows_of(self, query: str) -> QueryResult:
        """The rows of one query; of more than 10,000 the first.

        Args:
            query: one statement.
        """
        ends = time.monotonic() + self._seconds
        self._connection.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
        try:
            rows = self._connection.execute(query).fetchmany(_MOST_ROWS)
        except (sqlite3.Error, sqlite3.Warning) as error:
            late = time.monotonic() > ends
            return QueryResult(error=f"took over {self._seconds:g} s" if late else str(error))
        if not looks_like_sql(query):
            return QueryResult(error="not a query")
        ordered = re.search(r"\border\s+by\b", query, re.IGNORECASE) is not None
        return QueryResult(tuple(tuple(row) for row in rows), ordered)


def looks_like_sql(text: str) -> bool:
    """Whether a text begins like a query."""
    return re.match(r"\s*(select|with)\b", text, re.IGNORECASE) is not None


def _may_read(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY
