"""The tables of tenants on SQLite and PostgreSQL: made, brought up to date, refused, at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.serve.postgres import Server

from tunewise.errors import ConfigError, UnavailableError
from tunewise.serve import connections
from tunewise.serve.registry.registry import Registry
from tunewise.serve.tenants.database import SCHEMA, Database
from tunewise.serve.tenants.door import Door
from tunewise.serve.tenants.keys import new_key
from tunewise.serve.tenants.records import Grant, Quota, Right
from tunewise.serve.tenants.store import TenantStore, Usage
from tunewise.serve.tenants.tables import METADATA

# The tables as they were made before there were migrations, with their version beside them.
BEFORE = sa.MetaData()
TENANCY = sa.Table("tenancy", BEFORE, sa.Column("schema", sa.Integer, primary_key=True))
TENANTS = sa.Table(
    "tenants",
    BEFORE,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("tokens_per_minute", sa.Integer),
    sa.Column("tokens_per_day", sa.BigInteger),
    sa.Column("streams", sa.Integer),
    sa.Column("weight", sa.Float, nullable=False, default=1.0),
)
KEYS = sa.Table(
    "api_keys",
    BEFORE,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name"), nullable=False, index=True),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("hashed", sa.String(200), nullable=False),
    sa.Column("grants", sa.JSON, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
)
USAGE = sa.Table(
    "usage",
    BEFORE,
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("adaptation", sa.String(200), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
)


def raw(place: str) -> sa.Engine:
    """A plain way in that keeps no connection open."""
    url = place.replace("postgresql:", "postgresql+psycopg:")
    return sa.create_engine(url, poolclass=sa.NullPool)


def made_before(place: str, *tables: sa.Table, schema: int | None = 1) -> str:
    """Tables of the time before migrations, with a tenant in them; the text of its key."""
    key = new_key()
    with raw(place).begin() as connection:
        BEFORE.create_all(connection, tables=list(tables) if tables else None)
        if schema is not None:
            connection.execute(sa.insert(TENANCY).values(schema=schema))
        if not tables:
            connection.execute(
                sa.insert(TENANTS).values(name="acme", created=1.5, tokens_per_day=7, weight=2.0)
            )
            connection.execute(
                sa.insert(KEYS).values(
                    id=key.id,
                    tenant="acme",
                    label="old",
                    hashed=key.hashed,
                    grants=["use:*"],
                    created=2.5,
                )
            )
            connection.execute(
                sa.insert(USAGE).values(
                    day="2026-01-02",
                    tenant="acme",
                    adaptation="@base",
                    requests=1,
                    prompt_tokens=2**40,
                    completion_tokens=3,
                )
            )
    return key.text


def check_tables(place: str) -> None:
    with raw(place).connect() as connection:
        options = {"compare_type": True, "version_table": SCHEMA.version_table}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []
        inspector = sa.inspect(connection)
        for table in METADATA.sorted_tables:
            found = inspector.get_foreign_keys(table.name)
            assert len(found) == len(table.foreign_key_constraints)
        assert context.get_current_revision() == SCHEMA.revision


def test_migrations_make_the_tables(place: str) -> None:
    Database(place).close()
    check_tables(place)
    Database(place).close()
    check_tables(place)


def test_the_head_is_what_the_code_knows() -> None:
    assert ScriptDirectory(str(SCHEMA.migrations)).get_heads() == [SCHEMA.revision]


def test_what_was_made_before_there_were_migrations_goes_on(place: str) -> None:
    key = made_before(place)
    store = TenantStore(place)
    check_tables(place)
    assert store.tenants() == {"acme": Quota(tokens_per_day=7, weight=2.0)}
    assert store.usage() == {("2026-01-02", "acme", "@base"): Usage(1, 2**40, 3)}
    principal = Door(store).principal(key)
    assert (principal.tenant, principal.grants) == ("acme", {Grant(Right.USE)})
    (record,) = store.list_keys()
    assert (record.label, record.created.timestamp()) == ("old", 2.5)
    assert store.revoke(record.id)
    store.set_tenant("beta")
    store.close()


@pytest.mark.parametrize("tables", [(TENANCY,), (TENANCY, TENANTS), (TENANCY, TENANTS, USAGE)])
@pytest.mark.parametrize("schema", [None, 1])
def test_what_was_half_made_is_made_whole(
    place: str, tables: tuple[sa.Table, ...], schema: int | None
) -> None:
    made_before(place, *tables, schema=schema)
    store = TenantStore(place)
    check_tables(place)
    store.set_tenant("acme")
    store.close()


def test_a_newer_one_is_refused_and_left_alone(place: str) -> None:
    made_before(place, schema=2)
    with pytest.raises(ConfigError, match="newer version of Tunewise") as caught:
        TenantStore(place)
    assert "schema 2" in caught.value.found
    assert "pip install --upgrade" in caught.value.fix
    with raw(place).begin() as connection:
        assert connection.execute(sa.select(TENANCY.c.schema)).scalar() == 2
        assert not sa.inspect(connection).has_table(SCHEMA.version_table)
        connection.execute(sa.update(TENANCY).values(schema=1))
    TenantStore(place).close()
    with raw(place).begin() as connection:
        connection.execute(sa.text(f"UPDATE {SCHEMA.version_table} SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer version of Tunewise") as caught:
        TenantStore(place)
    assert "revision 9999" in caught.value.found
    assert f"revision {SCHEMA.revision} or older" in caught.value.expected


def test_tables_of_something_else_are_left_alone(place: str) -> None:
    with raw(place).begin() as connection:
        connection.execute(sa.text("CREATE TABLE usage (electricity INTEGER)"))
    with pytest.raises(ConfigError, match="something else where the keys should be"):
        TenantStore(place)
    with raw(place).connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["usage"]


@pytest.mark.parametrize("old", [False, True])
def test_many_open_it_at_once(place: str, old: bool) -> None:
    if old:
        made_before(place)
    failed: list[Exception] = []

    def run() -> None:
        try:
            TenantStore(place).close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    check_tables(place)


@pytest.mark.parametrize("first", ["registry", "keys"])
def test_they_lie_beside_a_registry(server: Server, tmp_path: Path, first: str) -> None:
    if first == "keys":
        TenantStore(server.url).close()
    registry = Registry.open(server.url, files=str(tmp_path))
    store = TenantStore(server.url)
    store.set_tenant("acme")
    # Neither waits for the other's writers.
    with registry.database.write():
        store.set_tenant("beta")
    assert registry.names(None) == []
    assert set(store.tenants()) == {"acme", "beta"}
    registry.close()
    store.close()


def test_usage_adds_up_from_many_threads(place: str) -> None:
    stores = [TenantStore(place) for _ in range(2)]
    failed: list[Exception] = []

    def add(store: TenantStore) -> None:
        try:
            for _ in range(10):
                store.add_usage({("2026-01-02", "acme", "tickets"): Usage(1, 10, 2)})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(stores[n % 2],)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    used = {("2026-01-02", "acme", "tickets"): Usage(40, 400, 80)}
    assert stores[0].usage(tenant="acme") == used
    for store in stores:
        store.close()


def test_postgres_stopped_and_started(server: Server, tmp_path: Path) -> None:
    store = TenantStore(server.url)
    store.set_tenant("acme")
    _, made = store.make_key("acme", [Grant(Right.USE)])
    used = {("2026-01-03", "acme", "@base"): Usage(1, 2, 3)}
    server.stop()
    try:
        for call in (
            store.check,
            store.tenants,
            store.list_keys,
            store.usage,
            lambda: store.find(made.id),
            lambda: store.revoke(made.id),
            lambda: store.set_tenant("beta"),
            lambda: store.add_usage(used),
            lambda: TenantStore(server.url),
        ):
            with pytest.raises(UnavailableError, match="does not answer"):
                call()
    finally:
        server.start()
    store.check()
    assert Door(store).principal(made.text).tenant == "acme"
    store.add_usage(used)
    assert store.usage(day="2026-01-03") == used
    store.close()


def test_postgres_that_says_nothing_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 1)
    store = TenantStore(f"{server.url}?connect_timeout=2")  # libpq knows no shorter one
    store.set_tenant("acme")
    for call in (store.tenants, lambda: store.set_tenant("beta")):
        with server.frozen():
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="does not answer"):
                call()
            assert time.monotonic() - began < 20
        assert "acme" in store.tenants()
    store.close()


def test_what_takes_less_than_that_is_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connections.engine_for(sa.make_url(server.url).set(drivername="postgresql+psycopg"), 1)
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 1)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1 FROM pg_sleep(0.5)")) == 1
        with pytest.raises(sa.exc.OperationalError, match="no answer in 1 s"):
            connection.scalar(sa.text("SELECT 1 FROM pg_sleep(20)"))
        assert connection.invalidated
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 2")) == 2
    engine.dispose()
