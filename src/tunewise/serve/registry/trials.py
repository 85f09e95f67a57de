"""A split alias is a trial: outcomes of the new version and of the stable one are compared.

After every outcome a test that may be looked at any time (`numerics.sequential`) tells whether the
new one is worse; then the stable version gets all requests again, on its own.

A unit is what was given to a version as one: all requests with the same sticky key. The outcomes
of one unit depend on each other, so only the first counts. Where a unit was answered by both
versions, as when requests are sent to both, the two outcomes are compared directly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tunewise.errors import ConfigError, NotRegisteredError
from tunewise.numerics.sequential import Pairing, RunningTest, confidence_sequence
from tunewise.serve.registry import tables
from tunewise.serve.registry.names import Name
from tunewise.serve.registry.records import Alias, Target

OPEN, WORSE, BETTER, ENDED = "open", "worse", "better", "ended"
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Trial:
    """A comparison that is going on, or how it ended.

    Attributes:
        id: names it.
        name, alias: of which alias.
        stable: number of the version in place.
        candidate: number of the version that is tried.
        alpha: probability of a wrong "worse", over all times at which one may look.
        margin: "worse" means worse by more than this.
        verdict: "open", "worse", "better", or "ended" by a change of the alias.
        pairs: differences that were compared.
        difference: their mean, candidate minus stable.
        worse_evidence, better_evidence: shown from 1 / alpha on.
        began_at, ended_at: seconds since 1970.
    """

    id: int
    name: Name
    alias: str
    stable: int
    candidate: int
    alpha: float
    margin: float
    verdict: str
    pairs: int
    difference: float
    worse_evidence: float
    better_evidence: float
    began_at: float
    ended_at: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "name": str(self.name)}


@dataclass(frozen=True, slots=True)
class Rule:
    """How a trial decides: the error rate, and the loss that is borne."""

    alpha: float = ALPHA
    margin: float = 0.0


def begin_and_end(
    connection: Connection, before: Alias | None, after: Alias, rule: Rule, now: float
) -> None:
    """Open the trials that an alias's new targets ask for and end those they do not.

    A version that keeps being tried beside the same stable one keeps its trial, whatever its share.

    Args:
        connection: a writer's.
        before: the alias as it was, or None.
        after: as it is now.
        rule: of trials that begin.
        now: seconds since 1970.
    """
    table = tables.trials
    wanted = {(after.stable, target.number) for target in after.targets[1:]}
    for row in connection.execute(_open(after.name, after.alias)).all():
        if (row.stable, row.candidate) in wanted:
            wanted.discard((row.stable, row.candidate))
            continue
        verdict = ENDED if row.verdict == OPEN else row.verdict
        connection.execute(
            update(table).where(table.c.id == row.id).values(verdict=verdict, ended_at=now)
        )
    for stable, candidate in sorted(wanted):
        connection.execute(
            insert(table).values(
                tenant=after.name.tenant,
                name=after.name.name,
                alias=after.alias,
                stable=stable,
                candidate=candidate,
                alpha=rule.alpha,
                margin=rule.margin,
                verdict=OPEN,
                progress=_packed(Pairing(), RunningTest(rule.margin)),
                began_at=now,
                ended_at=None,
            )
        )


def record(
    connection: Connection, trial: int, unit: str, values: Sequence[tuple[int, float]], now: float
) -> Trial:
    """Take in the outcome of one unit.

    Args:
        connection: a writer's.
        trial: its id, as `Resolved.trial` tells it.
        unit: the sticky key, or the request's own id where it had none.
        values: (version number, outcome from 0 to 1), of one version, or of both.
        now: seconds since 1970.

    Returns:
        The trial afterwards. An outcome of a unit that was counted before, of a trial that ended,
        or of a stable version that several trials share, changes nothing it should not.

    Raises:
        NotRegisteredError: there is no such trial.
        ConfigError: an outcome is not a number from 0 to 1, or of neither version.
    """
    table = tables.trials
    row = connection.execute(select(table).where(table.c.id == trial)).first()
    if row is None:
        raise NotRegisteredError(
            "there is no such trial", found=str(trial), expected="the id a choice was given with"
        )
    _check(values, (row.stable, row.candidate))
    if row.ended_at is not None:
        return _trial(row)
    # Every trial of the alias learns of an outcome of the stable version.
    others = [row]
    if len(values) == 1 and values[0][0] == row.stable:
        others = [
            each
            for each in connection.execute(_open(Name(row.tenant, row.name), row.alias)).all()
            if each.stable == row.stable
        ]
    for each in others:
        _count(connection, each, hashlib.sha256(unit.encode()).hexdigest(), values, now)
    return _trial(connection.execute(select(table).where(table.c.id == trial)).one())


def find(connection: Connection, trial: int) -> Trial:
    """One trial by its id.

    Raises:
        NotRegisteredError: there is none.
    """
    row = connection.execute(select(tables.trials).where(tables.trials.c.id == trial)).first()
    if row is None:
        raise NotRegisteredError(
            "there is no such trial", found=str(trial), expected="the id a choice was given with"
        )
    return _trial(row)


def limits(connection: Connection, trial: Trial) -> tuple[float, float]:
    """Limits of the difference, candidate minus stable, that hold at all times together.

    With probability 1 - alpha they hold the true difference after every outcome, so they may be
    looked at whenever one likes; see `numerics.sequential.confidence_sequence`.
    """
    table = tables.outcomes
    seen = select(table.c.difference).where(
        table.c.trial == trial.id, table.c.difference.is_not(None)
    )
    return confidence_sequence(connection.execute(seen).scalars(), alpha=trial.alpha)


def of_name(connection: Connection, name: Name) -> list[Trial]:
    """Every trial of a name, the newest first."""
    table = tables.trials
    chosen = select(table).where(table.c.tenant == name.tenant, table.c.name == name.name)
    return [_trial(row) for row in connection.execute(chosen.order_by(table.c.id.desc()))]


def remaining(alias: Alias, candidate: int) -> tuple[Target, ...]:
    """The targets of an alias without one of those that are tried; its share goes to the stable."""
    kept = [target for target in alias.targets[1:] if target.number != candidate]
    rest = 1.0 - sum(target.share for target in kept)
    return (Target(alias.stable, rest), *kept)


def _count(
    connection: Connection, row: Any, unit: str, values: Sequence[tuple[int, float]], now: float
) -> None:
    table = tables.outcomes
    numbers = [number for number, _ in values]
    seen = select(table.c.id).where(
        table.c.trial == row.id, table.c.unit == unit, table.c.number.in_(numbers)
    )
    if connection.execute(seen).first() is not None:
        return
    pairing, test = _unpacked(row.progress)
    outcome = dict(values)
    difference: float | None
    if len(outcome) == 2:
        difference = outcome[row.candidate] - outcome[row.stable]
    else:
        ((number, value),) = values
        pairing, difference = pairing.with_outcome(value, is_new=number == row.candidate)
    if difference is not None:
        test = test.seen(difference)
    # The last outcome of the call is the one that completed the difference.
    told = [None] * (len(values) - 1) + [difference]
    rows = [
        {
            "trial": row.id,
            "unit": unit,
            "number": number,
            "value": value,
            "difference": d,
            "at": now,
        }
        for (number, value), d in zip(values, told, strict=True)
    ]
    connection.execute(insert(table), rows)
    verdict = row.verdict
    # What was shown to be better may have been so by chance, or turn worse: it is still watched, at
    # no cost, since the bet that it is worse has its error rate whatever the other one shows.
    if verdict in (OPEN, BETTER) and test.worse_evidence >= 1 / row.alpha:
        verdict = WORSE
    elif verdict == OPEN and test.better_evidence >= 1 / row.alpha:
        verdict = BETTER
    trials = tables.trials
    connection.execute(
        update(trials)
        .where(trials.c.id == row.id)
        .values(progress=_packed(pairing, test), verdict=verdict)
    )


def _check(values: Sequence[tuple[int, float]], known: tuple[int, int]) -> None:
    numbers = [number for number, _ in values]
    # A comparison with what is no number is False.
    sound = all(isinstance(value, int | float) and 0 <= value <= 1 for _, value in values)
    if not values or not sound or len(set(numbers)) != len(numbers):
        raise ConfigError(
            "this outcome cannot be counted",
            found=str(list(values)),
            expected="a number from 0 (bad) to 1 (good) for one version, or one for each of two",
        )
    if not set(numbers) <= set(known):
        raise ConfigError(
            "this outcome is of a version that takes no part in the trial",
            found=f"version {numbers}",
            expected=f"versions {known[0]} and {known[1]}",
        )


def _open(name: Name, alias: str) -> Any:
    table = tables.trials
    return select(table).where(
        table.c.tenant == name.tenant,
        table.c.name == name.name,
        table.c.alias == alias,
        table.c.ended_at.is_(None),
    )


def _packed(pairing: Pairing, test: RunningTest) -> dict[str, Any]:
    return {"pairing": asdict(pairing), "test": asdict(test)}


def _unpacked(progress: Any) -> tuple[Pairing, RunningTest]:
    test = dict(progress["test"])
    return Pairing(**progress["pairing"]), RunningTest(
        **{**test, "worse": tuple(test["worse"]), "better": tuple(test["better"])}
    )


def _trial(row: Any) -> Trial:
    _, test = _unpacked(row.progress)
    return Trial(
        id=row.id,
        name=Name(row.tenant, row.name),
        alias=row.alias,
        stable=row.stable,
        candidate=row.candidate,
        alpha=row.alpha,
        margin=row.margin,
        verdict=row.verdict,
        pairs=test.count,
        difference=test.mean,
        worse_evidence=test.worse_evidence,
        better_evidence=test.better_evidence,
        began_at=row.began_at,
        ended_at=row.ended_at,
    )
