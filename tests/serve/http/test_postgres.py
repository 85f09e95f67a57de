"""A server whose registry and keys lie in one PostgreSQL, which stops and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.serve.http.conftest import ALL, Build, House
from tests.serve.http.stand_ins import FINGERPRINT
from tests.serve.http.test_changes import files_of, zipped
from tests.serve.http.test_faults import until
from tests.serve.postgres import Server

from tunewise.serve.http.registry_shelf import RegistryShelf
from tunewise.serve.http.service import Service
from tunewise.serve.http.settings import Settings
from tunewise.serve.registry.registry import Registry
from tunewise.serve.tenants.records import parse_grant
from tunewise.serve.tenants.store import TenantStore

ASK = {"model": "acme/tickets", "prompt": "x"}


@pytest.fixture
def house(build: Build, listen: Callable[[House], House], server: Server, tmp_path: Path) -> House:
    made = build(seconds=0.02)
    registry = Registry.open(server.url, files=str(tmp_path / "files"))
    store = TenantStore(server.url)
    store.set_tenant("acme")
    keys = {"acme": store.make_key("acme", [parse_grant(each) for each in ALL])[1].text}
    shelf = RegistryShelf(registry, base_fingerprint=FINGERPRINT, holder="test")
    settings = Settings(usage_seconds=0.2)
    service = Service(made.engine, shelf, store, settings)  # type: ignore[arg-type]  # as `Engine`
    whole = replace(made, registry=registry, store=store, keys=keys, shelf=shelf, service=service)
    return listen(whole)


def test_what_needs_it_says_so_and_goes_on_when_it_is_back(
    house: House, server: Server, tmp_path: Path
) -> None:
    house.publish("acme", "tickets", "acme one")
    upload = zipped(files_of(tmp_path, "acme two"))
    long: dict[str, Any] = {"model": "tiny", "prompt": "y" * 200, "stream": True}
    with house.client() as client:
        first = client.post("/v1/completions", json=ASK).json()
        with client.stream("POST", "/v1/completions", json=long) as running:
            lines = running.iter_lines()
            next(lines)
            server.stop()
            try:
                # What runs already needs no database.
                assert [line for line in lines if line][-1] == "data: [DONE]"
                check_away(house, first["id"], upload)
                time.sleep(0.5)  # usage is tried to be stored meanwhile, more than once
            finally:
                server.start()
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/completions", json=ASK).json()["choices"] == first["choices"]
        told = {"id": first["id"], "score": 1}
        assert client.post("/v1/feedback", json=told).status_code == 200
        assert client.post("/v1/adaptations/tickets", content=upload).json()["number"] == 2
    # What was used while it was away is not lost.
    until(lambda: len(house.store.usage()) == 2)
    until(lambda: {key[2]: used.requests for key, used in house.store.usage().items()}
          == {"@base": 1, "acme/tickets": 2})  # fmt: skip


def test_text_that_it_cannot_hold_is_the_callers_fault(house: House, tmp_path: Path) -> None:
    number = house.publish("acme", "tickets", "acme nul")
    upload = zipped(files_of(tmp_path, "acme three"))
    path = "/v1/adaptations/tickets"
    with house.client() as client:
        told = [
            client.post(f"{path}/promote", json={"version": f"{number}", "reason": "a\0b"}),
            client.post(f"{path}/promote", json={"version": "1\0", "reason": "x"}),
            client.post(f"{path}/promote", json={"version": f"{number}", "alias": "a\0"}),
            client.post(f"{path}/rollback", json={"alias": "a\0"}),
            client.post(f"{path}?notes=a%00b", content=upload),
            client.get("/v1/models?after=a%00b"),
            client.get("/v1/adaptations?after=%00"),
        ]
        for answer in told:
            assert answer.status_code == 400, answer.text
        # What is only compared or hashed may hold anything.
        body = {"model": "acme/tickets", "prompt": "a\0b", "user": "a\0b"}
        assert client.post("/v1/completions", json=body).status_code == 200
        assert client.get("/v1/models/acme/a%00b").status_code == 404


def check_away(house: House, answered: str, upload: bytes) -> None:
    with house.client() as client:
        # Who was let in within the last second is known without asking.
        until(lambda: client.get("/v1/models").status_code == 503)
        for answer in (
            client.post("/v1/completions", json=ASK),
            client.post("/v1/completions", json={"model": "tiny", "prompt": "x"}),
            client.post("/v1/feedback", json={"id": answered, "score": 1}),
            client.post("/v1/adaptations/tickets", content=upload),
            client.post("/v1/adaptations/tickets/rollback", json={}),
        ):
            assert answer.status_code == 503, answer.text
            assert "retry-after" in answer.headers
            # Neither the address nor what the driver said.
            assert "127.0.0.1" not in answer.text
            assert "psycopg" not in answer.text
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
