"""The database of tenants and keys: a file of its own, or beside a registry in PostgreSQL."""

from __future__ import annotations

import contextlib
from pathlib import Path

import sqlalchemy as sa

from tunewise.errors import ConfigError, StorageError
from tunewise.serve import database
from tunewise.serve.tenants.tables import METADATA

# Where the version stood before there were migrations; see `migrations`.
_ABOUT = sa.table("tenancy", sa.column("schema", sa.Integer))
_SCHEMA_BEFORE = 1

SCHEMA = database.Schema(
    title="keys",
    flag="--keys",
    metadata=METADATA,
    migrations=Path(__file__).parent / "migrations",
    revision="0002",
    version_table="keys_version",
    wrong=ConfigError,
)


class Database(database.Database):
    """The tables of tenants, keys and usage.

    Args:
        place: path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL.

    Raises:
        ConfigError: the place cannot be used, something else is there, or a newer version of
            Tunewise wrote the tables.
        UnavailableError: nothing answers there.
        StorageError: the disk refuses the file.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place if "://" in place else _file(place), SCHEMA)

    def admit_tables(self, connection: sa.Connection, there: set[str]) -> None:
        """See `database.Database.admit_tables`: those that were made before migrations stay."""
        if not sa.inspect(connection).has_table(_ABOUT.name):
            super().admit_tables(connection, there)
        found = connection.execute(sa.select(sa.func.max(_ABOUT.c.schema))).scalar()
        if found is not None and found > _SCHEMA_BEFORE:
            raise self.newer(f"schema {found}")


def _file(place: str) -> str:
    path = Path(place).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError("the folder of keys cannot be made", found=str(error)) from error
    with contextlib.suppress(OSError):  # told by the connection, if it matters
        # Hashes, but still nobody else's business; set before anything is written.
        path.touch(mode=0o600)
    return f"sqlite:///{path}"
