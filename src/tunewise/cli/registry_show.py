"""What the registry's commands print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tunewise.serve.registry.records import Alias, Listed
    from tunewise.serve.registry.registry import Registry

_TIMES = ("at", "created_at", "retired_at", "began_at", "ended_at")


def emit(as_json: bool, content: Mapping[str, Any], line: str | None = None) -> None:
    """One JSON document, or one line; without a line the facts, one below the other."""
    if as_json:
        click.echo(json.dumps(content, ensure_ascii=False))
    elif line is not None:
        click.echo(line)
    else:
        from tunewise.cli.show import show_mapping

        show_mapping(_readable(content))


def show_list(page: Sequence[Listed], limit: int) -> None:
    """A table of names."""
    from tunewise.cli.show import show_table

    if not page:
        click.echo("nothing is registered here", err=True)
        return
    rows = [
        [
            str(each.name),
            f"{each.latest.number}",
            " + ".join(each.latest.kinds),
            ", ".join(meaning(alias) for alias in each.aliases),
            each.latest.base_name,
        ]
        for each in page
    ]
    show_table(["name", "latest", "parts", "aliases", "base"], rows, [[] for _ in rows])
    if len(page) == limit:
        click.echo(f"more may follow: --after {page[-1].name}", err=True)


def meaning(alias: Alias) -> str:
    """ "production = 3", or "production = 3 (90%), 4 (10%)"."""
    if len(alias.targets) == 1:
        return f"{alias.alias} = {alias.stable}"
    shares = ", ".join(f"{each.number} ({each.share:.0%})" for each in alias.targets)
    return f"{alias.alias} = {shares}"


def show_version(registry: Registry, reference: str) -> dict[str, Any]:
    """All that is known of a version, or of a name where no version is named; JSON values."""
    if "@" not in reference:
        versions = registry.versions(reference)
        meant = registry.aliases_of(reference)
        return {
            "name": reference,
            "versions": [each.as_dict() for each in versions],
            "aliases": [each.as_dict() for each in meant],
            "history": {each.alias: registry.history(reference, each.alias) for each in meant},
            "trials": [
                {**each.as_dict(), "limits": list(registry.trial_limits(each))}
                for each in registry.trials_of(reference)
            ],
            "audit": [each.as_dict() for each in registry.audit_trail(reference, limit=1000)],
        }
    version = registry.version(reference)
    aliases = registry.aliases_of(str(version.name))
    return {
        **version.as_dict(),
        "folder": str(registry.folder(version)),
        "aliases": [
            meaning(each)
            for each in aliases
            if version.number in {target.number for target in each.targets}
        ],
        "measured": registry.measured(version),
        "probes": registry.probe_report(version),
    }


def _readable(content: Any, name: str = "") -> Any:
    """The same with times as people write them."""
    if isinstance(content, Mapping):
        return {key: _readable(value, str(key)) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_readable(each) for each in content]
    if name in _TIMES and isinstance(content, int | float):
        return datetime.fromtimestamp(content, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return content
