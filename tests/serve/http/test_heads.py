"""Connections that say nothing, half of something, or too much, before a key is asked for."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable

import pytest
from tests.serve.http.conftest import Build, House
from tests.serve.http.test_faults import CHAT, connect, head

from tunewise.serve.http import server as server_module
from tunewise.serve.http.settings import Settings

Listen = Callable[[House], House]
START = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture
def hasty(build: Build, listen: Listen) -> House:
    """A server that waits a second and a half for 4 kB of headers."""
    house = listen(build(Settings(head_seconds=1.5, head_bytes=4096)))
    house.publish("acme", "tickets", "acme one")
    return house


def rest_of(raw: socket.socket) -> bytes:
    """What comes until the other side closes; it must do so soon."""
    raw.settimeout(10)
    told = b""
    try:
        while data := raw.recv(65536):
            told += data
    except ConnectionError:
        return told
    return told


def answer_of(raw: socket.socket) -> bytes:
    """One whole answer, whose headers and body may come apart."""
    raw.settimeout(10)
    with raw.makefile("rb") as file:
        lines = [file.readline()]
        while lines[-1].strip():
            lines.append(file.readline())
        (length,) = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-len")]
        return b"".join(lines) + file.read(length)


@pytest.mark.parametrize("start", [b"", b"\r\n"])
def test_who_says_nothing_is_left(hasty: House, start: bytes) -> None:
    with connect(hasty) as raw:
        raw.sendall(start)
        assert rest_of(raw) == b""


def test_who_does_not_come_to_an_end_is_told(hasty: House) -> None:
    with connect(hasty) as raw:
        raw.sendall(START)
        for _ in range(3):
            time.sleep(0.1)
            raw.sendall(b"x-more: y\r\n")
        first, _, body = rest_of(raw).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("piece", [b"x-more: yyyyyyyyyyyyyyyyyyyyyyyy\r\n", b"y" * 64])
def test_headers_without_end_are_refused(hasty: House, piece: bytes) -> None:
    with connect(hasty) as raw:
        raw.sendall(START + b"x-long: ")
        pour(raw, piece * 32, 100)
        told = rest_of(raw)
    assert told.startswith(b"HTTP/1.1 431 ") or told == b""  # the rest was thrown away unread


def pour(raw: socket.socket, piece: bytes, times: int) -> None:
    """Send again and again, until something comes back."""
    for _ in range(times):
        try:
            raw.sendall(piece)
        except ConnectionError:
            return
        if select.select([raw], [], [], 0.001)[0]:
            return


def test_headers_behind_a_body_are_no_way_around(hasty: House) -> None:
    start = head(hasty, "/v1/chat/completions", 0).replace(
        b"content-length: 0", b"transfer-encoding: chunked"
    )
    with connect(hasty) as raw:
        raw.sendall(start + b"2\r\n{}\r\n0\r\n")
        pour(raw, b"x-more: yyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 8, 40)
        assert rest_of(raw) == b""


def test_what_takes_long_for_another_reason_is_let_through(hasty: House) -> None:
    body = json.dumps(CHAT).encode()
    with connect(hasty) as raw:
        for _ in range(2):  # a connection that is kept
            raw.sendall(head(hasty, "/v1/chat/completions", len(body)))
            for begin in range(0, len(body), 60):
                time.sleep(0.6)
                raw.sendall(body[begin : begin + 60])
            assert answer_of(raw).startswith(b"HTTP/1.1 200 ")
            time.sleep(1.8)


def test_a_large_body_in_one_piece_is_no_head(build: Build, listen: Listen) -> None:
    house = listen(build(Settings(head_bytes=4096)))
    house.publish("acme", "tickets", "acme one")
    with house.client() as client:
        for _ in range(3):
            body = {**CHAT, "metadata": {"k": "v" * 300_000}}
            assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_silent_connections_keep_nobody_out_for_long(
    build: Build, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS", 8)
    house = listen(build(Settings(head_seconds=3.0)))
    silent = [connect(house) for _ in range(10)]
    try:
        with house.client() as client:
            assert client.get("/healthz").status_code == 503
        time.sleep(4)
        with house.client() as client:
            assert client.get("/healthz").status_code == 200
    finally:
        for raw in silent:
            raw.close()
