"""Two thousand requests while everything under them changes at random."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable

from tests.serve.http.conftest import Build, House
from tests.serve.http.storm import Storm

from tunewise.errors import TunewiseError

REQUESTS, AT_ONCE, NAMES = 2000, 24, ("a", "b", "c")
ANSWER = re.compile(r"\[(\w+)/(\w+) edition (\d+)\] (.*)")


def edition(house: House, tenant: str, name: str, number: int) -> None:
    made = house.publish(tenant, name, f"{tenant}/{name} edition {number}")
    assert made == number


def disturb(house: House, draw: random.Random, editions: Counter[tuple[str, str]]) -> None:
    """One change of the registry, or of the engine's memory."""
    tenant, name = draw.choice(("acme", "beta")), draw.choice(NAMES)
    change = draw.choice(("publish", "rollback", "retire", "promote", "evict", "drop"))
    if change == "publish":
        editions[tenant, name] += 1
        edition(house, tenant, name, editions[tenant, name])
    elif change == "evict":
        with house.engine.lock:
            house.engine.kept.clear()
    elif change == "drop":
        for place in list(house.engine.kept):
            house.engine.drop(*place)
    else:
        number = str(draw.randint(1, editions[tenant, name]))
        try:
            if change == "rollback":
                house.shelf.rollback(tenant, name, alias="production", actor="chaos")
            elif change == "retire":
                house.shelf.retire(tenant, name, number, actor="chaos")
            else:
                house.shelf.promote(
                    tenant, name, number, alias="production", actor="chaos", reason="chaos"
                )
        except TunewiseError:
            return  # what is in place cannot be retired, and so on


def judge(tenant: str, name: str, version: int, number: int, text: str) -> None:
    found = ANSWER.fullmatch(text)
    assert found, text
    assert found.groups() == (tenant, name, str(version), f"row {number}")


def test_nothing_goes_wrong_while_everything_changes(
    build: Build, listen: Callable[[House], House]
) -> None:
    house = listen(build(resident=3, slots=8))
    draw, editions = random.Random(0), Counter[tuple[str, str]]()
    for tenant in ("acme", "beta"):
        for name in NAMES:
            editions[tenant, name] = 1
            edition(house, tenant, name, 1)
    storm = Storm(house, NAMES, lambda n: f"row {n}", judge, lambda: disturb(house, draw, editions))
    told = storm.run(REQUESTS, AT_ONCE)
    # What was published last is what is answered now, under every name.
    for tenant, name in editions:
        number = editions[tenant, name] + 1
        edition(house, tenant, name, number)
        with house.client(tenant) as client:
            body = {"model": f"{tenant}/{name}", "prompt": "last"}
            answer = client.post("/v1/completions", json=body).json()
        assert answer["choices"][0]["text"] == f"[{tenant}/{name} edition {number}] last"
    assert told.total() == REQUESTS
    assert told["answered"] > REQUESTS * 0.7
    assert sum(editions.values()) > 10
    assert house.engine.evictions > 0
    service = house.service
    assert (service.turnstile.working, service.turnstile.waiting) == (0, 0)
    assert service.limiter.streams() == {}
