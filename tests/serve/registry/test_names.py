"""References have one meaning each, and everything else is refused."""

from __future__ import annotations

import pytest

from tunewise.errors import ConfigError
from tunewise.serve.registry.names import Name, Reference, parse_alias, parse_name, parse_reference

ACME = Name("acme", "tickets")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("acme/tickets", Reference(ACME, alias="production")),
        ("acme/tickets@3", Reference(ACME, number=3)),
        ("acme/tickets@canary", Reference(ACME, alias="canary")),
        ("acme/tickets@deadbeef", Reference(ACME, digest="deadbeef")),
        ("acme/tickets@12345678", Reference(ACME, digest="12345678")),
        ("acme/tickets@" + "0" * 64, Reference(ACME, digest="0" * 64)),
        ("acme/tickets@dead", Reference(ACME, alias="dead")),
        ("a/b", Reference(Name("a", "b"), alias="production")),
        ("a.b-c_d/e.f", Reference(Name("a.b-c_d", "e.f"), alias="production")),
    ],
)
def test_a_reference_has_one_meaning(text: str, meant: Reference) -> None:
    assert parse_reference(text) == meant
    assert parse_reference(str(meant)) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tickets",
        "/tickets",
        "acme/",
        "acme/tickets/x",
        "Acme/tickets",
        "acme/tick ets",
        "../tickets",
        "acme/..",
        "./x",
        "acme/.hidden",
        "acme/-x",
        "acme/x-",
        "acme/" + "x" * 65,
        "acme/tïckets",
        "acme/x\n",
        "acme\0/x",
        "acme\\x/y",
        "acme/tickets@",
        "acme/tickets@0",
        "acme/tickets@01",
        "acme/tickets@-1",
        "acme/tickets@1.0",
        "acme/tickets@٣",
        "acme/tickets@Production",
        "acme/tickets@a@b",
        "acme/tickets@a/b",
        "acme/tickets@ ",
        "acme/tickets@" + "0" * 65,
        "acme/tickets@" + "a" * 300,
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reference(text)
    assert caught.value.expected


@pytest.mark.parametrize("text", ["acme/tickets@3", "acme", "a/b@production"])
def test_a_name_has_no_version(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_name(text)


@pytest.mark.parametrize("text", ["", "3", "deadbeef", "A", "x y", "-x", "x" * 65, "0x"])
def test_an_alias_never_looks_like_anything_else(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_alias(text)


def test_every_alias_is_read_back_as_one() -> None:
    for alias in ("production", "canary", "a", "dead", "x-1_y"):
        assert parse_reference(f"acme/tickets@{parse_alias(alias)}").alias == alias
