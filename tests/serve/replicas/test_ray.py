"""The real command with two replicas of a tiny real model; needs the extra `ray`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx2 as httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.http.test_heads import START, pour, rest_of
from tests.serve.http.test_process import (
    INPUTS,
    Ground,
    ask,
    check_answers,
    ground,
    serving,
    until,
)

from tunewise.serve.http.settings import Settings
from tunewise.serve.registry.registry import Registry
from tunewise.serve.tenants.records import parse_grant
from tunewise.serve.tenants.store import TenantStore

pytest.importorskip("ray.serve")
__all__ = ["ground"]  # a fixture of the one process's own tests
WAIT_SECONDS = 120


def replicas(process: psutil.Process) -> list[psutil.Process]:
    return [each for each in process.children(recursive=True) if "ServeReplica" in _title(each)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def slots(client: httpx.Client, key: str) -> set[str]:
    """The replicas that tell figures."""
    answer = client.get("/metrics", headers={"authorization": f"Bearer {key}"})
    families = {each.name: each for each in text_string_to_metric_families(answer.text)}
    found = families.get("tunewise_engine_slots")
    return set() if found is None else {each.labels["replica"] for each in found.samples}


def operator_key(ground: Ground) -> str:
    store = TenantStore(str(ground.registry / "keys.db"))
    store.set_tenant("operator")
    _, key = store.make_key("operator", [parse_grant("administer")])
    store.close()
    return key.text


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses they listen on."""
    found = set()
    for each in processes:
        try:
            connections = each.net_connections("tcp")
        except psutil.Error:
            continue
        found |= {held.laddr.ip for held in connections if held.status == psutil.CONN_LISTEN}
    return found


def test_two_replicas_are_one_server(ground: Ground) -> None:
    key = operator_key(ground)
    with serving(ground, "--replicas", "2", "--drain-seconds", "60") as (process, client):
        check_answers(ground, client)
        driver = psutil.Process(process.pid)
        assert len(replicas(driver)) == 2
        everything = driver.children(recursive=True)
        assert listening([driver, *everything]) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        assert len(slots(client, key)) == 2
        # Outcomes reach the replica that gave the answer, wherever they come in.
        official = openai.OpenAI(api_key=ground.key, base_url=f"{client.base_url}/v1")
        for index in range(8):
            answer = official.chat.completions.create(
                model="acme/labels", messages=[{"role": "user", "content": INPUTS[index % 6]}]
            )
            told = client.post("/v1/feedback", json={"id": answer.id, "score": 1})
            assert told.status_code == 200, told.text
        raw = client.post("/v1/completions", json={"model": "base", "prompt": "a", "max_tokens": 1})
        assert len(raw.headers.get_list("x-request-id")) == 1
        heads_are_in_time_and_bounds(client)
        killed = killed_replica_is_replaced(ground, client, driver, key)
        left_in_order(process, client)
    _, alive = psutil.wait_procs(everything, timeout=20)
    assert not alive
    store = TenantStore(str(ground.registry / "keys.db"))
    used = Counter({name[2]: each.requests for name, each in store.usage(tenant="acme").items()})
    # What the killed one had not stored yet is lost; the others' is all there.
    assert used["acme/labels"] >= 6
    assert used["@base"] >= 1
    store.close()
    registry = Registry.open(str(ground.registry))
    with registry.database.read() as connection:  # the others' leases were given back
        holders = connection.exec_driver_sql("select holder from leases").scalars().all()
    assert all(each.endswith(f"process {killed}") for each in holders)
    registry.close()


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=2 * WAIT_SECONDS, check=False
    )


def test_what_keeps_replicas_from_starting_is_told(ground: Ground, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "tunewise", "serve", "--base", str(ground.base), "--port", "0",
        "--open", "--registry", str(tmp_path / "registry"), "--replicas", "1",
    ]  # fmt: skip
    asked = [*command, "--weights", "int8", "--dtype", "bfloat16"]
    done = run(asked)
    assert done.returncode == 3
    assert "the replicas did not start" in done.stderr
    assert "float32 base" in done.stderr  # in the log, from the replica itself
    asked = [*command, "--ray-address", "127.0.0.1:1"]
    asked.remove("--open")
    asked[asked.index("--port") + 1] = "8999"
    done = run(asked)
    assert done.returncode == 3
    assert "no such Ray cluster" in done.stderr


def heads_are_in_time_and_bounds(client: httpx.Client) -> None:
    """Through Ray's proxy as through the one process."""
    port = client.base_url.port
    limits = Settings()

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=limits.head_seconds + 20)

    with connect() as silent, connect() as half:
        half.sendall(START)
        with connect() as endless:
            endless.sendall(START + b"x-long: ")
            pour(endless, b"y" * 4096, 100)
            told = rest_of(endless)
        assert told.startswith(b"HTTP/1.1 431 ") or told == b""  # the rest was thrown away unread
        assert half.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert silent.recv(1) == b""


def killed_replica_is_replaced(
    ground: Ground, client: httpx.Client, driver: psutil.Process, key: str
) -> int:
    """The other one answers meanwhile."""
    before = slots(client, key)
    pid = replicas(driver)[0].pid
    os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    for index in range(6):
        assert ask(client, "labels", index) == ground.answers["labels"][index].text
    until(lambda: len(slots(client, key)) == 2 and slots(client, key) != before, WAIT_SECONDS)
    return pid


def left_in_order(process: subprocess.Popen[str], client: httpx.Client) -> None:
    """A long answer ends as if nothing had come; new requests are told."""
    long = {"model": "base", "prompt": "abc", "max_tokens": 300, "stream": True}
    with client.stream("POST", "/v1/completions", json=long) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503, 10)
        asked = client.post("/v1/completions", json={"model": "base", "prompt": "a"})
        assert (asked.status_code, asked.json()["error"]["code"]) == (503, "unavailable")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert process.wait(WAIT_SECONDS) == 0
