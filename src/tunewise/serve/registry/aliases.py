"""What production means: promoting, splitting, going back, retiring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tunewise.errors import ConfigError, RegistryError
from tunewise.serve.registry import audit, lookup, tables, trials
from tunewise.serve.registry.gate import MARGIN, Verdict, judge, refusal
from tunewise.serve.registry.names import DEFAULT_ALIAS, Name, Reference
from tunewise.serve.registry.records import READY, RETIRED, Alias, Target, Version

PROMOTE, TRY, ROLLBACK, AUTOMATIC = "promote", "try", "rollback", "automatic"


@dataclass(frozen=True, slots=True)
class Promotion:
    """How a version is to be promoted.

    Attributes:
        alias: which alias shall mean it.
        share: of requests, above 0 to 1; below 1 it is tried beside the version in place.
        reason: why the gate is overridden, in words; "" where it is not.
        margin: the gate's: the largest loss of mean score that would be borne.
        rule: of the trial where the alias is split.
    """

    alias: str = DEFAULT_ALIAS
    share: float = 1.0
    reason: str = ""
    margin: float = MARGIN
    rule: trials.Rule = field(default_factory=trials.Rule)


def promote(
    connection: Connection, reference: Reference, promotion: Promotion, actor: str, now: float
) -> tuple[Alias, Verdict]:
    """Let an alias mean a version, if the gate lets it.

    Args:
        connection: a writer's.
        reference: the version.
        promotion: how.
        actor: who does it.
        now: seconds since 1970.

    Returns:
        The alias as it is now, and the gate's verdict.

    Raises:
        GateRefusedError: it is not shown to be as good, and no reason was given.
        RegistryError: it is retired, or there is nothing to try it beside.
        NotRegisteredError: there is no such version.
    """
    _check(promotion)
    version = lookup.find_version(connection, reference)
    _refuse_retired(version)
    before = current(connection, version.name, promotion.alias)
    present = None
    if before is not None:
        present = lookup.find_version(connection, Reference(version.name, number=before.stable))
    verdict = judge(connection, version, present, promotion.margin)
    if not verdict.passed and not promotion.reason.strip():
        raise refusal(connection, version, promotion.alias, promotion.margin, verdict)
    targets = _targets(before, version, promotion.share)
    action = PROMOTE if promotion.share == 1.0 else TRY
    after = put(connection, before, version.name, promotion, targets, (action, actor, now))
    audit.write(
        connection,
        now,
        actor,
        action,
        version.name,
        alias=promotion.alias,
        number=version.number,
        share=promotion.share,
        gate=verdict.as_dict(),
        overridden=not verdict.passed,
        reason=promotion.reason.strip(),
    )
    return after, verdict


def rollback(
    connection: Connection, name: Name, alias: str, actor: str, now: float, reason: str
) -> Alias:
    """Go back to what an alias meant before: out of a split, or to the version before.

    Raises:
        RegistryError: there is nothing to go back to, or it is retired.
        NotRegisteredError: there is no such alias.
    """
    before = lookup.find_alias(connection, name, alias)
    if len(before.targets) > 1:
        number = before.stable
    else:
        earlier = earlier_versions(connection, name, alias)
        if not earlier:
            raise RegistryError(
                "there is nothing to go back to",
                found=f"{name}@{alias} has meant version {before.stable} only",
                expected="a version that was in place before",
                fix="promote another version",
            )
        number = earlier[-1]
    _refuse_retired(lookup.find_version(connection, Reference(name, number=number)))
    promotion = Promotion(alias, reason=reason)
    after = put(connection, before, name, promotion, (Target(number, 1.0),), (ROLLBACK, actor, now))
    audit.write(
        connection,
        now,
        actor,
        ROLLBACK,
        name,
        alias=alias,
        left=[target.as_dict() for target in before.targets],
        number=number,
        reason=reason,
    )
    return after


def end_worse(connection: Connection, trial: trials.Trial, actor: str, now: float) -> Alias | None:
    """Take a version that was shown to be worse out of its alias; None where it is out already."""
    before = current(connection, trial.name, trial.alias)
    if before is None or trial.candidate not in {each.number for each in before.targets[1:]}:
        return None
    targets = trials.remaining(before, trial.candidate)
    promotion = Promotion(trial.alias, reason="its outcomes are worse")
    after = put(connection, before, trial.name, promotion, targets, (AUTOMATIC, actor, now))
    audit.write(
        connection, now, actor, AUTOMATIC, trial.name, alias=trial.alias, trial=trial.as_dict()
    )
    return after


def drop(connection: Connection, name: Name, alias: str, actor: str, now: float) -> None:
    """Take an alias away; its history stays."""
    before = lookup.find_alias(connection, name, alias)
    table = tables.aliases
    connection.execute(table.delete().where(_here(table, name, alias)))
    empty = Alias(name, alias, before.revision, (Target(before.stable, 1.0),), now)
    trials.begin_and_end(connection, before, empty, trials.Rule(), now)
    audit.write(
        connection,
        now,
        actor,
        "drop alias",
        name,
        alias=alias,
        left=[target.as_dict() for target in before.targets],
    )


def retire(
    connection: Connection, reference: Reference, actor: str, now: float, reason: str
) -> Version:
    """Take a version out of use; nothing can resolve to it any more.

    Raises:
        RegistryError: an alias means it.
        NotRegisteredError: there is no such version.
    """
    version = lookup.find_version(connection, reference)
    (meant,) = lookup.aliases_of(connection, [version.name]).values()
    holding = [
        alias.alias
        for alias in meant
        if version.number in {target.number for target in alias.targets}
    ]
    if holding:
        raise RegistryError(
            "the version is in use",
            found=f"{version} is what {', '.join(holding)} means",
            expected="a version that no alias leads to",
            fix="promote another version or roll back first",
        )
    if version.state == RETIRED:
        return version
    table = tables.versions
    connection.execute(
        update(table)
        .where(
            table.c.tenant == version.name.tenant,
            table.c.name == version.name.name,
            table.c.number == version.number,
        )
        .values(state=RETIRED, retired_at=now)
    )
    audit.write(
        connection, now, actor, "retire", version.name, number=version.number, reason=reason
    )
    return lookup.find_version(connection, Reference(version.name, number=version.number))


def current(connection: Connection, name: Name, alias: str) -> Alias | None:
    """What an alias means now, or None."""
    row = connection.execute(
        select(tables.aliases).where(_here(tables.aliases, name, alias))
    ).first()
    return None if row is None else lookup.alias_of(row)


def history(connection: Connection, name: Name, alias: str) -> list[dict[str, Any]]:
    """What an alias meant, the oldest first: revision, targets, action, reason, at, by."""
    table = tables.alias_history
    chosen = select(table).where(_here(table, name, alias)).order_by(table.c.revision)
    wanted = ("revision", "targets", "action", "reason", "at", "by")
    return [{key: getattr(row, key) for key in wanted} for row in connection.execute(chosen)]


def earlier_versions(connection: Connection, name: Name, alias: str) -> list[int]:
    """The versions that going back again and again would lead to, the last one first in turn.

    Going back takes the top off: after versions 1, 2, 3 and one step back comes 1, not 3.
    """
    stack: list[int] = []
    for entry in history(connection, name, alias):
        number = int(entry["targets"][0]["number"])
        if stack and stack[-1] == number:
            continue
        if entry["action"] == ROLLBACK and number in stack:
            del stack[len(stack) - stack[::-1].index(number) :]
        else:
            stack.append(number)
    return stack[:-1]


def put(
    connection: Connection,
    before: Alias | None,
    name: Name,
    promotion: Promotion,
    targets: Sequence[Target],
    by: tuple[str, str, float],
) -> Alias:
    """Write what an alias means now, its history, and the trials that begin and end with it.

    Args:
        connection: a writer's.
        before: the alias as it is, or None.
        name: of the adaptation.
        promotion: alias, reason and the rule of trials.
        targets: what it means from now on.
        by: what is done, by whom, and when.
    """
    action, actor, now = by
    alias, table = promotion.alias, tables.aliases
    revision = _last_revision(connection, name, alias) + 1
    after = Alias(name, alias, revision, tuple(targets), now)
    told = [target.as_dict() for target in targets]
    key = {"tenant": name.tenant, "name": name.name, "alias": alias}
    values = {"revision": revision, "targets": told, "at": now}
    if before is None:
        connection.execute(insert(table).values(**key, **values))
    else:
        connection.execute(update(table).where(_here(table, name, alias)).values(**values))
    connection.execute(
        insert(tables.alias_history).values(
            **key, **values, action=action, reason=promotion.reason.strip(), by=actor
        )
    )
    trials.begin_and_end(connection, before, after, promotion.rule, now)
    return after


def _last_revision(connection: Connection, name: Name, alias: str) -> int:
    table = tables.alias_history
    chosen = (
        select(table.c.revision)
        .where(_here(table, name, alias))
        .order_by(table.c.revision.desc())
        .limit(1)
    )
    found = connection.execute(chosen).scalar()
    return 0 if found is None else int(found)


def _targets(before: Alias | None, version: Version, share: float) -> tuple[Target, ...]:
    if share == 1.0:
        return (Target(version.number, 1.0),)
    if before is None or before.stable == version.number:
        raise RegistryError(
            "there is nothing to try it beside",
            found="no version is in place"
            if before is None
            else f"{version} is the version in place",
            expected="another version that the alias means now",
            fix="promote with the whole share",
        )
    kept = [target for target in before.targets[1:] if target.number != version.number]
    rest = 1.0 - share - sum(target.share for target in kept)
    if rest <= 0:
        raise ConfigError(
            "the shares leave nothing for the version in place",
            found=f"{share:g} and {', '.join(f'{each.share:g}' for each in kept) or 'nothing'}",
            expected="less than 1 together",
        )
    return (Target(before.stable, rest), *kept, Target(version.number, share))


def _check(promotion: Promotion) -> None:
    rule = promotion.rule
    if not 0 < promotion.share <= 1:
        raise ConfigError(
            "the share of requests cannot be used",
            found=f"{promotion.share:g}",
            expected="above 0, and 1 at most",
        )
    if not 0 <= promotion.margin < 1 or not 0 <= rule.margin < 1 or not 0 < rule.alpha < 1:
        raise ConfigError(
            "a margin or an error rate cannot be used",
            found=f"margin {promotion.margin:g}, of the trial {rule.margin:g}, "
            f"error rate {rule.alpha:g}",
            expected="margins from 0 to below 1, an error rate between 0 and 1",
        )


def _refuse_retired(version: Version) -> None:
    if version.state != READY:
        raise RegistryError(
            "this version is retired",
            found=str(version),
            expected="a version that is in use",
            fix="register it anew under another name, or choose another version",
        )


def _here(table: Any, name: Name, alias: str) -> Any:
    return (table.c.tenant == name.tenant) & (table.c.name == name.name) & (table.c.alias == alias)
