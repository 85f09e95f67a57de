"""The same storm over the embedded engine: every kind of part, and room for a few in memory.

What is answered is held against what `predict` answers for the version that the answer names.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2 as httpx
from tests.serve.engine.planted import KINDS, planted, tiny
from tests.serve.http.conftest import Build, House
from tests.serve.http.storm import Storm

from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.store import fingerprint_of, save
from tunewise.errors import TunewiseError
from tunewise.model.base import Base
from tunewise.serve.engine.engine import EmbeddedEngine, EngineSettings
from tunewise.serve.http.registry_shelf import RegistryShelf
from tunewise.serve.http.service import Service
from tunewise.serve.http.settings import Settings

REQUESTS, AT_ONCE, EDITIONS = 2000, 16, 5
TENANTS = ("acme", "beta")
# What stands under a name keeps its kind of part, so both tenants have equal names for all kinds.
MODES = dict(zip(KINDS, ("json", "free", "json", "free", "score", "trie"), strict=True))
TEXTS = ("a", "bc de", "fgh " * 9, "Xk!mla", "e?Z gh pon")
Place = tuple[str, str, int]


@dataclass
class Library:
    """Every version that will ever be published, and what `predict` answers for it.

    Attributes:
        folders: where each lies, by tenant, name and number.
        digests: their content hashes.
        answers: one for each of the texts.
        known: how many versions of each name are published.
    """

    folders: dict[Place, Path] = field(default_factory=dict)
    digests: dict[Place, str] = field(default_factory=dict)
    answers: dict[Place, list[str]] = field(default_factory=dict)
    known: Counter[tuple[str, str]] = field(default_factory=Counter)

    def write(self, base: Base, folder: Path, editions: int = EDITIONS) -> None:
        """Make all of it; before an engine has the base."""
        seed = 0
        for number in range(1, editions + 1):
            for tenant in TENANTS:
                for kind in KINDS:
                    place, seed = (tenant, kind, number), seed + 1
                    adaptation = planted(base, kind, seed, MODES[kind])
                    with predictor_for(base, adaptation) as predictor:
                        self.answers[place] = [each.text for each in predictor.answers(TEXTS)]
                    self.digests[place] = fingerprint_of(adaptation)
                    self.folders[place] = folder / str(seed)
                    save(adaptation, self.folders[place])

    def publish(self, house: House, tenant: str, name: str) -> None:
        """The next version of a name, at once in production."""
        self.known[tenant, name] += 1
        number = self.known[tenant, name]
        folder = self.folders[tenant, name, number]
        made = house.shelf.publish(tenant, name, folder, actor="chaos", notes="")
        assert (made.number, made.digest) == (number, self.digests[tenant, name, number])
        self.promote(house, tenant, name, number)

    def promote(self, house: House, tenant: str, name: str, number: int) -> None:
        house.shelf.promote(
            tenant, name, str(number), alias="production", actor="chaos", reason="chaos"
        )

    def disturb(self, house: House, draw: random.Random) -> None:
        """One change of the registry, or of the engine's memory."""
        tenant, name = draw.choice(TENANTS), draw.choice(KINDS)
        known = self.known[tenant, name]
        number = draw.randint(1, known)
        change = draw.choice(("publish", "rollback", "retire", "promote", "drop", "drop"))
        if change == "drop":
            house.engine.drop(tenant, self.digests[tenant, name, number])
            return
        # The last edition waits for the end.
        if change == "publish" and known < EDITIONS - 1:
            self.publish(house, tenant, name)
            return
        try:
            if change == "retire":
                house.shelf.retire(tenant, name, str(number), actor="chaos")
            elif change == "rollback":
                house.shelf.rollback(tenant, name, alias="production", actor="chaos")
            else:
                self.promote(house, tenant, name, number)
        except TunewiseError:
            return  # what is in place cannot be retired, and so on


def real(build: Build, base: Base, budget_bytes: int) -> House:
    """A house whose engine is the embedded one."""
    made = build()
    engine = EmbeddedEngine(base, EngineSettings(slots=5, budget_bytes=budget_bytes))
    shelf = RegistryShelf(made.registry, base_fingerprint=base.fingerprint, holder="test")
    service = Service(engine, shelf, made.store, Settings())
    return replace(made, engine=engine, shelf=shelf, service=service)  # type: ignore[arg-type]  # as `Engine`


def test_nobody_gets_anothers_answer_while_everything_changes(
    build: Build, listen: Callable[[House], House], tmp_path: Path
) -> None:
    base, library, draw = tiny(), Library(), random.Random(1)
    library.write(base, tmp_path / "library")
    for kind in KINDS:
        # Else a wrong version's answer could not be told from the right one's.
        told_apart = {tuple(a) for (_, name, _), a in library.answers.items() if name == kind}
        few = MODES[kind] in ("score", "trie") or kind == "prompt_text"
        assert len(told_apart) > (2 if few else EDITIONS)
    # Room for some four adaptations, and five requests that run at once.
    house = listen(real(build, base, 400_000))
    for tenant in TENANTS:
        for kind in KINDS:
            library.publish(house, tenant, kind)

    def judge(tenant: str, name: str, version: int, number: int, text: str) -> None:
        assert text == library.answers[tenant, name, version][number % len(TEXTS)]

    storm = Storm(
        house,
        KINDS,
        lambda number: TEXTS[number % len(TEXTS)],
        judge,
        lambda: library.disturb(house, draw),
        # Through a trie the answer need not be the label that is likeliest as a whole.
        labelled=[kind for kind, mode in MODES.items() if mode == "score"],
    )
    told = storm.run(REQUESTS, AT_ONCE)
    assert told.total() == REQUESTS
    assert told["answered"] > REQUESTS * 0.7
    # A version that is published under the same name is what is answered from then on.
    for tenant in TENANTS:
        for kind in KINDS:
            while library.known[tenant, kind] < EDITIONS:
                library.publish(house, tenant, kind)
            with house.client(tenant) as client:
                body = {"model": f"{tenant}/{kind}", "prompt": TEXTS[1]}
                answer = client.post("/v1/completions", json=body).json()
            assert answer["model"] == f"{tenant}/{kind}@{EDITIONS}"
            assert answer["choices"][0]["text"] == library.answers[tenant, kind, EDITIONS][1]
    stats, service = house.engine.stats(), house.service
    assert stats.evictions > 200
    assert stats.resident_bytes <= stats.budget_bytes
    assert (stats.running, stats.waiting) == (0, 0)
    assert (service.turnstile.working, service.turnstile.waiting) == (0, 0)
    assert (service.room.working, service.room.waiting) == (0, 0)
    assert service.limiter.streams() == {}


def test_who_finds_no_room_in_memory_waits_for_it(
    build: Build, listen: Callable[[House], House], tmp_path: Path
) -> None:
    base, library = tiny(), Library()
    library.write(base, tmp_path / "library", editions=1)
    made = real(build, base, 10**9)
    sizes = {}
    for tenant in TENANTS:
        library.publish(made, tenant, "weights")
        held = made.shelf.hold(made.shelf.choose(tenant, "weights", "1", None))
        digest = library.digests[tenant, "weights", 1]
        sizes[tenant] = made.engine.ready(tenant, digest, held.load).bytes
        held.release()
    made.engine.close()
    # Room for either, and never for both.
    small = EngineSettings(slots=5, budget_bytes=max(sizes.values()))
    made.service.engine = engine = EmbeddedEngine(base, small)
    house = listen(made)

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=house.url, timeout=60) as client:
            return await asyncio.gather(*(
                client.post(
                    "/v1/completions",
                    json={"model": f"{tenant}/weights", "prompt": TEXTS[number % 5]},
                    headers={"authorization": f"Bearer {house.keys[tenant]}"},
                )
                for number in range(20)
                for tenant in TENANTS
            ))  # fmt: skip

    answers = asyncio.run(run())
    assert [each.status_code for each in answers] == [200] * 40
    for number, each in enumerate(answers):
        wanted = library.answers[TENANTS[number % 2], "weights", 1][number // 2 % 5]
        assert each.json()["choices"][0]["text"] == wanted
    assert engine.stats().evictions > 0
    assert engine.stats().resident == 1
    # Nobody is loaded again and again while there is no room.
    assert engine.stats().misses < 60
    engine.close()
