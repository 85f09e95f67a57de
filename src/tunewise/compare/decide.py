"""The rule that picks one, on the table and the priorities alone.

The rule. Of the entries that meet the priorities (all, where none does) take the one with the
highest test score. Those that cannot be told from it on the same rows tie with it: the interval of
the difference holds 0, or its p-value, corrected (Holm) for the number of comparisons with the
best, is 0.05 or more. Of the tied, recommend the cheapest to run that is no more than a point lower
on these rows (the priority `give_up_points`): a month's work where it is known, else lowest on the
ladder of parts, then fewest tokens per request, smallest, least work to fit. Where the truth is
known (benchmarks/regret_simulated.py), giving up more, or less the noisier the difference, loses
more than it saves: a loose tie says little of what is equal.

The correction guards the tie, not every exclusion: of nine equal methods a given one is left out in
1 of 100 runs, but some one in about 1 of 8, since the best is chosen on the very rows.

A tie is not a proof of equality. Where it would mean "do not adapt" or "a classifier is enough", it
must also be tight: with fewer than 50 test rows, or where a tied method may still be more than 5
points better (upper limit of the interval), or where it is lower by more than is given up, the
verdict is "not enough data to tell", and what is recommended is the best bet.

Nothing here looks at a method's name: roles and parts decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from tunewise.compare.contract import Entry, Pair, Role, Verdict
from tunewise.compare.entries import table_order
from tunewise.compare.priorities import Priorities, running_order, unmet
from tunewise.errors import RunError
from tunewise.numerics.pairs import holm

ALPHA = 0.05
FEW_ROWS = 50
MARGIN = 0.05
_ROUNDING = 1e-9  # a point is a point, whatever floats make of it
_ADAPTS_NOTHING = {
    Role.UNTOUCHED: Verdict.DO_NOT_ADAPT,
    Role.SHALLOW: Verdict.CLASSIFIER,
    Role.CONSTANT: Verdict.NOTHING_LEARNED,
}
Known = Mapping[tuple[str, str], Pair]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rule found, for the sentences.

    Attributes:
        entries: in the table's order.
        best: highest on test, of those that meet the priorities.
        chosen: recommended.
        runner_up: what would be recommended if `chosen` were not there, or None.
        tied: all that tie with the best, it and `chosen` among them, cheapest first.
        verdict: the short answer.
        possible_gain: by how much a tied entry may still be better than `chosen` (upper limit).
        plain: what adapts nothing and ties with the best, cheapest first.
        pairs: (a, b) -> score of a minus score of b, for both orders.
        priorities: what matters.
        unmet: why entries do not meet them, by method; those that do are not in it.
        met: whether anything meets them.
        base_bytes: of the base in memory.
    """

    entries: tuple[Entry, ...]
    best: Entry
    chosen: Entry
    runner_up: Entry | None
    tied: tuple[Entry, ...]
    verdict: Verdict
    possible_gain: float
    plain: tuple[Entry, ...]
    pairs: Known
    priorities: Priorities
    unmet: Mapping[str, tuple[str, ...]]
    met: bool
    base_bytes: int

    def pair(self, a: Entry, b: Entry) -> Pair:
        """Score of `a` minus score of `b`."""
        return self.pairs[(a.method, b.method)]

    def role(self, role: Role) -> Entry | None:
        """The highest entry with this role, or None."""
        return next((entry for entry in self.entries if entry.role is role), None)

    def order(self, entry: Entry) -> tuple[object, ...]:
        """Sort key from cheapest to dearest to run."""
        return running_order(entry, self.priorities)


def decide(
    entries: Sequence[Entry],
    pairs: Sequence[Pair],
    priorities: Priorities | None = None,
    base_bytes: int = 0,
    alone: Mapping[str, float] | None = None,
) -> Decision:
    """Apply the rule.

    Args:
        entries: of one table, in any order.
        pairs: every two entries, in either direction.
        priorities: what matters; None for nothing in particular.
        base_bytes: of the base in memory.
        alone: milliseconds of a request that is alone, by method, where measured.

    Raises:
        RunError: there is no entry, or a pair is missing.
    """
    if not entries:
        raise RunError("there is no entry to recommend from")
    wanted = Priorities.model_validate({}) if priorities is None else priorities
    ordered = tuple(sorted(entries, key=table_order))
    known = _both_ways(pairs)
    for a, b in combinations(ordered, 2):
        if (a.method, b.method) not in known:
            raise RunError(f"no paired difference between {a.method} and {b.method}")
    known_alone = {} if alone is None else alone
    faults = {
        each.method: unmet(each, wanted, base_bytes, known_alone.get(each.method))
        for each in ordered
    }
    able = [each for each in ordered if not faults[each.method]]
    pool = able if able else list(ordered)
    tied, chosen = _choose(pool, known, wanted)
    others = [each for each in pool if each is not chosen]
    plain = tuple(each for each in tied if each.role in _ADAPTS_NOTHING)
    gains = [known[(each.method, chosen.method)].high for each in tied if each is not chosen]
    gain = max(gains, default=0.0)
    return Decision(
        entries=ordered,
        best=pool[0],
        chosen=chosen,
        runner_up=_choose(others, dict(known), wanted)[1] if others else None,
        tied=tuple(tied),
        verdict=_verdict(tied, chosen, gain) if len(ordered) > 1 else Verdict.NOT_ENOUGH_DATA,
        possible_gain=gain,
        plain=plain,
        pairs=known,
        priorities=wanted,
        unmet={name: why for name, why in faults.items() if why},
        met=bool(able),
        base_bytes=base_bytes,
    )


def is_different(pair: Pair) -> bool:
    """Whether a difference with the best is more than chance, corrected for their number."""
    p_value = pair.p_value if pair.p_value_holm is None else pair.p_value_holm
    return p_value < ALPHA and not pair.low <= 0 <= pair.high


def _choose(
    pool: Sequence[Entry], known: dict[tuple[str, str], Pair], priorities: Priorities
) -> tuple[list[Entry], Entry]:
    """Those that tie with the first of the pool, cheapest first, and the one to take.

    The p-values of the pairs with the first are corrected in `known`.
    """
    best, others = pool[0], pool[1:]
    with_best = [known[(best.method, each.method)] for each in others]
    for pair, value in zip(with_best, holm([each.p_value for each in with_best]), strict=True):
        known[(pair.a, pair.b)] = replace(pair, p_value_holm=value)
        known[(pair.b, pair.a)] = replace(_reversed(pair), p_value_holm=value)
    tied = [best]
    tied += [each for each in others if not is_different(known[(best.method, each.method)])]
    tied.sort(key=lambda each: running_order(each, priorities))
    most = priorities.give_up_points / 100 + _ROUNDING
    near = (x for x in tied if x is best or known[(best.method, x.method)].difference <= most)
    return tied, next(near)


def _verdict(tied: Sequence[Entry], chosen: Entry, possible_gain: float) -> Verdict:
    """The short answer."""
    if chosen.role not in _ADAPTS_NOTHING:
        if any(each.role in _ADAPTS_NOTHING for each in tied):
            return Verdict.NOT_ENOUGH_DATA
        return Verdict.ADAPT if len(tied) == 1 else Verdict.THEY_TIE
    loose = chosen.test.n < FEW_ROWS or (
        possible_gain > MARGIN and chosen.role is not Role.CONSTANT
    )
    if len(tied) > 1 and loose:
        return Verdict.NOT_ENOUGH_DATA
    return _ADAPTS_NOTHING[chosen.role]


def _both_ways(pairs: Sequence[Pair]) -> dict[tuple[str, str], Pair]:
    """Every pair by its two names, in both orders."""
    found = {}
    for pair in pairs:
        found[(pair.a, pair.b)] = pair
        found[(pair.b, pair.a)] = _reversed(pair)
    return found


def _reversed(pair: Pair) -> Pair:
    """The same pair with its methods exchanged."""
    return replace(
        pair, a=pair.b, b=pair.a, difference=-pair.difference, low=-pair.high, high=-pair.low
    )
