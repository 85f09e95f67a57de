"""A race of text prompts on ever more validation rows, inside the budget of one fit.

All prompts are scored on a few rows, the better half on twice as many, and so on; rows are shared,
so that prompts are compared row by row. The shared part of a prompt is computed once. What a prompt
has scored stays with it, so it enters a later race on the same rows for nothing. The rows that no
race used are left to confirm the winner on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewise.adaptation.contestant import Contestant
from tunewise.model.ledger import Ledger
from tunewise.numerics.racing import cheapest_within_noise, survivors
from tunewise.task.types import clusters_of

# Closer than so many standard errors, two prompts tie and the cheaper one is taken. On the rows
# that a race has a whole one is some five points: it hid what demonstrations bring (docs/log.md).
TIE_ERRORS = 0.25
# After so many in a row that are too dear, no further one is built to be asked.
_PATIENCE = 6


@dataclass(frozen=True, slots=True)
class RaceOutcome:
    """How a race ended.

    Attributes:
        winner: the cheapest prompt that ties with the best; None where none was affordable.
        tried: for every prompt its name, the rows it was scored on, its loss on them, and why it
            was left out if it was; JSON values.
        standing: those that were left at the end, lowest loss first.
    """

    winner: Contestant | None
    tried: tuple[dict[str, Any], ...]
    standing: tuple[Contestant, ...] = ()


def race(
    contestants: Sequence[Contestant],
    *,
    first: int,
    ledger: Ledger,
    most: int | None = None,
    enough: int = 0,
    reserve: int = 0,
) -> RaceOutcome:
    """Run the race.

    Args:
        contestants: all on the same rows. Where the budget ends, the dearer ones are left out at
            the first turn and the worse ones later.
        first: rows that all are scored on; at every turn half of them go on, to twice the rows.
        ledger: says what is affordable.
        most: rows of the race, the first of the contestants' own; all of them unless given.
        enough: where no more than so many are left besides those that cost nothing, the race
            ends before all rows are scored.
        reserve: token passes to leave in the ledger.
    """
    left_out = {one.name: "longer than the context" for one in contestants if not one.fits}
    alive = sorted((one for one in contestants if one.fits), key=lambda one: one.price)
    standing: list[Contestant] = []
    last = max((len(one.examples) for one in alive), default=0) if most is None else most
    until = seen = min(first, last)
    while alive:
        scored = _scored(alive, until, ledger, reserve, ranked=bool(standing))
        left_out |= {one.name: "budget" for one in alive if len(one.scores) < until}
        if not scored:
            break
        standing, seen = scored, until
        then = min(2 * until, last)
        paying = sum(len(one.scores) < then for one in scored)
        if until == last or paying <= enough:
            break
        alive = _going_on(scored, until, then)
        until = then
    for one in contestants:
        if one not in standing:
            one.release()
    standing.sort(key=lambda one: float(one.losses(seen).mean()))
    return RaceOutcome(
        _winner(standing, seen),
        tuple(told(one, left_out.get(one.name)) for one in contestants),
        tuple(standing),
    )


def affordable(
    contestants: Iterable[Contestant], *, first: int, most: int, room: int
) -> tuple[list[Contestant], list[Contestant]]:
    """Those whose race can be paid to its end, so that no leader is left out half-way; and those
    of an earlier race, which are scored on the first rows already.

    Args:
        contestants: in the order they are admitted; one too dear is passed over, and after some
            such in a row no more are asked for.
        first: rows that all are scored on.
        most: rows of the race.
        room: token passes there are.

    Returns:
        Those admitted, and those passed over.
    """
    admitted: list[Contestant] = []
    passed_over: list[Contestant] = []
    in_a_row = 0
    for one in contestants:
        # Whoever is scored on the first rows already enters for nothing.
        free = one.cost(min(first, most)) == 0
        cost = 0 if free else math.ceil(_race_cost(one, first, most))
        if cost <= max(room, 0):
            room -= cost
            admitted.append(one)
            in_a_row = 0
            continue
        passed_over.append(one)
        in_a_row += 1
        if in_a_row == _PATIENCE:
            break
    return admitted, passed_over


def _race_cost(one: Contestant, first: int, most: int) -> float:
    """Token passes in the mean: half of the contestants go on at every turn, to twice the rows."""
    seen, share = min(first, most), 1.0
    cost = float(one.cost(seen))
    while seen < most:
        then, share = min(2 * seen, most), share / 2
        cost += share * (one.cost(then) - one.cost(seen))
        seen = then
    return cost


def _scored(
    alive: Sequence[Contestant], until: int, ledger: Ledger, reserve: int, *, ranked: bool
) -> list[Contestant]:
    """Score those that the budget pays, in their order.

    Args:
        alive: the contestants.
        until: rows.
        ledger: says what is affordable.
        reserve: token passes to leave in it.
        ranked: whether the best stand first. Then nobody is scored behind one that is too dear,
            and nobody at all where that is the leader: the race would go to the others.
    """
    scored: list[Contestant] = []
    ended = False
    for one in alive:
        cost = one.cost(until)
        if cost == 0 or (not ended and ledger.covers(cost + reserve)):
            one.extend(until)
            one.context.log.progress(ledger.spent, ledger.limit, f"{one.name}: {until} rows")
            scored.append(one)
        elif ranked:
            ended = True
            if one is alive[0]:
                return []
    return scored


def _going_on(scored: Sequence[Contestant], until: int, then: int) -> list[Contestant]:
    """The better half, best first, and whoever an earlier race has scored that far: it is free."""
    free = [one for one in scored if len(one.scores) >= then]
    losses = np.array([one.losses(until) for one in scored])
    clusters = clusters_of(scored[0].rows[:until])
    half = math.ceil((len(scored) - len(free)) / 2)
    kept = [scored[index] for index in survivors(losses, half + len(free), clusters)]
    paying = [one for one in kept if one not in free][:half]
    going = [one for one in kept if one in free or one in paying]
    return [*going, *(one for one in free if one not in going)]


def _winner(standing: Sequence[Contestant], seen: int) -> Contestant | None:
    if not standing:
        return None
    losses = np.array([one.losses(seen) for one in standing])
    prices = np.array([one.price for one in standing])
    clusters = clusters_of(standing[0].rows[:seen])
    return standing[cheapest_within_noise(losses, prices, errors=TIE_ERRORS, clusters=clusters)]


def told(one: Contestant, left_out: str | None = None) -> dict[str, Any]:
    """What a record says of a contestant: JSON values.

    Args:
        one: the contestant.
        left_out: why it was left out, if it was.
    """
    record: dict[str, Any] = {"candidate": one.name, "rows": len(one.scores)}
    if one.scores:
        record["loss"] = float(one.losses().mean())
    if left_out is not None:
        record["left_out"] = left_out
    return record
