"""Slow, vanishing, greedy and broken: callers, disks, databases."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.serve.http.conftest import Build, House

from tunewise.errors import StorageError, UnavailableError
from tunewise.serve.http.settings import Settings

Listen = Callable[[House], House]
CHAT = {"model": "acme/tickets", "messages": [{"role": "user", "content": "x" * 100}]}


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def quiet(house: House) -> bool:
    """Whether nothing runs, waits or is counted as running."""
    service = house.service
    return not (service.turnstile.working or service.turnstile.waiting or service.limiter.streams())


def connect(house: House) -> socket.socket:
    port = int(house.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def head(house: House, path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {house.keys['acme']}\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


@pytest.fixture
def slow(build: Build, listen: Listen) -> House:
    """An engine that takes 20 ms for each piece, with two places."""
    house = listen(build(Settings(places=2, waiting=3, waiting_per_tenant=2), seconds=0.02))
    for tenant in ("acme", "beta"):
        house.publish(tenant, "tickets", f"{tenant} one")
    return house


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_frees_the_place(slow: House, stream: bool) -> None:
    slow.engine.seconds = 2.0  # a minute an answer: none ends before its caller is missed
    body = json.dumps({**CHAT, "stream": stream}).encode()
    for number in range(1, 5):
        with connect(slow) as raw:
            raw.sendall(head(slow, "/v1/chat/completions", len(body)) + body)
            until(lambda n=number: slow.engine.started == n)
            time.sleep(0.05)
        until(lambda: quiet(slow))
    until(lambda: slow.engine.aborted == 4)
    slow.service.store_usage()
    (used,) = slow.store.usage().values()
    # What was made for them is counted all the same.
    assert used.requests == 4
    assert used.prompt_tokens > 0


def test_who_goes_away_while_waiting_leaves_the_queue(slow: House) -> None:
    body = json.dumps(CHAT).encode()
    slow.engine.gate.clear()
    raws = []
    for _ in range(4):
        raws.append(connect(slow))
        raws[-1].sendall(head(slow, "/v1/chat/completions", len(body)) + body)
    until(lambda: slow.service.turnstile.waiting == 2)
    for raw in raws:
        raw.close()
    # Both places are still taken: it is their going that empties the queue.
    until(lambda: slow.service.turnstile.waiting == 0)
    slow.engine.gate.set()
    until(lambda: quiet(slow))
    with slow.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_full_queue_is_told_with_a_time_to_come_back(slow: House) -> None:
    answers: list[httpx.Response] = []

    def ask(tenant: str) -> None:
        with slow.client(tenant) as client:
            model = {"model": f"{tenant}/tickets"}
            answers.append(client.post("/v1/chat/completions", json={**CHAT, **model}))

    slow.engine.gate.clear()
    threads = [threading.Thread(target=ask, args=("acme",)) for _ in range(8)]
    for each in threads:
        each.start()
    until(lambda: len(answers) == 4)
    assert slow.service.turnstile.waiting == 2
    # One tenant has filled its own queue; another still has room.
    other = threading.Thread(target=ask, args=("beta",))
    other.start()
    until(lambda: slow.service.turnstile.waiting == 3)
    slow.engine.gate.set()
    for each in [*threads, other]:
        each.join()
    statuses = sorted(each.status_code for each in answers)
    assert statuses == [200] * 5 + [429] * 4
    refused = [each for each in answers if each.status_code == 429]
    assert all(each.headers["retry-after"] == "1" for each in refused)
    assert refused[0].json()["error"]["code"] == "queue_full"
    until(lambda: quiet(slow))


def test_a_body_that_does_not_come_is_not_waited_for(build: Build, listen: Listen) -> None:
    house = listen(build(Settings(body_seconds=0.3)))
    with connect(house) as raw:
        raw.sendall(head(house, "/v1/chat/completions", 1000) + b'{"model"')
        assert b" 408 " in raw.recv(4096)


@pytest.mark.parametrize("gone", [False, True], ids=["slow", "gone"])
def test_an_upload_that_does_not_come_leaves_nothing(
    gone: bool, build: Build, listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Who is gone is noticed, however long others may take.
    house = listen(build(Settings(upload_seconds=600.0 if gone else 2.0)))
    with connect(house) as raw:
        raw.sendall(head(house, "/v1/adaptations/new", 100_000) + b"PK" * 1000)
        until(lambda: any(tmp_path.glob("tunewise-upload-*")))
        if not gone:
            assert b" 408 " in raw.recv(4096)
    until(lambda: not any(tmp_path.glob("tunewise-upload-*")))
    assert house.registry.names("acme") == []
    until(lambda: quiet(house))


def test_a_body_that_is_too_long_is_refused(build: Build, listen: Listen) -> None:
    house = listen(build(Settings(body_bytes=1000, upload_bytes=5000)))
    with house.client() as client:
        big = {**CHAT, "user": "u" * 2000}
        assert client.post("/v1/chat/completions", json=big).status_code == 413

        def chunks() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 100

        assert client.post("/v1/chat/completions", content=chunks()).status_code == 413
        assert client.post("/v1/adaptations/new", content=b"x" * 6000).status_code == 413
        assert client.post("/v1/adaptations/new", content=chunks()).status_code == 413


def test_an_answer_that_takes_too_long_is_broken_off(build: Build, listen: Listen) -> None:
    house = listen(build(Settings(request_seconds=2.0), seconds=0.2))
    house.publish("acme", "tickets", "acme one")
    with house.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 504
        with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            lines = [line for line in answer.iter_lines() if line]
    assert answer.status_code == 200
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
    assert "data: [DONE]" not in lines
    until(lambda: quiet(house))
    assert house.engine.aborted == 2


def test_a_reader_that_does_not_read_is_left(build: Build, listen: Listen) -> None:
    house = listen(build(Settings(send_seconds=0.3), context=100_000))
    house.publish("acme", "tickets", "acme one")
    body = json.dumps(
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x" * 20_000}],
            "stream": True,
            "logprobs": True,
        }
    ).encode()
    with connect(house) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.sendall(head(house, "/v1/chat/completions", len(body)) + body)
        time.sleep(0.5)
        until(lambda: quiet(house))


def test_a_damaged_file_harms_its_own_adaptation_only(house: House) -> None:
    version = house.registry.version("acme/tickets@1")
    folder = house.registry.folder(version)
    target = folder / "adaptation.json"
    target.chmod(0o600)
    target.write_bytes(target.read_bytes().replace(b"acme one", b"acme two"))
    house.engine.kept.clear()
    with house.client() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "adaptation_unavailable"
        # Where files lie is nobody's business.
        assert str(house.folder) not in answer.text
        body = {"model": "acme/labels", "input": "x"}
        assert client.post("/v1/classify", json=body).status_code == 200


def test_a_full_disk_is_told_and_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import errno

    from tunewise.serve.http.routes import adaptations

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adaptations, "unpack", full)
    monkeypatch.setattr(adaptations.tempfile, "tempdir", str(tmp_path))
    with house.client() as client:
        answer = client.post("/v1/adaptations/new", content=b"x")
        assert answer.status_code == 507
        assert client.get("/v1/adaptations/new").status_code == 404
    assert not list(tmp_path.glob("tunewise-upload-*"))


def test_a_full_disk_keeps_nobody_from_reading(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("the registry cannot be written: the disk is full")

    monkeypatch.setattr(type(house.registry), "lease", full)
    with house.client() as client:
        for _ in range(3):
            assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert house.shelf._leases == {}


def test_a_registry_that_does_not_answer_is_told_and_comes_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise UnavailableError("the registry's database does not answer", found="secret-host")

    with house.client() as client, monkeypatch.context() as patch:
        patch.setattr(type(house.registry), "choose", away)
        patch.setattr(type(house.registry), "changes", away)
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert "secret-host" not in answer.text
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    with house.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_fault_of_ours_is_a_500_that_tells_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("choked on: my secret prompt")

    monkeypatch.setattr(house.engine.__class__, "submit", broken)
    with house.client() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    until(lambda: quiet(house))


def test_an_engine_that_cannot_compute_is_not_ready(house: House) -> None:
    house.engine.closed = True
    with house.client() as client:
        assert client.get("/readyz").json() == {
            "status": "not ready",
            "reason": "the engine has ended",
        }
        assert client.get("/healthz").status_code == 200
