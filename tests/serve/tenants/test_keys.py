"""Keys: what they look like, what is stored of them, who they open the door for."""

from __future__ import annotations

import hashlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tunewise.errors import (
    AccessError,
    ConfigError,
    QuotaError,
    StorageError,
    TunewiseError,
    UnavailableError,
    UnknownNameError,
)
from tunewise.serve.tenants.door import FAILURES, RECORD_SECONDS, Door
from tunewise.serve.tenants.keys import hash_secret, new_key, secret_fits, split_key
from tunewise.serve.tenants.records import Grant, Principal, Quota, Right, parse_grant
from tunewise.serve.tenants.store import TenantStore, Usage

USE = frozenset({Grant(Right.USE)})


class Clock:
    """A clock that goes when told to."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> TenantStore:
    made = TenantStore(str(tmp_path / "keys.sqlite"), clock=clock)
    made.set_tenant("acme")
    made.set_tenant("beta", Quota(requests_per_minute=5, weight=2.0))
    return made


def test_the_hash_is_scrypt_as_the_standard_has_it() -> None:
    # RFC 7914, section 12, second vector, through our reader of stored hashes.
    expected = (
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )
    theirs = hashlib.scrypt(b"password", salt=b"NaCl", n=1024, r=8, p=16, dklen=64)
    assert theirs.hex() == expected
    # The first 32 bytes are those of a hash of 32 bytes: PBKDF2 makes it block by block.
    stored = f"scrypt$1024$8$16${b'NaCl'.hex()}${expected[:64]}"
    assert secret_fits("password", stored)
    assert not secret_fits("Password", stored)


def test_a_secret_is_stored_as_a_salted_hash_only() -> None:
    made = new_key()
    parts = split_key(made.text)
    assert parts is not None
    key_id, secret = parts
    assert key_id == made.id
    assert secret not in made.hashed
    assert secret not in repr(made)
    assert hash_secret(secret) != made.hashed
    assert secret_fits(secret, made.hashed)
    assert secret_fits(secret, hash_secret(secret))
    assert not secret_fits(secret[:-1] + ("A" if secret[-1] != "A" else "B"), made.hashed)


@pytest.mark.parametrize(
    "text",
    ["", "tw_", "tw__", "sk-123", "tw_0123456789ab", "tw_0123456789ab_", "tw_0123456789ab_short",
     "tw_0123456789AB_" + "a" * 43, "tw_0123456789ab_" + "a" * 44, "tw_0123456789ab_" + "é" * 43,
     " tw_0123456789ab_" + "a" * 43, "tw_0123456789ab_" + "a" * 43 + "\n", "a" * 100_000],
)  # fmt: skip
def test_what_cannot_be_a_key_is_none(text: str) -> None:
    assert split_key(text) is None


@pytest.mark.parametrize(
    "hashed", ["", "x", "md5$1$1$1$00$00", "scrypt$a$8$1$00$00", "scrypt$2$8$1$zz$00"]
)
def test_a_damaged_hash_is_told(hashed: str) -> None:
    with pytest.raises(ConfigError):
        secret_fits("x", hashed)


@pytest.mark.parametrize("text", ["use", "use:*", "promote:tickets-2", "use:@base", "publish:a.b"])
def test_a_grant_reads_back_as_it_is_written(text: str) -> None:
    grant = parse_grant(text)
    assert str(grant) == (text if ":" in text else f"{text}:*")
    assert parse_grant(str(grant)) == grant


@pytest.mark.parametrize(
    "text", ["", "us", "USE", "use:", "use:../x", "use:A", "use:a/b", "use:*a", "use:-a", ":*"]
)
def test_a_wrong_grant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_grant(text)


def test_a_right_holds_for_its_target_only() -> None:
    grants = frozenset({Grant(Right.USE, "tickets"), Grant(Right.PUBLISH)})
    holder = Principal("acme", "k", grants)
    assert holder.may(Right.USE, "tickets")
    assert not holder.may(Right.USE, "notes")
    assert not holder.may(Right.USE, "@base")
    assert holder.may(Right.PUBLISH, "notes")
    assert not holder.may(Right.PROMOTE, "tickets")
    assert not holder.may(Right.ADMINISTER, "tickets")


def test_a_key_opens_the_door_until_it_is_revoked(store: TenantStore, clock: Clock) -> None:
    record, made = store.make_key("beta", USE, label="ci")
    door = Door(store, monotonic=clock, wall=clock)
    assert door.quick(made.text) is None
    holder = door.principal(made.text)
    assert holder == Principal("beta", record.id, USE, Quota(requests_per_minute=5, weight=2.0))
    assert door.quick(made.text) == holder
    assert door.quick(made.text[:-1] + "_") is None
    assert store.revoke(record.id)
    clock.now += RECORD_SECONDS + 0.1
    assert door.quick(made.text) is None
    with pytest.raises(AccessError):
        door.principal(made.text)


def test_a_key_expires(store: TenantStore, clock: Clock) -> None:
    end = datetime.fromtimestamp(clock.now, UTC) + timedelta(seconds=10)
    record, made = store.make_key("acme", USE, expires=end)
    door = Door(store, monotonic=clock, wall=clock)
    assert door.principal(made.text).tenant == "acme"
    assert record.state(end - timedelta(seconds=1)) == "active"
    clock.now += 10
    assert record.state(end) == "expired"
    assert door.quick(made.text) is None
    with pytest.raises(AccessError):
        door.principal(made.text)


def test_unknown_wrong_and_malformed_keys_are_answered_alike(
    store: TenantStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = store.make_key("acme", USE)
    door = Door(store, monotonic=clock, wall=clock)
    hashed = 0
    real = hashlib.scrypt

    def counted(*args: object, **options: object) -> bytes:
        nonlocal hashed
        hashed += 1
        return real(*args, **options)  # type: ignore[call-overload]  # handed through

    monkeypatch.setattr(hashlib, "scrypt", counted)
    wrong = [new_key().text, made.text[:-2] + "xx", "sk-1", ""]
    hashed = 0
    told = set()
    for number, text in enumerate(wrong, start=1):
        with pytest.raises(AccessError) as error:
            door.principal(text)
        told.add(str(error.value))
        assert hashed == number  # one hash each: the same work
    assert len(told) == 1


def test_guessing_is_slowed_by_address_and_holders_are_not(
    store: TenantStore, clock: Clock
) -> None:
    _, made = store.make_key("acme", USE)
    door = Door(store, monotonic=clock, wall=clock)
    door.principal(made.text, "10.0.0.1")
    for _ in range(int(FAILURES)):
        with pytest.raises(AccessError):
            door.principal("tw_x", "10.0.0.1")
    with pytest.raises(QuotaError) as error:
        door.principal("tw_x", "10.0.0.1")
    assert error.value.retry_after_seconds == pytest.approx(2.0)
    assert door.principal(made.text, "10.0.0.1").tenant == "acme"
    with pytest.raises(AccessError):
        door.principal("tw_x", "10.0.0.2")
    clock.now += 2.0
    with pytest.raises(AccessError):
        door.principal("tw_x", "10.0.0.1")


def test_a_key_that_was_not_seen_yet_gets_in_from_an_address_that_guesses(
    store: TenantStore, clock: Clock
) -> None:
    made, other = (store.make_key("acme", USE)[1] for _ in range(2))
    door = Door(store, monotonic=clock, wall=clock)
    for wrong in ("tw_x", f"tw_{'0' * 12}_{'x' * 43}"):
        for _ in range(int(FAILURES)):
            with pytest.raises((AccessError, QuotaError)):
                door.principal(wrong, "10.0.0.1")
    assert door.principal(made.text, "10.0.0.1").tenant == "acme"
    # Who guesses at one key is held back from that key.
    wrong = f"tw_{other.id}_{'x' * 43}"
    for _ in range(int(FAILURES)):
        with pytest.raises(AccessError):
            door.principal(wrong, "10.0.0.1")
    with pytest.raises(QuotaError):
        door.principal(wrong, "10.0.0.1")
    assert door.principal(other.text, "10.0.0.2").tenant == "acme"


def test_no_secret_lies_in_the_database(store: TenantStore, tmp_path: Path) -> None:
    _, made = store.make_key("acme", USE, label="mine")
    store.close()
    secret = made.text.rpartition("_")[2].encode()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made.id.encode() in written
    assert secret not in written
    assert (tmp_path / "keys.sqlite").stat().st_mode & 0o077 == 0


def test_keys_are_listed_by_tenant_and_revoked_within_it(store: TenantStore) -> None:
    first, _ = store.make_key("acme", USE)
    second, _ = store.make_key("beta", USE)
    assert [key.id for key in store.list_keys("acme")] == [first.id]
    assert {key.id for key in store.list_keys()} == {first.id, second.id}
    assert not store.revoke(second.id, tenant="acme")
    assert not store.revoke("nothing")
    assert store.list_keys("beta")[0].revoked is None
    assert store.revoke(second.id, tenant="beta")
    moment = store.list_keys("beta")[0].revoked
    assert store.revoke(second.id)
    assert store.list_keys("beta")[0].revoked == moment


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a/b", "-a", "a-", "é", "a" * 65, "a\n"])
def test_a_tenant_needs_a_plain_name(store: TenantStore, name: str) -> None:
    with pytest.raises(ConfigError):
        store.set_tenant(name)


@pytest.mark.parametrize(
    ("limits", "value"),
    [("requests_per_minute", 0), ("tokens_per_minute", -1), ("tokens_per_day", 0), ("streams", 0),
     ("weight", 0.0), ("weight", 1e9), ("weight", float("nan"))],
)  # fmt: skip
def test_a_limit_out_of_range_is_refused(limits: str, value: float) -> None:
    with pytest.raises(ConfigError):
        Quota(**{limits: value})  # type: ignore[arg-type]  # names from the list above


def test_a_useless_key_is_refused(store: TenantStore, clock: Clock) -> None:
    with pytest.raises(ConfigError):
        store.make_key("acme", [])
    with pytest.raises(UnknownNameError, match="acme"):
        store.make_key("acne", USE)
    with pytest.raises(ConfigError):
        store.make_key("acme", USE, expires=datetime.fromtimestamp(clock.now, UTC))
    with pytest.raises(ConfigError):
        store.make_key("acme", USE, label="x" * 201)
    assert store.list_keys() == []


def test_limits_change_and_stay(store: TenantStore) -> None:
    store.set_tenant("beta")
    assert store.tenants()["beta"].requests_per_minute == 5
    store.set_tenant("beta", Quota(tokens_per_day=7))
    assert store.tenants() == {"acme": Quota(), "beta": Quota(tokens_per_day=7)}


def test_usage_is_told_by_day_and_tenant(store: TenantStore) -> None:
    store.add_usage({("2026-01-02", "acme", "tickets"): Usage(1, 10, 2)})
    store.add_usage({("2026-01-02", "acme", "tickets"): Usage(2, 20, 4)})
    store.add_usage({("2026-01-03", "beta", "@base"): Usage(1, 1, 1)})
    assert store.usage(tenant="acme") == {("2026-01-02", "acme", "tickets"): Usage(3, 30, 6)}
    assert set(store.usage(day="2026-01-03")) == {("2026-01-03", "beta", "@base")}


@pytest.mark.parametrize(
    ("url", "error"),
    [("nothing://x", ConfigError), ("sqlite:///{}/no/such/folder/x", StorageError),
     ("{}/file/x", StorageError), ("{}", StorageError), ("://", ConfigError),
     ("mysql+nodriver://x/y", ConfigError), ("sqlite://", ConfigError),
     ("sqlite:///:memory:", ConfigError), ("mysql://x/y", ConfigError),
     ("postgresql://a:b@127.0.0.1:1/x", UnavailableError)],
)  # fmt: skip
def test_a_database_that_cannot_be_opened_is_told(
    tmp_path: Path, url: str, error: type[TunewiseError]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(error):
        TenantStore(url.format(tmp_path))


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("hello " * 1000)
    with pytest.raises(ConfigError, match="something else"):
        TenantStore(str(tmp_path / "keys"))


def test_a_damaged_database_is_told(store: TenantStore, tmp_path: Path) -> None:
    store.close()
    file = tmp_path / "keys.sqlite"
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(UnavailableError, match="damaged"):
        TenantStore(str(file)).list_keys()


def test_a_database_that_goes_away_is_told(store: TenantStore, tmp_path: Path) -> None:
    store.check()
    with sqlite3.connect(tmp_path / "keys.sqlite") as raw:
        raw.execute("DROP TABLE api_keys")
    with pytest.raises(UnavailableError):
        store.find("0" * 12)
