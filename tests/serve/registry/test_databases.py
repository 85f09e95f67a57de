"""The same behaviour on SQLite and PostgreSQL; tables and migrations agree; stopped and started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, inspect, text
from tests.serve.postgres import Server
from tests.serve.registry.samples import OVERRIDDEN, Clock, constant, registered, scores, stored

from tunewise.errors import NotRegisteredError, RegistryError, StorageError, UnavailableError
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.collect import Ages
from tunewise.serve.registry.database import SCHEMA, Database
from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry
from tunewise.serve.registry.tables import METADATA


@pytest.fixture
def registry(place: str, tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(place, files=str(tmp_path / "files"))
    yield replace(opened, clock=Clock())
    opened.close()


def test_migrations_make_the_tables(place: str) -> None:
    database = Database(place)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        inspector = inspect(connection)
        for table in METADATA.sorted_tables:
            found = {
                tuple(each["column_names"]) for each in inspector.get_unique_constraints(table.name)
            }
            wanted = {
                tuple(column.name for column in each.columns)
                for each in table.constraints
                if type(each).__name__ == "UniqueConstraint"
            }
            assert found == wanted
            assert len(inspector.get_foreign_keys(table.name)) == len(table.foreign_key_constraints)
    database.close()


def test_the_head_is_what_the_code_knows() -> None:
    assert ScriptDirectory(str(SCHEMA.migrations)).get_heads() == [SCHEMA.revision]


def taken_back(place: str, revision: str) -> set[str]:
    """The tables as they were at a revision; the columns of measurements."""
    config = Config()
    config.set_main_option("script_location", str(SCHEMA.migrations))
    config.set_main_option("path_separator", "os")
    url = place.replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        config.attributes |= {"connection": connection, "version_table": SCHEMA.version_table}
        command.downgrade(config, revision)
        return {each["name"] for each in inspect(connection).get_columns("measurements")}


def test_what_was_measured_before_groups_were_kept_goes_on(place: str, tmp_path: Path) -> None:
    rows = [f"row{number}" for number in range(200)]
    better = {row: float(number % 4 > 0) for number, row in enumerate(rows)}
    good = {row: float(number % 4 > 1) for number, row in enumerate(rows)}
    before = Registry.open(place, files=str(tmp_path / "files"))
    for answer, told in (("good", good), ("bad", better)):
        version = registered(before, tmp_path, "acme/x", answer)
        before.attach(version, scores(told), "ann")
    measured = before.measured(version)
    before.close()
    assert "clusters" not in taken_back(place, "0001")

    after = Registry.open(place, files=str(tmp_path / "files"))
    assert after.measured(version) == measured
    after.promote("acme/x@1", "ann")
    verdict = after.promote("acme/x@2", "ann")[1]
    assert (verdict.passed, verdict.n) == (True, 200)
    assert "groups" not in verdict.reason
    groups = {row: f"text {number // 50}" for number, row in enumerate(rows)}
    after.attach(version, replace(scores(better), clusters=groups), "ann")
    assert "on 200 rows of 4 groups" in after.promote("acme/x@1", "ann", OVERRIDDEN)[1].reason
    assert after.verify().faults == ()
    after.close()


def test_opening_again_changes_nothing(place: str) -> None:
    Database(place).close()
    database = Database(place)
    with database.write():
        pass
    assert database.changes() == 1
    database.close()


def test_a_newer_registry_is_refused(place: str) -> None:
    database = Database(place)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(RegistryError, match="newer version"):
        Database(place)


def test_many_open_it_for_the_first_time(place: str) -> None:
    failed: list[Exception] = []

    def run() -> None:
        try:
            Database(place).close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert Database(place).changes() == 0


def test_an_error_takes_all_back(place: str) -> None:
    database = Database(place)

    def half() -> None:
        with database.write() as connection:
            connection.execute(text("DELETE FROM state WHERE key = 'changes'"))
            raise KeyError("x")

    with pytest.raises(KeyError):
        half()
    assert database.changes() == 0
    database.close()


def test_a_life(registry: Registry, tmp_path: Path) -> None:
    for answer in ("good", "bad"):
        registered(registry, tmp_path, "acme/x", answer)
    registry.promote("acme/x@1", "ann")
    registry.promote("acme/x@2", "ann", Promotion(share=0.5, reason="let us see"))
    trial = registry.trials_of("acme/x")[0].id
    for number in range(100):
        found = registry.record_outcome(trial, f"u{number}", [(1, 1.0), (2, 0.0)], "server")
        if found.verdict == "worse":
            break
    assert found.ended_at is not None
    assert registry.choose("acme/x").version.number == 1
    registry.promote("acme/x@2", "ann", OVERRIDDEN)
    assert registry.rollback("acme/x", "ann").stable == 1
    version = registry.version("acme/x@2")
    with registry.in_use(version, "server"):
        registry.retire("acme/x@2", "ann")
        found_in_use = registry.collect(Ages(retired_seconds=0.0), "ann")
        assert len(found_in_use.in_use) == 1
    assert len(registry.collect(Ages(retired_seconds=0.0), "ann").removed) == 1
    assert registry.verify().faults == ()
    assert [str(each.name) for each in registry.names("acme")] == ["acme/x"]
    with pytest.raises(NotRegisteredError):
        registry.version("acme/y@1")


def test_numbers_are_given_once(registry: Registry, tmp_path: Path) -> None:
    sources = [stored(tmp_path / f"s{n}", constant(f"answer {n}")) for n in range(12)]
    failed: list[Exception] = []

    def run(part: int) -> None:
        for source in sources[part::4]:
            try:
                registry.add(source, Registration(parse_name("acme/x"), "ann"))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=run, args=(part,)) for part in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert [each.number for each in registry.versions("acme/x")] == list(range(1, 13))
    assert registry.verify().faults == ()


def test_promotions_at_once_leave_one_history(registry: Registry, tmp_path: Path) -> None:
    for answer in ("a", "b", "c"):
        registered(registry, tmp_path, "acme/x", answer)

    def run(number: int) -> None:
        for _ in range(6):
            registry.promote(f"acme/x@{number}", f"actor {number}", OVERRIDDEN)
            assert registry.choose("acme/x").version.number in (1, 2, 3)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2, 3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    history = registry.history("acme/x", "production")
    assert [each["revision"] for each in history] == list(range(1, 19))
    (alias,) = registry.aliases_of("acme/x")
    assert alias.revision == 18
    assert alias.stable == history[-1]["targets"][0]["number"]
    assert registry.verify().faults == ()


def test_postgres_stopped_and_started(server: Server, tmp_path: Path) -> None:
    registry = Registry.open(server.url, files=str(tmp_path / "files"))
    name = "acme/x"
    version = registered(registry, tmp_path, name)
    registry.promote(f"{name}@1", "ann")
    try:
        with pytest.raises(UnavailableError, match="does not answer"):
            _stopped_in_the_middle(registry.database, server)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                registry.choose(name)
        with pytest.raises(UnavailableError):
            registered(registry, tmp_path, name, "bad")
    finally:
        server.start()
    assert registry.choose(name).version == version
    assert registered(registry, tmp_path, name, "bad").number == 2
    assert registry.promote(f"{name}@2", "ann", OVERRIDDEN)[0].stable == 2
    registry.close()


def _stopped_in_the_middle(database: Database, server: Server) -> None:
    with database.write() as connection:
        connection.execute(text("DELETE FROM aliases"))
        server.stop()


def test_a_password_is_never_told() -> None:
    with pytest.raises(UnavailableError) as caught:
        Database("postgresql://ann:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'registry.db'}")

    def fill() -> None:
        with database.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            for number in range(5000):
                values = {"key": f"k{number}"}
                connection.execute(text("INSERT INTO state (key, value) VALUES (:key, 1)"), values)

    with pytest.raises(StorageError, match="full"):
        fill()
    assert database.changes() == 0
    database.close()
