"""What one of the two databases refuses and the other would take: text, and waiting without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.serve.registry.samples import Clock, constant, registered, stored

from tunewise.errors import ConfigError, UnavailableError
from tunewise.serve import connections
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.database import Database, changes
from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry

# PostgreSQL holds no NUL; a lone surrogate has no bytes in either database.
UNSTORABLE = ["a\0b", "\0", "a\ud800b"]


@pytest.fixture
def registry(place: str, tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(place, files=str(tmp_path / "files"))
    yield replace(opened, clock=Clock())
    opened.close()


def test_a_reader_sees_one_state(registry: Registry, tmp_path: Path) -> None:
    registered(registry, tmp_path, "acme/x")
    with registry.database.read() as connection:
        before = changes(connection)
        registry.promote("acme/x@1", "ann", Promotion(reason="a test"))
        assert changes(connection) == before
    assert registry.changes() > before


@pytest.mark.parametrize("text", UNSTORABLE, ids=ascii)
def test_text_that_cannot_be_kept_is_refused_and_changes_nothing(
    registry: Registry, tmp_path: Path, text: str
) -> None:
    registered(registry, tmp_path, "acme/x")
    before = (registry.audit_trail(), registry.changes())
    source = stored(tmp_path / "other", constant("other"))
    # A surrogate is in no stored adaptation: its files are UTF-8.
    told = stored(tmp_path / "told", constant("told", method=text.replace("\ud800", "\0")))
    name = parse_name("acme/x")
    attempts: list[Any] = [
        lambda: registry.promote("acme/x@1", "ann", Promotion(reason=text)),
        lambda: registry.promote("acme/x@1", text, Promotion(reason="a test")),
        lambda: registry.rollback("acme/x", "ann", alias=text),
        lambda: registry.drop_alias("acme/x", text, "ann"),
        lambda: registry.add(source, Registration(name, "ann", notes=text)),
        lambda: registry.add(told, Registration(name, "ann")),
        lambda: registry.names("acme", after=f"acme/{text}"),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match="text that the database cannot hold"):
            attempt()
    assert (registry.audit_trail(), registry.changes()) == before
    assert len(registry.versions("acme/x")) == 1
    assert registry.verify().faults == ()


def test_a_writer_that_does_not_end_is_waited_for_in_vain(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WAIT_SECONDS", 1)
    first, second = Database(place), Database(place)
    with first.write():
        assert second.changes() == 0  # reading goes on
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"), second.write():
            pass
        assert time.monotonic() - began < 10
    with second.write():
        pass
    first.close()
    second.close()
