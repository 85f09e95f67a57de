"""What the tests of serving share: one PostgreSQL server, and empty databases of both kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serve.postgres import Server, emptied


@pytest.fixture(scope="session")
def _one_server() -> Iterator[Server]:
    made = Server()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def server(_one_server: Server) -> Server:
    """A PostgreSQL server that runs and has nothing in it; a test that stops it starts it again."""
    emptied(_one_server.url)
    return _one_server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tables.db'}"
    url: str = request.getfixturevalue("server").url
    return url
