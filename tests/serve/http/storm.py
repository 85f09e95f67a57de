"""Requests at random, many at once, while everything under them changes; every answer is judged."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx2 as httpx
from tests.serve.http.conftest import House

Judge = Callable[[str, str, int, int, str], None]


@dataclass
class Storm:
    """See the module.

    Attributes:
        house: the server.
        names: of adaptations; both tenants have all of them.
        text: the input of the request of a number.
        judge: told tenant, name, version, number of the request and answer; raises where it is not
            the version's own answer to that input.
        disturb: one change at random.
        labelled: names that /v1/classify may be asked for.
        refused: addresses and statuses of what was refused.
    """

    house: House
    names: Sequence[str]
    text: Callable[[int], str]
    judge: Judge
    disturb: Callable[[], None]
    labelled: Sequence[str] = ()
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def run(self, requests: int, at_once: int) -> Counter[str]:
        """How many requests came to which end."""
        told: Counter[str] = Counter()

        async def run() -> None:
            numbers = iter(range(requests))
            ended = asyncio.Event()

            async def worker(client: httpx.AsyncClient) -> None:
                for number in numbers:
                    told[await self._ask(client, number)] += 1

            async def changes() -> None:
                while not ended.is_set():
                    await asyncio.to_thread(self.disturb)
                    await asyncio.sleep(0.01)

            limits = httpx.Limits(max_connections=at_once)
            url = self.house.url
            async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
                changing = asyncio.create_task(changes())
                await asyncio.gather(*(worker(client) for _ in range(at_once)))
                ended.set()
                await changing

        asyncio.run(run())
        return told

    async def _ask(self, client: httpx.AsyncClient, number: int) -> str:
        draw = self.draw
        tenant, name = draw.choice(("acme", "beta")), draw.choice(self.names)
        wanted = draw.choice(("", "", "@production", f"@{draw.randint(1, 9)}"))
        headers = {"authorization": f"Bearer {self.house.keys[tenant]}"}
        stream = draw.random() < 0.3
        path, body = "/v1/completions", {"model": f"{tenant}/{name}{wanted}"}
        if name in self.labelled and draw.random() < 0.3:
            path, stream = "/v1/classify", False
            body |= {"input": self.text(number)}
        else:
            body |= {"prompt": self.text(number), "stream": stream}
        if draw.random() < 0.05:
            # Who goes away in the middle harms nobody else.
            try:
                await asyncio.wait_for(
                    client.post(path, json=body, headers=headers), draw.random() * 0.02
                )
            except (TimeoutError, httpx.HTTPError):
                return "gone"
        answer = await client.post(path, json=body, headers=headers)
        if answer.status_code in (404, 409):
            # Only a number may be unknown or retired; what is in production always answers.
            assert wanted not in ("", "@production"), (body, answer.text)
            return "not there"
        assert answer.status_code == 200, (body, answer.text)
        text, label = _read(answer, stream)
        place, _, version = label.partition("@")
        # Its own tenant's adaptation, of the version that was asked for, where one was.
        assert place == f"{tenant}/{name}"
        assert not wanted[1:].isdigit() or version == wanted[1:]
        self.judge(tenant, name, int(version), number, text)
        return "answered"


def _read(answer: httpx.Response, stream: bool) -> tuple[str, str]:
    """Text and version of an answer."""
    if not stream:
        content = answer.json()
        if "choices" in content:
            return content["choices"][0]["text"], content["model"]
        return content["data"][0]["label"], content["model"]
    lines = answer.text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    parts = [httpx.Response(200, content=line[6:]).json() for line in lines[:-2]]
    return "".join(each["choices"][0]["text"] for each in parts), parts[0]["model"]
