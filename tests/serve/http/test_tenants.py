"""A tenant cannot list, use, change, time or infer what another one has."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from tests.serve.http.conftest import Build, House

from tunewise.serve.http import models, service
from tunewise.serve.tenants import door
from tunewise.serve.tenants.records import Quota, Right

CHAT = {"messages": [{"role": "user", "content": "x"}]}
SEEN = ["/v1/models/beta/secret", "/v1/models/beta/secret@1", "/v1/models/beta/secret@production"]
UNSEEN = ["/v1/models/beta/nothing", "/v1/models/nobody/secret", "/v1/models/acme/nothing"]


def without_name(body: dict[str, Any], name: str) -> str:
    return str(body).replace(f"found: {name};", "found: NAME;")


def test_same_names_of_two_tenants_are_two_adaptations(house: House) -> None:
    for tenant in ("acme", "beta"):
        with house.client(tenant) as client:
            body = {"model": f"{tenant}/tickets", **CHAT}
            answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == f"[{tenant} one] x"


def test_anothers_adaptation_and_none_get_the_same_words(house: House) -> None:
    told = set()
    with house.client("acme") as client:
        for path in (*SEEN, *UNSEEN):
            answer = client.get(path)
            assert answer.status_code == 404
            told.add(without_name(answer.json(), path.removeprefix("/v1/models/")))
        for name in ("beta/secret", "beta/nothing", "acme/nothing", "nonsense", "a/b/c", "@"):
            for path, body in (
                ("/v1/chat/completions", CHAT),
                ("/v1/completions", {"prompt": "x"}),
                ("/v1/classify", {"input": "x"}),
                ("/v1/embeddings", {"input": "x"}),
            ):
                answer = client.post(path, json={"model": name, **body})
                assert answer.status_code == 404
                told.add(without_name(answer.json(), name))
    assert len(told) == 1


def test_anothers_reference_is_never_looked_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = house.shelf.choose

    def watched(tenant: str, name: str, version: str, key: str | None) -> Any:
        asked.append(tenant)
        return real(tenant, name, version, key)

    monkeypatch.setattr(house.shelf, "choose", watched)
    with house.client("acme") as client:
        for name in ("beta/secret", "beta/nothing", "acme/nothing", "beta/tickets"):
            assert client.get(f"/v1/models/{name}").status_code == 404
    # As many look-ups for each, all of them among the caller's own names.
    assert asked == ["acme"] * 4


# Another tenant's name that is there, and one of equal length that is not.
PAIRS = [
    ("beta/secret", "beta/absent"),
    ("beta/secret@1", "beta/absent@1"),
    ("beta/secret@production", "beta/absent@production"),
    ("beta/secret", "gone/secret"),
    ("beta/tickets", "gone/tickets"),  # a name that the caller has too
    ("beta/tickets@1", "gone/tickets@1"),
    ("beta/secret", "acme/absent"),
]
ASKING = [
    ("GET", "/v1/models/{}", None),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("POST", "/v1/completions", {"prompt": "x"}),
    ("POST", "/v1/classify", {"input": "x"}),
    ("POST", "/v1/embeddings", {"input": "x"}),
]


@pytest.fixture
def statements(house: House) -> Iterator[list[str]]:
    """What the registry's database is asked."""
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    engine = house.registry.database._engine
    sa.event.listen(engine, "before_cursor_execute", note)
    yield asked
    sa.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(("there", "absent"), PAIRS)
def test_what_is_anothers_and_what_is_not_there_are_one_answer_by_one_way(
    house: House, statements: list[str], there: str, absent: str
) -> None:
    with house.client("acme") as client:
        for method, path, body in ASKING:
            seen = []
            for name in (there, absent):
                statements.clear()
                sent = None if body is None else {"model": name, **body}
                answer = client.request(method, path.format(name), json=sent)
                own = {"x-request-id", "date"}  # of each answer, whatever was asked
                headers = {k: v for k, v in answer.headers.items() if k not in own}
                text = answer.text.replace(name, "NAME")
                seen.append((answer.status_code, headers, text, list(statements)))
            assert seen[0] == seen[1]
            assert seen[0][0] == 404
            assert seen[0][3]  # it was looked for, among the caller's own


def test_anothers_answer_and_none_are_one_to_feedback(house: House, statements: list[str]) -> None:
    with house.client("beta") as other:
        answer = other.post("/v1/completions", json={"model": "beta/secret", "prompt": "x"})
    there = answer.json()["id"]
    absent = there[:-8] + "0" * 8
    seen = []
    with house.client("acme") as client:
        for identity in (there, absent):
            statements.clear()
            answer = client.post("/v1/feedback", json={"id": identity, "score": 1})
            text = answer.text.replace(identity, "ID")
            seen.append((answer.status_code, text, list(statements)))
    assert seen[0] == seen[1]
    assert (seen[0][0], seen[0][2]) == (404, [])


def test_the_time_does_not_tell_what_is_there(house: House) -> None:
    principal = house.service.door.principal(house.keys["acme"])  # type: ignore[union-attr]  # kept
    times: dict[str, list[float]] = {"beta/secret": [], "beta/nothing": [], "acme/nothing": []}
    for _ in range(200):
        for name, seen in times.items():
            began = time.process_time()
            with pytest.raises(models.NotRegisteredError):
                models.choose(house.engine, house.shelf, principal, name, None)  # type: ignore[arg-type]  # as `Engine`
            seen.append(time.process_time() - began)
    middles = {name: statistics.median(seen) for name, seen in times.items()}
    assert max(middles.values()) < 1.5 * min(middles.values()), middles


def test_lists_hold_ones_own_only(house: House) -> None:
    with house.client("acme") as client:
        names = [each["id"] for each in client.get("/v1/models").json()["data"]]
        own = [each["name"] for each in client.get("/v1/adaptations").json()["data"]]
    assert names == ["tiny", "acme/labels", "acme/tickets"]
    assert own == ["labels", "tickets"]


def test_changes_reach_ones_own_only(house: House) -> None:
    with house.client("acme") as client:
        for change, body in (
            ("promote", {"version": "1"}),
            ("rollback", {}),
            ("retire", {"version": "1"}),
        ):
            path = f"/v1/adaptations/secret/{change}"
            assert client.post(path, json=body).status_code == 404
        assert client.get("/v1/adaptations/secret").status_code == 404
    assert house.registry.version("beta/secret@1").state == "ready"


RIGHTS = {
    Right.USE: ("POST", "/v1/chat/completions", {"model": "acme/tickets", **CHAT}),
    Right.PROMOTE: ("POST", "/v1/adaptations/tickets/rollback", {}),
    Right.PUBLISH: ("POST", "/v1/adaptations/tickets", {}),
    Right.ADMINISTER: ("GET", "/metrics", None),
}


@pytest.mark.parametrize("held", list(Right))
def test_a_key_may_do_what_it_has_the_right_for(house: House, held: Right) -> None:
    with house.client(key=house.key("acme", str(held))) as client:
        for right, (method, path, body) in RIGHTS.items():
            status = client.request(method, path, json=body).status_code
            assert (status != 403) == (right == held), (right, status)


def test_pages_are_of_what_a_key_may_see(house: House) -> None:
    for name in ("a", "b", "zoo"):
        house.publish("acme", name, f"acme {name}")
    key = house.key("acme", "use:labels", "promote:tickets", "use:nothing", "administer:@base")
    with house.client(key=key) as client:
        first = client.get("/v1/adaptations?limit=1").json()
        assert [each["name"] for each in first["data"]] == ["labels"]
        assert (first["has_more"], first["last"]) == (True, "labels")
        second = client.get("/v1/adaptations?limit=1&after=labels").json()
        assert [each["name"] for each in second["data"]] == ["tickets"]
        third = client.get("/v1/adaptations?limit=1&after=tickets").json()
        assert (third["data"], third["has_more"], third["last"]) == ([], False, "tickets")
        usable = client.get("/v1/models?limit=1").json()
        assert [each["id"] for each in usable["data"]] == ["acme/labels"]
    with house.client(key=house.key("acme", "use:@base")) as client:
        assert client.get("/v1/adaptations").json()["data"] == []


def test_a_right_on_one_adaptation_is_none_on_others(house: House) -> None:
    with house.client(key=house.key("acme", "use:labels")) as client:
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["acme/labels"]
        for name, status in (
            ("acme/labels", 200), ("acme/tickets", 403), ("acme/nothing", 403), ("tiny", 403),
            ("base", 403), ("beta/labels", 404),
        ):  # fmt: skip
            answer = client.post("/v1/chat/completions", json={"model": name, **CHAT})
            assert answer.status_code == status, name
        assert client.get("/v1/adaptations/tickets").status_code == 403
        assert client.get("/v1/adaptations/nothing").status_code == 403


def test_a_revoked_key_stops_within_a_second(house: House) -> None:
    key = house.key("acme", "use")
    with house.client(key=key) as client:
        assert client.get("/v1/models").status_code == 200
        house.store.revoke(key.split("_")[1])
        time.sleep(1.1)
        assert client.get("/v1/models").status_code == 401


def test_a_key_that_works_waits_for_no_wrong_ones(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house.client() as client:
        assert client.get("/v1/models").status_code == 200
        monkeypatch.setattr(door, "RECORD_SECONDS", 0.0)  # its record is read anew each time
        monkeypatch.setattr(house.service, "_hashes", service.MOST_HASHES)  # a flood
        assert client.get("/v1/models").status_code == 200
    with house.client(key=house.key("acme", "use")) as client:
        refused = client.get("/v1/models")
    assert refused.status_code == 429
    assert "retry-after" in refused.headers


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Basic abc", "Bearer tw_x", "bearer é", "Bearer " + "x" * 9000],
)
def test_without_a_key_nothing_is_told(house: House, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode()}
    with house.client() as client:
        del client.headers["authorization"]
        for path in ("/v1/models", "/metrics", "/v1/nothing", "/v1/models/beta/secret", "/x"):
            answer = client.get(path, headers=headers)  # type: ignore[arg-type]  # bytes are fine
            assert answer.status_code in (401, 429)
        for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 200
        # The page shows itself with what this server has, and with nothing from elsewhere.
        page = client.get("/docs").text
        files = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(files) == 3
        assert all(file.startswith("/docs/files/") for file in files)
        assert all(client.get(file).status_code == 200 for file in files)


def test_figures_are_ones_own_and_the_operators_are_all(house: House) -> None:
    for tenant in ("acme", "beta"):
        with house.client(tenant) as client:
            client.post("/v1/chat/completions", json={"model": f"{tenant}/tickets", **CHAT})
    with house.client("acme") as client:
        own = client.get("/metrics").text
    with house.client("operator") as client:
        whole = client.get("/metrics").text
    assert 'tenant="acme"' in own
    assert "beta" not in own
    assert "tunewise_engine" not in own
    assert 'tenant="beta"' in whole
    assert "tunewise_engine_slots 4.0" in whole
    line = 'tunewise_tokens_total{kind="completion",tenant="acme"} '
    assert float(own.split(line)[1].split("\n")[0]) == 3  # "[acme one] x" in pieces of four


def test_quotas_are_kept_and_told(build: Build, listen: Callable[[House], House]) -> None:
    house = listen(build())
    house.publish("acme", "tickets", "acme one")
    house.publish("beta", "tickets", "beta one")
    house.store.set_tenant("acme", Quota(requests_per_minute=3))
    with house.client("acme") as client, house.client("beta") as other:
        asked = {"model": "acme/tickets", **CHAT}
        answers = [client.post("/v1/chat/completions", json=asked) for _ in range(5)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
        body = {"model": "beta/tickets", **CHAT}
        assert other.post("/v1/chat/completions", json=body).status_code == 200


def test_tokens_are_counted_and_stored(build: Build, listen: Callable[[House], House]) -> None:
    house = listen(build())
    house.publish("acme", "tickets", "acme one")
    with house.client("acme") as client:
        answer = client.post("/v1/chat/completions", json={"model": "acme/tickets", **CHAT}).json()
        client.post("/v1/completions", json={"model": "tiny", "prompt": "ab", "max_tokens": 1})
    house.service.store_usage()
    stored = {key[1:]: used for key, used in house.store.usage().items()}
    used = stored["acme", "acme/tickets"]
    assert (used.requests, used.completion_tokens) == (1, answer["usage"]["completion_tokens"])
    assert used.prompt_tokens == answer["usage"]["prompt_tokens"]
    assert stored["acme", "@base"].tokens == 3


def test_who_has_no_tokens_left_cannot_even_have_something_loaded(
    build: Build, listen: Callable[[House], House]
) -> None:
    house = listen(build())
    house.publish("acme", "tickets", "acme one")
    house.store.set_tenant("acme", Quota(tokens_per_day=260))
    with house.client("acme") as client:
        body = {"model": "acme/tickets", "max_tokens": 200, **CHAT}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        statuses = [client.post("/v1/chat/completions", json=body).status_code for _ in range(4)]
        assert statuses[-1] == 429
        house.engine.kept.clear()
        before = house.engine.loads
        house.store.set_tenant("acme", Quota(tokens_per_day=1))
        time.sleep(1.1)
        assert client.post("/v1/chat/completions", json=body).status_code == 429
        assert house.engine.loads == before
