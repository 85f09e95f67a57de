"""How a file of SQLite is opened while others open it, and how long PostgreSQL is waited for."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from tunewise.serve import connections


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
    connections._write_ahead(cursor)
    assert cursor.ran == 4


def test_what_is_no_matter_of_waiting_is_raised_at_once() -> None:
    cursor = Refusing(3, sqlite3.SQLITE_CANTOPEN)
    with pytest.raises(sqlite3.OperationalError):
        connections._write_ahead(cursor)
    assert cursor.ran == 1


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WAIT_SECONDS", 0)
    cursor = Refusing(10**9, sqlite3.SQLITE_BUSY)
    with pytest.raises(sqlite3.OperationalError):
        connections._write_ahead(cursor)


def test_a_machine_that_is_gone_is_not_waited_for_and_the_url_may_say_how_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, Any]] = []

    def note(**arguments: Any) -> None:
        given.append(arguments)
        raise RuntimeError("far enough")

    monkeypatch.setattr(psycopg.Connection, "connect", note)
    engine = connections.engine_for(
        make_url("postgresql+psycopg://ann@127.0.0.1/x?keepalives_idle=3"), 1
    )
    with pytest.raises(RuntimeError):
        engine.connect()
    assert given[0]["keepalives_idle"] == "3"
    # After this many seconds of silence a connection is given up.
    silence = 3 + given[0]["keepalives_interval"] * given[0]["keepalives_count"]
    assert silence <= connections.WAIT_SECONDS
    assert given[0]["tcp_user_timeout"] == 1000 * connections.WAIT_SECONDS
