"""registry: list, show, diff, promote, rollback, retire, verify, gc; the rest stands beside it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from tunewise.cli.options import json_option
from tunewise.cli.registry_add import add_command, measure_command
from tunewise.cli.registry_exchange import export_command, import_command
from tunewise.cli.registry_place import opened, place_options, who
from tunewise.cli.registry_recipe import recipe_command
from tunewise.cli.registry_show import emit, show_list, show_version
from tunewise.errors import ConfigError, RegistryError

_DAY = 86_400.0


@click.group("registry", short_help="Names and versions: add, promote, go back.")
def registry_group() -> None:
    """Keep adaptations under names, in versions; promote, go back, retire."""


for command in (add_command, measure_command, recipe_command, export_command, import_command):
    registry_group.add_command(command)


@registry_group.command("list", short_help="Names with their newest version and aliases.")
@click.argument("tenant", required=False)
@click.option("--after", default="", metavar="NAME", help="go on behind this name")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@place_options
@json_option
def list_command(tenant: str | None, after: str, limit: int, as_json: bool, **values: Any) -> None:
    """Names in order, of one TENANT or of all, with their newest version and aliases."""
    from tunewise.serve.registry.names import parse_name

    if tenant is not None:
        parse_name(f"{tenant}/x")
    if after:
        parse_name(after)
    with opened(values["place"], values["files"]) as registry:
        page = registry.names(tenant, after=after, limit=limit)
    if as_json:
        click.echo(json.dumps([each.as_dict() for each in page], ensure_ascii=False))
    else:
        show_list(page, limit)


@registry_group.command("show", short_help="All that is known of a name or a version.")
@click.argument("reference")
@place_options
@json_option
def show_command(reference: str, as_json: bool, **values: Any) -> None:
    """A name (tenant/name) with its versions, aliases and history; or one version of it."""
    with opened(values["place"], values["files"]) as registry:
        content = show_version(registry, reference)
    emit(as_json, content)


@registry_group.command("diff", short_help="What one version has other than another.")
@click.argument("old")
@click.argument("new")
@place_options
@json_option
def diff_command(old: str, new: str, as_json: bool, **values: Any) -> None:
    """What version NEW has other than version OLD: parts, words, tensors, making, scores."""
    from tunewise.serve.registry.diff import difference
    from tunewise.serve.registry.gate import judge
    from tunewise.serve.registry.intake import check_folder
    from tunewise.serve.registry.records import RECIPE

    with opened(values["place"], values["files"]) as registry:
        first, second = registry.version(old), registry.version(new)
        made = [check_folder(registry.folder(each), each.digest) for each in (first, second)]
        with registry.database.read() as connection:
            verdict = judge(connection, second, first)
    content: dict[str, Any] = {"old": str(first), "new": str(second), **difference(*made)}
    if first.digest == second.digest:
        content["same"] = "they are the same, byte by byte"
    if RECIPE not in first.kinds:
        content["scores"] = verdict.as_dict()
    emit(as_json, content)


@registry_group.command("promote", short_help="Let an alias mean a version.")
@click.argument("reference")
@click.option("--alias", default="production", show_default=True, help="what shall mean it")
@click.option("--share", default=1.0, show_default=True, help="of requests; below 1 it is tried")
@click.option("--margin", default=0.05, show_default=True, help="largest loss of score borne")
@click.option("--reason", default="", help="override the gate, in words that are kept")
@click.option(
    "--alpha", default=0.05, show_default=True, help="error rate at which a trial is ended"
)
@click.option(
    "--trial-margin", default=0.0, show_default=True, help="loss of outcome borne in a trial"
)
@place_options
@json_option
def promote_command(reference: str, as_json: bool, **values: Any) -> None:
    """Let production, or another alias, mean a version: REFERENCE is tenant/name@3.

    The gate asks whether it is as good as the version in place on the rows both were measured on.
    With --share below 1 the alias is split, and outcomes decide.
    """
    from tunewise.serve.registry.aliases import Promotion
    from tunewise.serve.registry.trials import Rule

    promotion = Promotion(
        values["alias"],
        values["share"],
        values["reason"],
        values["margin"],
        Rule(values["alpha"], values["trial_margin"]),
    )
    with opened(values["place"], values["files"]) as registry:
        alias, verdict = registry.promote(reference, who(values["actor"]), promotion)
    emit(
        as_json,
        {"name": str(alias.name), **alias.as_dict(), "gate": verdict.as_dict()},
        f"{alias.name}@{alias.alias}: "
        + ", ".join(f"version {each.number} {each.share:.0%}" for each in alias.targets)
        + f"  ({verdict.reason})",
    )


@registry_group.command("rollback", short_help="End a split, or go back to the version before.")
@click.argument("name")
@click.option("--alias", default="production", show_default=True)
@click.option("--reason", default="", help="kept in the history")
@place_options
@json_option
def rollback_command(name: str, alias: str, reason: str, as_json: bool, **values: Any) -> None:
    """End a split, or go back to the version that the alias meant before."""
    with opened(values["place"], values["files"]) as registry:
        found = registry.rollback(name, who(values["actor"]), alias=alias, reason=reason)
    emit(as_json, {"name": name, **found.as_dict()}, f"{name}@{alias}: version {found.stable}")


@registry_group.command("retire", short_help="Take a version out of use.")
@click.argument("reference")
@click.option("--reason", default="", help="kept in the audit trail")
@click.option("--alias-only", is_flag=True, help="take the alias in REFERENCE away, not a version")
@place_options
@json_option
def retire_command(
    reference: str, reason: str, alias_only: bool, as_json: bool, **values: Any
) -> None:
    """Take a version out of use. Its record stays; its files go with `gc --retired-days`."""
    from tunewise.serve.registry.names import parse_reference

    parsed = parse_reference(reference)
    if parsed.alias and not alias_only:
        raise ConfigError(
            "an alias does not say clearly which version to retire",
            found=reference,
            expected="a number or a hash behind the '@'",
            fix="name the version, or take the alias itself away with --alias-only",
        )
    if alias_only and not ("@" in reference and parsed.alias):
        raise ConfigError(
            "no alias is named", found=reference, expected="tenant/name@alias with --alias-only"
        )
    with opened(values["place"], values["files"]) as registry:
        if alias_only:
            registry.drop_alias(str(parsed.name), parsed.alias, who(values["actor"]))
            emit(as_json, {"dropped": str(parsed)}, f"{parsed} is gone")
            return
        version = registry.retire(reference, who(values["actor"]), reason=reason)
    emit(as_json, version.as_dict(), f"{version} is retired")


@registry_group.command("verify", short_help="Read every byte and check aliases and audit trail.")
@click.argument("name", required=False)
@place_options
@json_option
def verify_command(name: str | None, as_json: bool, **values: Any) -> None:
    """Read every byte of every version, or of one NAME's, and check aliases and audit trail."""
    with opened(values["place"], values["files"]) as registry:
        checked = registry.verify(name)
    if checked.faults:
        raise RegistryError(
            "the registry is not as it should be",
            found="; ".join(checked.faults),
            expected="files, aliases and audit trail as they were written",
            fix="register damaged adaptations again, which puts their files back",
        )
    emit(
        as_json,
        checked.as_dict(),
        f"{checked.versions} versions, {checked.aliases} aliases and {checked.audit_entries} "
        "audit entries are as they were written",
    )


@registry_group.command("gc", short_help="Remove files that nothing uses.")
@click.option("--days", default=1.0, show_default=True, type=click.FloatRange(min=0))
@click.option(
    "--retired-days",
    default=None,
    type=click.FloatRange(min=0),
    help="also files of versions retired that long ago  [default: they stay]",
)
@click.option("--dry-run", is_flag=True, help="only say what would be removed")
@place_options
@json_option
def gc_command(
    days: float, retired_days: float | None, dry_run: bool, as_json: bool, **values: Any
) -> None:
    """Remove files that belong to no version, are older than --days and not in use."""
    from tunewise.model.cache import home
    from tunewise.serve.engine.prefix_names import FOLDER, forget
    from tunewise.serve.registry.collect import Ages

    ages = Ages(days * _DAY, None if retired_days is None else retired_days * _DAY)
    with opened(values["place"], values["files"]) as registry:
        found = registry.collect(
            ages, who(values["actor"]), dry_run=dry_run, removing=partial(forget, home() / FOLDER)
        )
    would = "would be " if dry_run else ""
    emit(
        as_json,
        {**found.as_dict(), "dry_run": dry_run},
        f"{len(found.removed)} {would}removed, {found.bytes / 1e6:,.1f} MB; {len(found.in_use)} "
        f"in use; {found.abandoned} abandoned",
    )
