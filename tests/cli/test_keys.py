"""keys: tenants, keys, limits, usage on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.terminal import Done, tunewise

from tunewise.serve.tenants.door import Door
from tunewise.serve.tenants.records import Quota
from tunewise.serve.tenants.store import TenantStore, Usage


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def keys(place: Path, *arguments: object) -> Done:
    return tunewise("keys", *arguments, "--registry", place)


def test_a_key_is_shown_once_and_opens_the_door(place: Path) -> None:
    assert keys(place, "tenant", "acme").code == 0
    done = keys(place, "create", "acme", "--right", "use", "--right", "promote:tickets")
    assert done.code == 0
    key = done.out.strip()
    assert key not in done.err
    store = TenantStore(str(place / "keys.db"))
    holder = Door(store).principal(key)
    assert sorted(map(str, holder.grants)) == ["promote:tickets", "use:*"]
    shown = keys(place, "list", "acme")
    assert key.split("_")[1] in shown.out
    assert key.split("_", 2)[2] not in shown.out
    assert keys(place, "revoke", key.split("_")[1]).code == 0
    assert keys(place, "list", "--json").json[0]["state"] == "revoked"


def test_limits_that_are_not_given_stay(place: Path) -> None:
    keys(place, "tenant", "acme", "--requests-per-minute", 60, "--streams", 4)
    done = keys(place, "tenant", "acme", "--streams", 0, "--weight", 2, "--json")
    assert done.json == {
        "tenant": "acme",
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "tokens_per_day": None,
        "streams": None,
        "weight": 2.0,
    }
    store = TenantStore(str(place / "keys.db"))
    assert store.tenants() == {"acme": Quota(requests_per_minute=60, weight=2.0)}


def test_usage_is_listed(place: Path) -> None:
    keys(place, "tenant", "acme")
    store = TenantStore(str(place / "keys.db"))
    store.add_usage({("2026-01-02", "acme", "acme/tickets"): Usage(3, 20, 10)})
    (line,) = keys(place, "usage", "acme", "--day", "2026-01-02", "--json").json
    assert (line["requests"], line["prompt_tokens"], line["completion_tokens"]) == (3, 20, 10)
    assert "acme/tickets" in keys(place, "usage").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenant", "A B"),
        ("tenant", ""),
        ("tenant", "acme", "--streams", -1),
        ("tenant", "acme", "--weight", 0),
        ("tenant", "acme", "--weight", "nan"),
        ("tenant", "acme", "--weight", "x"),
        ("create", "nobody", "--right", "use"),
        ("create", "known", "--right", "fly"),
        ("create", "known", "--right", "use:../x"),
        ("create", "known"),
        ("create", "known", "--right", "use", "--expires", "soon"),
        ("create", "known", "--right", "use", "--expires", "0d"),
        ("create", "known", "--right", "use", "--label", "x" * 300),
        ("list", "nobody"),
        ("revoke", "nothing"),
        ("revoke",),
        ("nothing",),
        ("list", "--keys", ""),
        ("list", "--keys", "nothing://x"),
    ],
)
def test_what_is_wrong_is_told(place: Path, arguments: tuple[object, ...]) -> None:
    keys(place, "tenant", "known")
    done = keys(place, *arguments)
    assert done.code == 2
    assert done.err.startswith("tunewise: ")
    assert not done.out
