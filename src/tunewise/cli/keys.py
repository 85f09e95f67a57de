"""keys: tenant, create, list, revoke, usage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunewise.cli.options import json_option
from tunewise.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from tunewise.serve.tenants.records import KeyRecord
    from tunewise.serve.tenants.store import TenantStore

F = TypeVar("F", bound=Callable[..., Any])
KEYS_FILE = "keys.db"
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hd])")


def keys_options(function: F) -> F:
    """--keys and --registry: where the keys are."""
    for option in (
        click.option(
            "--registry",
            "place",
            default=None,
            metavar="PLACE",
            help="registry that the keys belong to  [default: the user's data folder]",
        ),
        click.option(
            "--keys",
            default=None,
            metavar="PLACE",
            help="file or database of the keys  [default: with the registry]",
        ),
    ):
        function = option(function)
    return function


def keys_place(keys: str | None, registry: str | None) -> str:
    """Where keys are: as given, else in the registry's folder or database.

    Raises:
        ConfigError: a place is empty.
    """
    from tunewise.serve.registry.registry import default_place

    if keys == "" or registry == "":
        raise ConfigError("a place is empty", found="''", expected="a folder, a file or a URL")
    if keys is not None:
        return keys
    place = default_place() if registry is None else registry
    return place if "://" in place else f"{place}/{KEYS_FILE}"


@contextmanager
def opened_keys(keys: str | None, registry: str | None) -> Iterator[TenantStore]:
    """The keys while the context lasts."""
    from tunewise.serve.tenants.store import TenantStore

    store = TenantStore(keys_place(keys, registry))
    try:
        yield store
    finally:
        store.close()


@click.group("keys")
def keys_group() -> None:
    """Tenants, their API keys and limits, and what they used."""


@keys_group.command("tenant")
@click.argument("name")
@click.option("--requests-per-minute", type=int, metavar="N", help="requests that begin; 0: any")
@click.option("--tokens-per-minute", type=int, metavar="N", help="prompt and answer; 0: any number")
@click.option("--tokens-per-day", type=int, metavar="N", help="the same, a day in UTC")
@click.option("--streams", type=int, metavar="N", help="requests at once; 0: any number")
@click.option("--weight", type=float, metavar="X", help="share beside others that wait  [1.0]")
@keys_options
@json_option
def tenant_command(
    name: str, keys: str | None, place: str | None, as_json: bool, **limits: float | None
) -> None:
    """Make a tenant, or change the limits that are given."""
    from tunewise.serve.tenants.records import Quota, check_name

    given: dict[str, Any] = {
        # On a command line there is no "none": 0 takes a limit away.
        field: None if value == 0 and field != "weight" else value
        for field, value in limits.items()
        if value is not None
    }
    check_name("tenant", name)
    with opened_keys(keys, place) as store:
        before = store.tenants().get(name, Quota())
        quota = replace(before, **given)
        store.set_tenant(name, quota)
    content = {"tenant": name, **asdict(quota)}
    click.echo(json.dumps(content) if as_json else _limits(name, asdict(quota)))


@keys_group.command("create")
@click.argument("tenant")
@click.option(
    "--right",
    "rights",
    multiple=True,
    required=True,
    metavar="RIGHT[:NAME]",
    help="use, publish, promote or administer; of one adaptation, @base, or all; may be repeated",
)
@click.option("--label", default="", help="what it is for")
@click.option("--expires", default=None, metavar="SPAN", help="stops working after, as 12h or 90d")
@keys_options
@json_option
def create_command(
    tenant: str,
    rights: tuple[str, ...],
    label: str,
    expires: str | None,
    as_json: bool,
    **places: str | None,
) -> None:
    """Make a key. It is shown once and stored as a hash only."""
    from tunewise.serve.tenants.records import parse_grant

    grants = [parse_grant(each) for each in rights]
    until = None if expires is None else datetime.now(UTC) + _span(expires)
    with opened_keys(places["keys"], places["place"]) as store:
        record, made = store.make_key(tenant, grants, label=label, expires=until)
    if as_json:
        click.echo(json.dumps({**_facts(record), "key": made.text}))
        return
    click.echo(f"{record.id} for {tenant}: {', '.join(sorted(map(str, grants)))}", err=True)
    click.echo("keep it now: it is not shown again", err=True)
    # Alone on standard output, so that it can go straight into a secret store.
    click.echo(made.text)


@keys_group.command("list")
@click.argument("tenant", required=False)
@keys_options
@json_option
def list_command(tenant: str | None, as_json: bool, **places: str | None) -> None:
    """Keys of a TENANT or of all, without their secrets."""
    from tunewise.cli.show import show_table

    with opened_keys(places["keys"], places["place"]) as store:
        tenants = store.tenants()
        if tenant is not None and tenant not in tenants:
            raise UnknownNameError("tenant", tenant, tenants)
        found = [_facts(each) for each in store.list_keys(tenant)]
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [[each["id"], each["tenant"], each["state"], each["label"]] for each in found]
    below = [[", ".join(each["rights"])] for each in found]
    show_table(["key", "tenant", "state", "label"], rows, below)


@keys_group.command("revoke")
@click.argument("key_id", metavar="ID")
@keys_options
def revoke_command(key_id: str, **places: str | None) -> None:
    """Stop a key from working, within a second and for good. ID is its public part."""
    with opened_keys(places["keys"], places["place"]) as store:
        if not store.revoke(key_id):
            # Not the list of all: what was typed may be a whole key.
            raise ConfigError(
                "there is no such key",
                expected="the twelve characters between the two '_' of a key",
                fix="see `tunewise keys list`",
            )
    click.echo(f"{key_id} does not work any more")


@keys_group.command("usage")
@click.argument("tenant", required=False)
@click.option("--day", default=None, metavar="DAY", help="of one day in UTC, as 2026-01-31")
@keys_options
@json_option
def usage_command(tenant: str | None, day: str | None, as_json: bool, **places: str | None) -> None:
    """What was used, by day, tenant and adaptation."""
    from tunewise.cli.show import show_table

    with opened_keys(places["keys"], places["place"]) as store:
        found = store.usage(day=day, tenant=tenant)
    names = ("day", "tenant", "adaptation")
    content = [
        {**dict(zip(names, place, strict=True)), **asdict(used)} for place, used in found.items()
    ]
    if as_json:
        click.echo(json.dumps(content))
        return
    titles = ["day", "tenant", "adaptation", "requests", "prompt tokens", "answer tokens"]
    rows = [[str(value) for value in each.values()] for each in content]
    show_table(titles, rows, [[] for _ in rows])


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ConfigError(
            "--expires is no span of time", found=text, expected="hours or days, as 12h or 90d"
        )
    number = int(found[1])
    return timedelta(hours=number) if found[2] == "h" else timedelta(days=number)


def _facts(record: KeyRecord) -> dict[str, Any]:
    """What may be shown of a key, as JSON values."""
    moments = {"created": record.created, "expires": record.expires, "revoked": record.revoked}
    return {
        "id": record.id,
        "tenant": record.tenant,
        "label": record.label,
        "state": record.state(datetime.now(UTC)),
        "rights": sorted(str(grant) for grant in record.grants),
        **{name: None if at is None else at.isoformat() for name, at in moments.items()},
    }


def _limits(name: str, limits: dict[str, Any]) -> str:
    told = [
        f"{field.replace('_', ' ')} {value:,}"
        for field, value in limits.items()
        if value is not None
    ]
    return f"{name}: {', '.join(told)}"
