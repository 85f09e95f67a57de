"""How a file of SQLite is opened while others open it."""

from __future__ import annotations

import sqlite3

import pytest

from tunewise.serve import database


class Refusing:
    """A cursor that refuses some statements with an error of SQLite's."""

    def __init__(self, times: int, code: int) -> None:
        self.left, self.code, self.ran = times, code, 0

    def execute(self, statement: str) -> None:
        assert statement == "PRAGMA journal_mode = WAL"
        self.ran += 1
        if self.left:
            self.left -= 1
            error = sqlite3.OperationalError("said by SQLite")
            error.sqlite_errorcode = self.code
            raise error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY])
def test_a_file_that_another_is_turning_over_is_asked_again(code: int) -> None:
    cursor = Refusing(3, code)
    database._write_ahead(cursor)
    assert cursor.ran == 4


def test_what_is_no_matter_of_waiting_is_raised_at_once() -> None:
    cursor = Refusing(3, sqlite3.SQLITE_CANTOPEN)
    with pytest.raises(sqlite3.OperationalError):
        database._write_ahead(cursor)
    assert cursor.ran == 1


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0)
    cursor = Refusing(10**9, sqlite3.SQLITE_BUSY)
    with pytest.raises(sqlite3.OperationalError):
        database._write_ahead(cursor)
