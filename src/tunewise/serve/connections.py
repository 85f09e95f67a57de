"""How SQLite and PostgreSQL are connected to, so that both behave alike.

Neither is waited for without end: not for a lock that another writer holds, not for a machine that
is gone, not for a server that is there and says nothing. And neither takes text that the other
could not hold.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from tunewise.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

WAIT_SECONDS = 20
# For an answer of PostgreSQL's, which itself may wait for a lock.
ANSWER_SECONDS = 3 * WAIT_SECONDS


def engine_for(url: URL, pool: int) -> Engine:
    """SQLAlchemy's engine for a database.

    Args:
        url: of SQLite, or of PostgreSQL with the driver psycopg.
        pool: connections kept open at most.

    Raises:
        ConfigError: the driver is not installed; so does every statement with text that holds the
            character NUL, or half of a surrogate pair.
    """
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, pool_size=pool, connect_args={"timeout": WAIT_SECONDS})
        event.listen(engine, "connect", _begin_by_hand)
        event.listen(engine, "begin", _begin)
    else:
        engine = _postgres(url, pool)
        event.listen(engine, "begin", _wait_for_locks)
    event.listen(engine, "before_cursor_execute", _refuse_unstorable)
    return engine


def _postgres(url: URL, pool: int) -> Engine:
    waits: dict[str, int] = {
        "connect_timeout": WAIT_SECONDS,
        # Else a machine that went away without a word is waited for, for a quarter of an hour
        # where something was sent to it, and for two where an answer is due.
        "tcp_user_timeout": 1000 * WAIT_SECONDS,
        "keepalives_idle": max(1, WAIT_SECONDS // 2),
        "keepalives_interval": max(1, WAIT_SECONDS // 4),
        "keepalives_count": 2,
    }
    chosen = {name: value for name, value in waits.items() if name not in url.query}
    try:
        # A connection that died while it lay in the pool is found out before it is used.
        engine = create_engine(url, pool_size=pool, pool_pre_ping=True, connect_args=chosen)
        connect = _impatient()
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the driver for PostgreSQL is not installed",
            found=f"{url.render_as_string(hide_password=True)}, without the package psycopg",
            expected="the extra `postgres`",
            fix="pip install 'tunewise[postgres]'",
        ) from error
    event.listen(engine, "do_connect", lambda _, __, given, named: connect(*given, **named))
    return engine


def _impatient() -> Callable[..., psycopg.Connection[Any]]:
    """How to connect so that a connection whose answer is overdue is closed.

    A server that is stopped, or waits for its disk, keeps its connections: the machine below it
    acknowledges what it is sent, so that no setting of TCP's ever finds out.
    """
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, Any], *given: Any, **named: Any) -> Any:
            try:
                return super().wait(_until(gen, time.monotonic() + ANSWER_SECONDS), *given, **named)
            except TimeoutError as error:
                self.pgconn.finish()  # so the pool knows that it is of no more use
                raise psycopg.OperationalError(f"no answer in {ANSWER_SECONDS} s") from error

    return Impatient.connect


def _until(waiting: Generator[Any, Any, Any], end: float) -> Generator[Any, Any, Any]:
    """What a driver waits for, until it comes or the time is over.

    Args:
        waiting: yields what it waits for; is sent what came, and nothing from time to time.
        end: of `time.monotonic`.

    Raises:
        TimeoutError: the time is over.
    """
    try:
        wanted = next(waiting)
        while True:
            came = yield wanted
            if not came and time.monotonic() > end:
                raise TimeoutError
            wanted = waiting.send(came)
    except StopIteration as done:
        return done.value


def _begin_by_hand(connection: Any, _: object) -> None:
    # The driver would begin a transaction at the first change only, behind what was read before.
    connection.isolation_level = None
    cursor = connection.cursor()
    _write_ahead(cursor)
    for line in ("synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {line}")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    # Two connections that turn the same new file over each hold what the other waits for. SQLite
    # then refuses one at once instead of letting it wait (sqlite.org/c3ref/busy_handler.html).
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.005, 0.05))
        else:
            return


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _wait_for_locks(connection: Connection) -> None:
    # By itself PostgreSQL waits for a writer that does not end as long as that takes. Readers wait
    # for nobody.
    if _writes(connection):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'")


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("tunewise_writes", False))


def _refuse_unstorable(_: object, __: object, ___: object, parameters: Any, *____: object) -> None:
    """Refuse text that PostgreSQL, or any database, cannot hold, before a driver chokes on it."""
    for text in _texts(parameters):
        if "\0" in text or not _encodes(text):
            raise ConfigError(
                "there is text that the database cannot hold",
                found="the character NUL" if "\0" in text else "half of a surrogate pair",
                expected="text in Unicode without NUL",
                fix="take the character out",
            )


def _texts(parameters: Any) -> Iterable[str]:
    """Every text among the parameters of one statement, or of many."""
    if isinstance(parameters, str):
        yield parameters
    elif isinstance(parameters, Mapping):
        yield from _texts(list(parameters.values()))
    elif isinstance(parameters, list | tuple):
        for each in parameters:
            yield from _texts(each)


def _encodes(text: str) -> bool:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return False
    return True
