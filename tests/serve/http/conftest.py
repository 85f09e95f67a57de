"""A server with two tenants over a real registry and an engine that repeats what it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2 as httpx
import pytest
import uvicorn
from tests.conftest import build_tokenizer
from tests.serve.http.stand_ins import FINGERPRINT, StandInEngine

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.store import save
from tunewise.serve.http.registry_shelf import RegistryShelf
from tunewise.serve.http.server import configuration
from tunewise.serve.http.service import Service
from tunewise.serve.http.settings import Settings
from tunewise.serve.registry.registry import Registry
from tunewise.serve.tenants.records import Quota, parse_grant
from tunewise.serve.tenants.store import TenantStore
from tunewise.task.prompt import PromptText
from tunewise.task.types import Kind, TaskSpec

ALL = ("use", "publish", "promote", "administer")
MADE = Provenance("toy", {}, 0, "tiny", FINGERPRINT, "float32", "d" * 64, {}, {})


def adaptation(instruction: str, *, labels: tuple[str, ...] = ()) -> Adaptation:
    """An adaptation that is an instruction."""
    kind = Kind.CLASSIFICATION if labels else Kind.GENERATION
    metric = "accuracy" if labels else "rouge_l"
    spec = TaskSpec("task", kind, instruction, labels, metric)
    part = PromptTextPart(PromptText(instruction))
    decoding = Decoding("score" if labels else "free", max_new_tokens=200)
    return Adaptation((part,), decoding, spec, MADE)


@dataclass
class House:
    """Everything of one server.

    Attributes:
        url: where it listens, once it does.
        keys: of each tenant, with all rights.
    """

    folder: Path
    engine: StandInEngine
    shelf: RegistryShelf
    registry: Registry
    store: TenantStore
    service: Service
    keys: dict[str, str]
    url: str = ""

    def key(self, tenant: str, *grants: str) -> str:
        """A further key."""
        return self.store.make_key(tenant, [parse_grant(each) for each in grants])[1].text

    def publish(self, tenant: str, name: str, instruction: str, *labels: str) -> int:
        """Register an adaptation and put it in production."""
        folder = self.folder / "made" / f"{tenant}-{name}-{abs(hash(instruction))}"
        save(adaptation(instruction, labels=labels), folder)
        made = self.shelf.publish(tenant, name, folder, actor="test", notes="")
        self.shelf.promote(
            tenant, name, str(made.number), alias="production", actor="test", reason="a test"
        )
        return made.number

    def client(self, tenant: str = "acme", key: str | None = None) -> httpx.Client:
        """A plain client with a tenant's key."""
        token = self.keys[tenant] if key is None else key
        headers = {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)


Build = Callable[..., House]


@pytest.fixture(scope="session")
def tokenizer() -> object:
    return build_tokenizer()


@pytest.fixture
def build(tmp_path: Path, tokenizer: object) -> Build:
    """Make a house that does not listen."""
    made: list[House] = []

    def make(settings: Settings | None = None, **engine: float) -> House:
        folder = tmp_path / f"house{len(made)}"
        store = TenantStore(str(folder / "keys.sqlite"))
        keys = {}
        for tenant in ("acme", "beta", "operator"):
            store.set_tenant(tenant, Quota())
            keys[tenant] = store.make_key(tenant, [parse_grant(each) for each in ALL])[1].text
        registry = Registry.open(str(folder / "registry"))
        shelf = RegistryShelf(registry, base_fingerprint=FINGERPRINT, holder="test")
        stand_in = StandInEngine(tokenizer, **engine)  # type: ignore[arg-type]  # numbers of it
        used = Settings() if settings is None else settings
        service = Service(stand_in, shelf, store, used)  # type: ignore[arg-type]  # as `Engine`
        house = House(folder, stand_in, shelf, registry, store, service, keys)
        made.append(house)
        return house

    return make


@pytest.fixture
def listen() -> Iterator[Callable[[House], House]]:
    """Let a house listen on a free port of the loopback."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(house: House) -> House:
        server = uvicorn.Server(configuration(house.service, host="127.0.0.1", port=0))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        until = time.monotonic() + 60
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return replace(house, url=f"http://127.0.0.1:{port}")

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def house(build: Build, listen: Callable[[House], House]) -> House:
    """A server with two tenants, who both have an adaptation called tickets."""
    made = listen(build())
    made.publish("acme", "tickets", "acme one")
    made.publish("beta", "tickets", "beta one")
    made.publish("beta", "secret", "beta secret")
    made.publish("acme", "labels", "acme labels", "bad", "good")
    return made
