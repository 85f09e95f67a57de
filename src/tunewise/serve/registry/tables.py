"""The tables of a registry. Their history is in `migrations`; a test holds the two together.

    names          tenant/name and the highest number given
    contents       folders of files that exist or are being written or removed
    versions       what was registered: immutable but for its state
    probes         what a version and its base answered when it was registered
    measurements   scores of a version on rows, row by row, and the groups of these rows
    aliases        what production, canary, ... mean now; alias_history: and meant before
    trials         a split alias whose outcomes are compared; outcomes: one by one
    leases         contents in use, which are not collected
    audit          who did what, each entry holding the hash of the one before
    state          the writers' lock and the counter of changes

Times are seconds since 1970, UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
WORD, DIGEST = String(64), String(64)
# SQLite counts up only where the key is a plain INTEGER.
KEY = BigInteger().with_variant(Integer(), "sqlite")

state = Table(
    "state",
    METADATA,
    Column("key", String(16), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
names = Table(
    "names",
    METADATA,
    Column("tenant", WORD, primary_key=True),
    Column("name", WORD, primary_key=True),
    Column("last_number", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)
contents = Table(
    "contents",
    METADATA,
    Column("tenant", WORD, primary_key=True),
    Column("digest", DIGEST, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
)
versions = Table(
    "versions",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("tenant", WORD, nullable=False),
    Column("name", WORD, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("state", String(16), nullable=False),
    Column("kinds", JSON, nullable=False),
    Column("method", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("task_kind", String(32), nullable=False),
    Column("metric", Text, nullable=False),
    Column("base_name", Text, nullable=False),
    Column("base_fingerprint", Text, nullable=False),
    Column("data_hash", Text, nullable=False),
    Column("parent", DIGEST),
    Column("run", Text, nullable=False),
    Column("notes", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("retired_at", Double),
    ForeignKeyConstraint(["tenant", "name"], ["names.tenant", "names.name"]),
    UniqueConstraint("tenant", "name", "number"),
    UniqueConstraint("tenant", "name", "digest"),
    Index(None, "tenant", "digest"),
)
probes = Table(
    "probes",
    METADATA,
    Column("version", KEY, ForeignKey("versions.id"), primary_key=True),
    Column("report", JSON, nullable=False),
)
measurements = Table(
    "measurements",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("version", KEY, ForeignKey("versions.id"), nullable=False),
    Column("rows_hash", DIGEST, nullable=False),
    Column("metric", Text, nullable=False),
    Column("value", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("n", Integer, nullable=False),
    Column("n_failed", Integer, nullable=False),
    Column("scores", JSON, nullable=False),
    Column("clusters", JSON(none_as_null=True)),
    Column("source", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index(None, "version", "rows_hash"),
)
aliases = Table(
    "aliases",
    METADATA,
    Column("tenant", WORD, primary_key=True),
    Column("name", WORD, primary_key=True),
    Column("alias", WORD, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("targets", JSON, nullable=False),
    Column("at", Double, nullable=False),
    ForeignKeyConstraint(["tenant", "name"], ["names.tenant", "names.name"]),
)
alias_history = Table(
    "alias_history",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("tenant", WORD, nullable=False),
    Column("name", WORD, nullable=False),
    Column("alias", WORD, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("targets", JSON, nullable=False),
    Column("action", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("by", Text, nullable=False),
    UniqueConstraint("tenant", "name", "alias", "revision"),
)
trials = Table(
    "trials",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("tenant", WORD, nullable=False),
    Column("name", WORD, nullable=False),
    Column("alias", WORD, nullable=False),
    Column("stable", Integer, nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("alpha", Double, nullable=False),
    Column("margin", Double, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("progress", JSON, nullable=False),
    Column("began_at", Double, nullable=False),
    Column("ended_at", Double),
    Index(None, "tenant", "name", "alias"),
)
outcomes = Table(
    "outcomes",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("trial", KEY, ForeignKey("trials.id"), nullable=False),
    Column("unit", DIGEST, nullable=False),
    Column("number", Integer, nullable=False),
    Column("value", Double, nullable=False),
    Column("difference", Double),
    Column("at", Double, nullable=False),
    UniqueConstraint("trial", "unit", "number"),
)
leases = Table(
    "leases",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", WORD, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index(None, "tenant", "digest"),
)
audit = Table(
    "audit",
    METADATA,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("before", DIGEST, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Index(None, "tenant", "name"),
)
