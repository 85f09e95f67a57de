"""Two processes of the real command on one PostgreSQL: each change is the other's at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
from tests.serve.http.test_changes import zipped
from tests.serve.http.test_process import INPUTS, Ground, ground, serving, until
from tests.serve.postgres import Server

from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.store import save
from tunewise.serve.registry.collect import Ages
from tunewise.serve.registry.registry import Registry
from tunewise.serve.tenants.records import Quota, parse_grant
from tunewise.serve.tenants.store import TenantStore
from tunewise.task.prompt import PromptText

__all__ = ["ground"]  # a fixture that is used by its name
PATH = "/v1/adaptations/shared"


def upload(ground: Ground, folder: Path, instruction: str) -> bytes:
    """An adaptation with another instruction, packed."""
    part = PromptTextPart(PromptText(instruction))
    save(replace(ground.made["labels"], parts=(part,)), folder)
    return zipped({each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()})


def promote(client: httpx.Client, number: int) -> None:
    body = {"version": str(number), "reason": "a test"}
    answer = client.post(f"{PATH}/promote", json=body)
    assert answer.status_code == 200, answer.text


def version(client: httpx.Client) -> str:
    body = {"model": "acme/shared", "input": INPUTS[0]}
    answer = client.post("/v1/classify", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])


def test_two_servers_are_one(ground: Ground, server: Server, tmp_path: Path) -> None:
    files = str(tmp_path / "files")
    registry, store = Registry.open(server.url, files=files), TenantStore(server.url)
    store.set_tenant("acme", Quota(tokens_per_day=5000))
    record, key = store.make_key("acme", [parse_grant(r) for r in ("use", "publish", "promote")])
    place = replace(ground, registry=server.url, key=key.text)  # type: ignore[arg-type]  # shown as it is
    flags = ("--files", files, "--no-probes")
    with serving(place, *flags) as (_, one), serving(place, *flags) as (_, other):
        for number, client in ((1, one), (2, other)):
            content = upload(ground, tmp_path / str(number), f"Good, {number}?")
            answer = client.post(PATH, content=content)
            assert answer.json()["number"] == number, answer.text
        for turn in range(10):
            by, asked = (one, other) if turn % 2 else (other, one)
            promote(by, 1 + turn % 2)
            assert version(asked) == f"acme/shared@{1 + turn % 2}"
        check_changes_at_once(registry, one, other)
        check_what_is_used_stays(registry, one, other)
        check_the_days_tokens(one, other)
        store.revoke(record.id)
        until(lambda: all(c.get("/v1/models").status_code == 401 for c in (one, other)), 5)
    registry.close()
    store.close()


def check_changes_at_once(registry: Registry, one: httpx.Client, other: httpx.Client) -> None:
    """Both promote as fast as they can: one history, one trail."""
    before = len(registry.history("acme/shared", "production"))
    threads = [
        threading.Thread(target=lambda c=client, n=number: [promote(c, n) for _ in range(8)])
        for number, client in ((1, one), (2, other))
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    revisions = [each["revision"] for each in registry.history("acme/shared", "production")]
    assert revisions == list(range(1, before + 17))
    assert version(one) == version(other)
    checked = registry.verify()
    assert checked.faults == ()


def check_what_is_used_stays(registry: Registry, one: httpx.Client, other: httpx.Client) -> None:
    """Files that either server may need again are not collected."""
    promote(one, 1)
    assert version(other) == "acme/shared@1"
    promote(one, 2)
    assert one.post(f"{PATH}/retire", json={"version": "1"}).status_code == 200
    found = registry.collect(Ages(retired_seconds=0.0), "ann")
    assert len(found.in_use) == 1
    assert found.removed == ()
    assert version(other) == "acme/shared@2"


def check_the_days_tokens(one: httpx.Client, other: httpx.Client) -> None:
    """What is spent at one server is spent at the other, some ten seconds later."""
    body = {"model": "base", "prompt": "x", "max_tokens": 100}
    while one.post("/v1/completions", json=body).status_code == 200:
        pass
    until(lambda: other.post("/v1/completions", json=body).status_code == 429, 60)
