"""What several replicas need beside Ray: log lines, figures, outcomes told elsewhere, flags."""

from __future__ import annotations

import builtins
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.cli.terminal import tunewise
from tests.serve.http.conftest import Build, House, build, house, listen, tokenizer

from tunewise.serve.http.figures import text_of
from tunewise.serve.http.peers import joined, labelled
from tunewise.serve.replicas.driver import Layout
from tunewise.serve.replicas.lines import Gathered, lines_to

__all__ = ["build", "house", "listen", "tokenizer"]  # fixtures of the server's own tests


def test_lines_of_many_come_whole() -> None:
    target = io.StringIO()
    gathered = Gathered(target)
    assert os.stat(Path(gathered.place).parent).st_mode & 0o077 == 0
    streams = [lines_to(gathered.place) for _ in range(3)]
    long = "x" * 100_000
    for number in range(20):
        for index, stream in enumerate(streams):
            stream.write(f"{index} {number} {long}\n")
            stream.flush()
    wanted = {f"{index} {number} {long}" for index in range(3) for number in range(20)}
    until = time.monotonic() + 20
    while time.monotonic() < until and set(target.getvalue().splitlines()) != wanted:
        time.sleep(0.02)
    assert set(target.getvalue().splitlines()) == wanted
    gathered.close()
    assert not Path(gathered.place).parent.exists()


def test_figures_of_several_are_one_text_that_prometheus_reads(build: Build) -> None:
    servers = []
    for index in range(2):
        figures = build().service.figures
        for _ in range(index + 1):
            figures.count("acme", "/v1/completions", 200, "", 0.1, {"prompt_tokens": 3})
        servers.append(labelled(figures.metrics(None), f"r{index}"))
    text = text_of(joined(servers)).decode()
    families = {each.name: each for each in text_string_to_metric_families(text)}
    counts = {
        each.labels["replica"]: each.value
        for each in families["tunewise_requests"].samples
        if each.name == "tunewise_requests_total"
    }
    assert counts == {"r0": 1, "r1": 2}
    assert text.count("# TYPE tunewise_requests_total ") == 1
    assert {each.labels["replica"] for each in families["tunewise_engine_slots"].samples} == set(
        counts
    )


class Elsewhere:
    """Peers that remember one answer."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float]] = []

    async def outcome(self, request: str, tenant: str, score: float) -> str | None:
        if request != "cmpl-theirs":
            return None
        self.told.append((request, tenant, score))
        return "acme/tickets@1"

    async def figures(self, tenant: str | None) -> list[Metric]:
        metric = Metric("made_up", "of all", "gauge")
        metric.add_sample("made_up", {"tenant": "none" if tenant is None else tenant}, 1.0)
        return [metric]


def test_what_this_server_does_not_know_the_others_are_asked(house: House) -> None:
    house.service.peers = peers = Elsewhere()
    with house.client() as client:
        told = client.post("/v1/feedback", json={"id": "cmpl-theirs", "score": 0.5})
        assert (told.status_code, told.json()["model"]) == (200, "acme/tickets@1")
        assert peers.told == [("cmpl-theirs", "acme", 0.5)]
        body = {"id": "cmpl-nobodys", "score": 1}
        assert client.post("/v1/feedback", json=body).status_code == 404
        own = client.post("/v1/completions", json={"model": "acme/tickets", "prompt": "x"}).json()
        assert client.post("/v1/feedback", json={"id": own["id"], "score": 1}).status_code == 200
        assert 'made_up{tenant="acme"} 1.0' in client.get("/metrics").text


def test_a_closed_server_takes_nothing_new_and_says_how_much_runs(house: House) -> None:
    service = house.service
    service.leaving = service.closed = True
    with house.client() as client:
        asked = client.post("/v1/completions", json={"model": "acme/tickets", "prompt": "x"})
        assert (asked.status_code, asked.json()["error"]["code"]) == (503, "unavailable")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    until = time.monotonic() + 10
    while service.inside and time.monotonic() < until:
        time.sleep(0.01)
    assert service.inside == 0


def test_cores_are_shared_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewise.serve.replicas.driver.default_threads", lambda: 8)
    found = [Layout(n, "127.0.0.1", 0).cores_each() for n in (1, 3, 8, 20)]
    assert found == [8, 2, 1, 1]
    assert Layout(2, "127.0.0.1", 0, address="10.0.0.1:6379").cores_each() == 1
    assert Layout(2, "127.0.0.1", 0, cores=5).cores_each() == 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ray-address", "auto"), "--replicas N"),
        (("--replica-cores", "2"), "--replicas N"),
        (("--replicas", "0"), "--replicas"),
        (("--replicas", "2", "--ray-address", "auto", "--port", "0"), "--port 0"),
        (("--replicas", "2", "--ray-address", "auto"), "--open --ray-address"),
        (
            ("--replicas", "2", "--engine", "vllm", "--vllm-url", "http://127.0.0.1:1"),
            "embedded engine",
        ),
    ],
)
def test_flags_that_cannot_take_effect(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = tunewise("serve", "--open", "--registry", tmp_path / "registry", *flags)
    assert done.code == 2
    assert said in done.err


def test_without_ray_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return usual(name, *rest, **named)

    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    done = tunewise("serve", "--open", "--registry", tmp_path / "registry", "--replicas", "2")
    assert done.code == 2
    assert "pip install 'tunewise[ray]'" in done.err


def test_ray_is_loaded_where_it_is_asked_for_only() -> None:
    lines = (
        "import sys, tunewise, tunewise.cli.main, tunewise.cli.serve",
        "import tunewise.serve.replicas.driver, tunewise.serve.replicas.replica",
        "assert 'ray' not in sys.modules",
        "import os; assert not [name for name in os.environ if name.startswith('RAY_')]",
    )
    clean = {name: each for name, each in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, env=clean)
