"""The registry's database: its tables, the writers' lock, and the counter of changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from tunewise.errors import RegistryError
from tunewise.serve import database
from tunewise.serve.registry import tables

SCHEMA = database.Schema(
    title="registry",
    flag="--registry",
    metadata=tables.METADATA,
    migrations=Path(__file__).parent / "migrations",
    revision="0002",
    version_table="alembic_version",
    wrong=RegistryError,
)


class Database(database.Database):
    """One registry's tables.

    Writers queue at the row `writes`: each begins by counting it up.

    Args:
        url: SQLAlchemy's, of an SQLite file or a PostgreSQL database.
        pool: connections kept open at most.

    Raises:
        ConfigError: the URL cannot be used, or the driver for it is not installed.
        UnavailableError: nothing answers there.
        StorageError: the disk refuses the file.
        RegistryError: something else is there, or a newer version of Tunewise wrote the tables.
    """

    def __init__(self, url: str, *, pool: int = 8) -> None:
        super().__init__(url, SCHEMA, pool=pool)

    @contextmanager
    def write(self, *, changes: bool = True) -> Iterator[Connection]:
        """A transaction alone among writers, committed at the end; an error takes all back.

        Args:
            changes: whether what servers hold of the registry may be out of date afterwards.
        """
        with super().write() as connection:
            if changes:
                note_change(connection)
            yield connection

    def changes(self) -> int:
        """How often what servers hold may have changed; a number that only grows."""
        with self.read() as connection:
            return changes(connection)

    def line_up(self, connection: Connection) -> None:
        """See `database.Database.line_up`."""
        _count_up(connection, "writes")

    def upgraded(self, connection: Connection) -> None:
        """See `database.Database.upgraded`."""
        held = set(connection.execute(select(tables.state.c.key)).scalars())
        for key in ("writes", "changes"):
            if key not in held:
                connection.execute(insert(tables.state).values(key=key, value=0))


def changes(connection: Connection) -> int:
    """The counter of changes, as this connection sees it."""
    chosen = select(tables.state.c.value).where(tables.state.c.key == "changes")
    return int(connection.execute(chosen).scalar_one())


def note_change(connection: Connection) -> None:
    """Count up the counter of changes in a transaction that began without."""
    _count_up(connection, "changes")


def _count_up(connection: Connection, key: str) -> None:
    table = tables.state
    connection.execute(update(table).where(table.c.key == key).values(value=table.c.value + 1))
