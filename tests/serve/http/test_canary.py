"""A split alias over the wire: shares, sticky keys, and outcomes that take a bad version back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from scipy.stats import binom
from tests.serve.http.conftest import House

UNLIKELY = 1e-6


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    """A client of a tenant whose version 2 can be tried beside version 1."""
    house.publish("acme", "tickets", "acme two")
    with house.client() as made:
        back = {"version": "1", "reason": "the version in place"}
        assert made.post("/v1/adaptations/tickets/promote", json=back).status_code == 200
        yield made


def split(client: httpx.Client, share: float) -> None:
    body = {"version": "2", "share": share, "reason": "let us see"}
    answer = client.post("/v1/adaptations/tickets/promote", json=body)
    assert answer.status_code == 200, answer.text
    assert [each["number"] for each in answer.json()["targets"]] == [1, 2]


def ask(client: httpx.Client, *, sticky: str | None = None, **fields: Any) -> dict[str, Any]:
    headers = {} if sticky is None else {"x-tunewise-sticky": sticky}
    body = {"model": "acme/tickets", "prompt": "x", "max_tokens": 1, **fields}
    answer = client.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return {**content, "number": int(content["model"].partition("@")[2])}


def trial(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/adaptations/tickets").json()["trials"][0]
    return found


def within(count: int, of: int, share: float) -> bool:
    """Whether so many are what chance may give."""
    return bool(min(binom.cdf(count, of, share), binom.sf(count - 1, of, share)) > UNLIKELY)


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("keyed", [True, False])
def test_the_share_is_as_set(client: httpx.Client, share: float, keyed: bool) -> None:
    split(client, share)
    told = Counter(
        ask(client, sticky=f"user {number}" if keyed else None)["number"] for number in range(300)
    )
    assert set(told) == {1, 2}
    assert within(told[2], 300, share)


def test_a_key_sticks_wherever_it_stands_and_keeps_what_is_tried(client: httpx.Client) -> None:
    split(client, 0.3)
    first = {f"u{number}": ask(client, sticky=f"u{number}")["number"] for number in range(40)}
    for key, number in first.items():
        assert ask(client, user=key)["number"] == number
        # The header counts before the field.
        assert ask(client, sticky=key, user="u0")["number"] == number
        body = {"model": "acme/tickets", "messages": [{"role": "user", "content": "x"}]}
        answer = client.post("/v1/chat/completions", json={**body, "user": key})
        assert answer.headers["x-tunewise-version"] == f"acme/tickets@{number}"
    split(client, 0.6)
    after = {key: ask(client, sticky=key)["number"] for key in first}
    assert all(after[key] == 2 for key, number in first.items() if number == 2)
    assert list(after.values()).count(2) > list(first.values()).count(2)


def test_an_empty_key_is_none(client: httpx.Client) -> None:
    split(client, 0.5)
    for fields in ({"sticky": ""}, {"user": ""}):
        assert {ask(client, **fields)["number"] for _ in range(40)} == {1, 2}


@pytest.mark.parametrize("share", [0, -0.1, 1.1, "0.5", None])
def test_a_share_that_cannot_be_is_refused(client: httpx.Client, share: Any) -> None:
    body = {"version": "2", "share": share, "reason": "let us see"}
    assert client.post("/v1/adaptations/tickets/promote", json=body).status_code == 400


def test_nothing_can_be_tried_beside_itself_or_nothing(client: httpx.Client) -> None:
    for name, version in (("tickets", "1"), ("labels", "1")):
        body = {"version": version, "share": 0.5, "reason": "let us see"}
        answer = client.post(f"/v1/adaptations/{name}/promote", json=body)
        assert answer.status_code == 409, answer.text
    body = {"version": "2", "alias": "canary", "share": 0.5, "reason": "let us see"}
    assert client.post("/v1/adaptations/tickets/promote", json=body).status_code == 409


def live(client: httpx.Client, rates: dict[int, float], requests: int) -> int:
    """Requests of one user each, with an outcome each; how many until the alias was whole again."""
    draw = random.Random(0)
    for number in range(requests):
        answer = ask(client, sticky=f"user {number}")
        score = float(draw.random() < rates[answer["number"]])
        told = client.post("/v1/feedback", json={"id": answer["id"], "score": score})
        assert told.status_code == 200
        if number % 10 == 0 and trial(client)["ended_at"] is not None:
            return number
    return requests


def test_a_bad_version_is_taken_back_by_itself(client: httpx.Client, house: House) -> None:
    split(client, 0.3)
    assert live(client, {1: 0.9, 2: 0.4}, 500) < 500
    told = trial(client)
    assert (told["stable"], told["candidate"], told["verdict"]) == (1, 2, "worse")
    assert told["worse_evidence"] >= 1 / told["alpha"]
    assert told["difference"] < 0
    # At once, for everybody, those that had version 2 included.
    assert {ask(client, sticky=f"user {number}")["number"] for number in range(30)} == {1}
    aliases = client.get("/v1/adaptations/tickets").json()["aliases"]
    assert aliases["production"] == [{"number": 1, "share": 1.0}]
    entry = house.registry.audit_trail("acme/tickets")[-1]
    assert (entry.action, entry.actor) == ("automatic", "test")


@pytest.mark.parametrize("rate", [0.7, 0.9])
def test_a_version_that_is_not_worse_stays(client: httpx.Client, rate: float) -> None:
    split(client, 0.5)
    assert live(client, {1: 0.7, 2: rate}, 250) == 250
    told = trial(client)
    assert told["verdict"] in ("open", "better")
    assert told["ended_at"] is None
    assert told["pairs"] > 50
    assert {ask(client)["number"] for _ in range(40)} == {1, 2}


def test_one_user_decides_nothing(client: httpx.Client) -> None:
    split(client, 0.5)
    for _ in range(60):
        answer = ask(client, sticky="one")
        client.post("/v1/feedback", json={"id": answer["id"], "score": 0})
    assert trial(client)["pairs"] == 0
    assert {ask(client)["number"] for _ in range(40)} == {1, 2}


def test_outcomes_that_come_late_change_nothing(client: httpx.Client) -> None:
    split(client, 0.5)
    early = [ask(client, sticky=f"u{number}")["id"] for number in range(40)]
    client.post("/v1/adaptations/tickets/rollback", json={})
    for each in early:
        assert client.post("/v1/feedback", json={"id": each, "score": 0}).status_code == 200
    told = trial(client)
    assert (told["verdict"], told["pairs"]) == ("ended", 0)
