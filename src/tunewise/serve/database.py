"""Tables in SQLite (WAL) or PostgreSQL, through SQLAlchemy, brought up to date when opened.

The registry and the tenants each have tables, migrations and a version of their own (`Schema`).
They lie in two files, or beside each other in one PostgreSQL database.

Reading never waits for writing. Writers follow one another on both: SQLite has one lock, and on
PostgreSQL a writer begins by taking one. So what a writer has read stays true until it commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, MetaData, inspect, make_url
from sqlalchemy import text as sql
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

from tunewise.errors import ConfigError, InputError, RunError, StorageError, UnavailableError
from tunewise.serve import connections

_MIGRATING = 7_281_334  # any number; the same in every process that migrates
_FULL = ("database or disk is full", "No space left", "could not extend file")
_REFUSED = ("readonly database", "unable to open database file", "attempt to write")
_DAMAGED = ("malformed", "not a database")


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database holds for one purpose.

    Attributes:
        title: what it is called in messages, behind "the".
        flag: names its place on a command line.
        metadata: its tables as the code knows them.
        migrations: folder of alembic's scripts that make them.
        revision: the newest of these.
        version_table: holds the revision that is there.
        wrong: error for a place where something else is, or something newer.
    """

    title: str
    flag: str
    metadata: MetaData
    migrations: Path
    revision: str
    version_table: str
    wrong: type[InputError]


class Database:
    """Tables of one schema.

    Args:
        url: SQLAlchemy's, of an SQLite file or a PostgreSQL database.
        schema: the tables.
        pool: connections kept open at most.

    Raises:
        ConfigError: the URL cannot be used, or the driver for it is not installed.
        UnavailableError: nothing answers there.
        StorageError: the disk refuses the file.
        `schema.wrong`: something else is there, or a newer version of Tunewise wrote the tables.
    """

    def __init__(self, url: str, schema: Schema, *, pool: int = 8) -> None:
        self._url, self._schema = read_url(url, schema), schema
        self._engine = connections.engine_for(self._url, pool)
        self._prepare()

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def kind(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._url.get_backend_name()

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection whose statements see one state, whatever is written meanwhile."""
        with self._told(), self._engine.connect() as connection:
            if self.kind == "postgresql":
                # By itself each statement would see what was committed just before it: an alias,
                # and then the version it meant as one that was retired in between.
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction alone among writers, committed at the end; an error takes all back."""
        with self._told(), self._engine.connect() as connection:
            chosen = connection.execution_options(tunewise_writes=True)
            with chosen.begin():
                self.line_up(chosen)
                yield chosen

    def line_up(self, connection: Connection) -> None:
        """Wait until no other writer of this schema is at work.

        Args:
            connection: in a transaction that has just begun; SQLite has its lock by then.
        """
        if self.kind == "postgresql":
            lock = sql("SELECT pg_advisory_xact_lock(hashtext(:name))")
            connection.execute(lock, {"name": self._schema.version_table})

    def admit_tables(self, connection: Connection, there: set[str]) -> None:
        """Judge tables of this schema's names that no migration made.

        Raises:
            `schema.wrong`: they are something else's.
        """
        raise self._something_else(f"tables {', '.join(sorted(there))} of something else")

    def upgraded(self, connection: Connection) -> None:
        """Put in what tables of the newest revision must hold."""

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what a driver raises into the project's own errors."""
        try:
            yield
        except DBAPIError as error:
            meant = self._meant(error)
            if meant is None:
                raise
            raise meant from error

    def _meant(self, error: DBAPIError) -> RunError | None:
        said = str(error.orig).strip().partition("\n")[0]
        found, title = f"{self.shown}: {said}", self._schema.title
        if any(mark in said for mark in _FULL):
            return StorageError(
                f"the {title} cannot be written: the disk is full",
                found=found,
                expected="room for the database",
                fix="free some space; nothing was changed",
            )
        if any(mark in said for mark in _REFUSED):
            return StorageError(
                f"the database of the {title} is refused by the disk",
                found=found,
                expected="a file in a folder that can be written",
                fix=f"change its permissions or choose another {self._schema.flag}",
            )
        if any(mark in said for mark in _DAMAGED):
            return UnavailableError(
                f"the database of the {title} is damaged",
                found=found,
                expected="the file as it was written",
                fix="stop what uses it, and put a copy from before in its place",
            )
        if not isinstance(error, OperationalError | InterfaceError):
            return None
        return UnavailableError(
            f"the database of the {title} does not answer",
            found=found,
            expected=f"an answer within {connections.WAIT_SECONDS} seconds",
            fix="see that it runs and that nothing holds it locked, then try again; "
            "nothing was changed",
        )

    def _prepare(self) -> None:
        newest = self._schema.revision
        try:
            with self.read() as connection:
                found = self._revision(connection)
        except UnavailableError as error:
            if "not a database" in error.found:
                raise self._something_else(error.found.removeprefix(f"{self.shown}: ")) from error
            raise
        if found == newest:
            return
        with self._told(), self._engine.connect() as connection:
            chosen = connection.execution_options(tunewise_writes=True)
            with chosen.begin():
                if self.kind == "postgresql":
                    chosen.execute(sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
                found = self._revision(chosen)
                if found != newest:
                    self._migrate(chosen, found)

    def _migrate(self, connection: Connection, found: str | None) -> None:
        """Bring the tables to what this version knows, inside the connection's transaction.

        Args:
            connection: with a transaction begun.
            found: the revision that is there; None for a new database.

        Raises:
            `schema.wrong`: what is there is newer, or something else.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory
        from alembic.util.exc import CommandError

        schema, config = self._schema, Config()
        config.set_main_option("script_location", str(schema.migrations).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        if found is None:
            there = set(inspect(connection).get_table_names()) & set(schema.metadata.tables)
            if there:
                self.admit_tables(connection, there)
        else:
            try:
                ScriptDirectory.from_config(config).get_revision(found)
            except CommandError as error:
                raise self.newer(f"revision {found}") from error
        config.attributes["connection"] = connection
        config.attributes["version_table"] = schema.version_table
        command.upgrade(config, "head")
        self.upgraded(connection)

    def _revision(self, connection: Connection) -> str | None:
        table = self._schema.version_table
        if not inspect(connection).has_table(table):
            return None
        found = connection.execute(sql(f"SELECT version_num FROM {table}")).scalar()
        return None if found is None else str(found)

    def newer(self, found: str) -> InputError:
        """The error for tables that this version does not know.

        Args:
            found: which they say they are.
        """
        return self._schema.wrong(
            f"the database of the {self._schema.title} was written by a newer version of Tunewise",
            found=f"{self.shown}: {found}",
            expected=f"revision {self._schema.revision} or older",
            fix="upgrade: pip install --upgrade tunewise",
        )

    def _something_else(self, said: str) -> InputError:
        schema = self._schema
        return schema.wrong(
            f"there is something else where the {schema.title} should be",
            found=f"{self.shown}: {said}",
            expected=f"the {schema.title}, or nothing yet",
            fix=f"choose another {schema.flag}",
        )


def read_url(given: str, schema: Schema) -> URL:
    """SQLAlchemy's URL of a place.

    Raises:
        ConfigError: it cannot hold such tables.
    """
    title, expected = schema.title, "a folder, sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    try:
        url = make_url(given)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError(
            f"the address of the {title} cannot be read", found=given, expected=expected
        ) from error
    if backend not in {"sqlite", "postgresql"}:
        raise ConfigError(
            f"this kind of database cannot hold the {title}", found=backend, expected=expected
        )
    if backend == "sqlite" and url.database in {None, "", ":memory:"}:
        raise ConfigError(
            f"in memory the {title} would be gone with the process",
            found=given,
            expected=expected,
        )
    return url.set(drivername="postgresql+psycopg") if backend == "postgresql" else url
