"""The real command with a tiny real model: served as predicted, told to leave, killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2 as httpx
import pytest
import torch
from tests.conftest import build_model, build_tokenizer
from tests.serve.http.test_changes import zipped

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import Part, PromptTextPart, VirtualTokensPart
from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.readout import Answer
from tunewise.adaptation.store import save
from tunewise.model.base import Base, load_base
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.registry import Registry
from tunewise.serve.tenants.records import parse_grant
from tunewise.serve.tenants.store import TenantStore
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import Kind, TaskSpec

INPUTS = [f"input {number}" for number in range(6)]
STARTUP_SECONDS = 240


@dataclass(frozen=True)
class Ground:
    """A base on disk, a registry with two adaptations, a key, and what `predict` answers."""

    base: Path
    registry: Path
    key: str
    made: dict[str, Adaptation]
    answers: dict[str, list[Answer]]


def adaptations(base: Base) -> dict[str, Adaptation]:
    made = Provenance("toy", {}, 0, base.name, base.fingerprint, "float32", "d" * 64, {}, {})
    labels = TaskSpec("t", Kind.CLASSIFICATION, "Good?", ("bad", "good", "so so"), "accuracy")
    free = TaskSpec("t", Kind.GENERATION, "Go on.", (), "rouge_l")
    draw = torch.Generator().manual_seed(0)
    virtual = VirtualTokensPart(torch.randn(5, base.width, generator=draw))
    shown = PromptTextPart(PromptText("Good?", (Demonstration("a", "bad"),)))

    def adaptation(spec: TaskSpec, decoding: Decoding, *parts: Part) -> Adaptation:
        return Adaptation(parts, decoding, spec, made)

    return {
        "labels": adaptation(labels, Decoding("score", True, (0.0, 0.1, 0.2)), shown),
        "virtual": adaptation(free, Decoding("free", max_new_tokens=12), virtual),
    }


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    model = build_model("llama")
    with torch.no_grad():  # else a random model answers everything alike
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder / "base")
    build_tokenizer().save_pretrained(folder / "base")
    base = load_base(str(folder / "base"), dtype="float32")
    made, answers = adaptations(base), {}
    registry = Registry.open(str(folder / "registry"))
    for name, each in made.items():
        save(each, folder / name)
        registry.add(folder / name, Registration(Name("acme", name), "test"))
        registry.promote(f"acme/{name}@1", "test", Promotion(reason="a test"))
        with predictor_for(base, each) as predictor:
            answers[name] = predictor.answers(INPUTS)
    registry.close()
    store = TenantStore(str(folder / "registry" / "keys.db"))
    store.set_tenant("acme")
    rights = [parse_grant(each) for each in ("use", "publish", "promote")]
    _, key = store.make_key("acme", rights)
    store.close()
    return Ground(folder / "base", folder / "registry", key.text, made, answers)


@contextmanager
def serving(ground: Ground, *flags: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The command, until it is ready; killed at the end if it is still there."""
    command = [
        sys.executable, "-m", "tunewise", "serve", "--base", str(ground.base), "--dtype",
        "float32", "--registry", str(ground.registry), "--port", "0", *flags,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    ports: list[int] = []

    def read() -> None:
        ports.extend(
            int(json.loads(line)["message"].split("127.0.0.1:")[1].split()[0])
            for line in process.stderr or ()
            if "running on" in line
        )

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        until(lambda: bool(ports) or process.poll() is not None, STARTUP_SECONDS)
        assert ports, f"it ended with {process.poll()}"
        headers = {"authorization": f"Bearer {ground.key}"}
        url = f"http://127.0.0.1:{ports[0]}"
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)
        reader.join(5)


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def ask(client: httpx.Client, name: str, index: int) -> str:
    body = {"model": f"acme/{name}", "messages": [{"role": "user", "content": INPUTS[index]}]}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def check_answers(ground: Ground, client: httpx.Client) -> None:
    """All at once, of both adaptations in one batch: what `predict` answers."""
    jobs = [(name, index) for index in range(len(INPUTS)) for name in ground.made]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: ask(client, *job), jobs))
    assert found == [ground.answers[name][index].text for name, index in jobs]


def test_served_as_predicted_and_left_in_order(ground: Ground) -> None:
    with serving(ground, "--grace-seconds", "12") as (process, client):
        check_answers(ground, client)
        body = {"model": "acme/labels", "input": INPUTS}
        classes = client.post("/v1/classify", json=body).json()["data"]
        for each, answer in zip(classes, ground.answers["labels"], strict=True):
            assert each["label"] == answer.text
            assert each["probability"] == pytest.approx(answer.probability, rel=1e-3)
            assert sum(one["probability"] for one in each["labels"]) == pytest.approx(1.0)
        # A long answer runs while the signal comes, and ends as if it had not come.
        long = {"model": "base", "prompt": "abc", "max_tokens": 300, "stream": True}
        with client.stream("POST", "/v1/completions", json=long) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert client.get("/readyz").status_code == 503
            assert ask(client, "labels", 0) == ground.answers["labels"][0].text
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(60) == 0
    store = TenantStore(str(ground.registry / "keys.db"))
    used = {place[2]: used for place, used in store.usage(tenant="acme").items()}
    assert used["acme/labels"].requests >= len(INPUTS) + 2
    assert used["@base"].completion_tokens > 0


def test_killed_at_any_moment_nothing_is_half_published(ground: Ground, tmp_path: Path) -> None:
    made = ground.made["labels"]

    def upload(number: int) -> bytes:
        part = PromptTextPart(PromptText(f"Good or bad, {number}?"))
        save(replace(made, parts=(part,)), tmp_path / str(number))
        place = tmp_path / str(number)
        return zipped({p.name: p.read_bytes() for p in place.iterdir() if p.is_file()})

    told: list[int] = []
    moments = random.Random(0)
    for life in range(3):
        with serving(ground, "--no-probes") as (process, client):
            for number in told:
                assert client.get(f"/v1/models/acme/uploaded@{number}").status_code == 200
            check_answers(ground, client)

            def publish(client: httpx.Client = client, life: int = life) -> None:
                for number in range(1000):
                    try:
                        answer = client.post(
                            "/v1/adaptations/uploaded", content=upload(1000 * life + number)
                        )
                    except httpx.HTTPError:
                        return
                    assert answer.is_success, answer.text
                    told.append(answer.json()["number"])
                    asked = {"version": str(told[-1]), "reason": "the newest"}
                    try:
                        moved = client.post("/v1/adaptations/uploaded/promote", json=asked)
                    except httpx.HTTPError:
                        return
                    assert moved.is_success, moved.text

            busy = threading.Thread(target=publish)
            busy.start()
            before = len(told)
            until(lambda before=before: len(told) > before + 2, 30)  # type: ignore[misc]  # bound
            time.sleep(moments.uniform(0.0, 0.1))
            process.kill()
            process.wait(20)
            busy.join(20)
    registry = Registry.open(str(ground.registry))
    versions = registry.versions("acme/uploaded")
    # All that was told is there and whole; what was not told is whole or not there.
    assert set(told) <= {each.number for each in versions}
    from tunewise.adaptation.store import load

    for each in versions:
        load(registry.folder(each))
    # Aliases lead to what is there, and the audit trail is whole.
    assert registry.verify().faults == ()


def test_a_server_without_its_keys_or_registry_says_so(tmp_path: Path, ground: Ground) -> None:
    from tests.cli.terminal import tunewise

    for flags in (
        ("--host", "0.0.0.0", "--open"),
        ("--base", "no-such-model"),
        ("--keys", "nothing://x"),
        ("--registry", ""),
        ("--port", "x"),
        ("--slots", "0"),
        ("--cache-mib", "-1"),
        ("--request-seconds", "0"),
        ("--body-mib", "0"),
        ("--dtype", "int3"),
    ):
        given = ("--base", ground.base, "--registry", tmp_path / "registry", *flags)
        done = tunewise("serve", *given)
        assert done.code == 2, (flags, done)
        assert done.err.startswith("tunewise: ")
