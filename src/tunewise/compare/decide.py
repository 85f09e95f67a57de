"""The rule that picks one, on the table alone.

The rule. Take the entry with the highest test score. Those that cannot be told from it on the same
rows tie with it: the interval of the difference holds 0, or its p-value, corrected (Holm) for the
number of comparisons with the best, is 0.05 or more. Of the tied, recommend the cheapest to run:
lowest on the ladder of parts, then fewest tokens per request, smallest, least work to fit.

A tie is not a proof of equality. What is more than 5 points lower on these rows is passed over:
seeds that lie far apart, or few rows, make anything tie. Where the tie would mean "do not adapt" or
"a classifier is enough", it must also be tight: with fewer than 50 test rows, or where a tied
method may still be more than 5 points better (upper limit of the interval), the verdict is "not
enough data to tell".
Where a constant answer ties with the best, that failure is the verdict, from 50 rows on.

Nothing here looks at a method's name: roles and parts decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from tunewise.compare.contract import Entry, Pair, Role, Verdict
from tunewise.compare.entries import cost_order, table_order
from tunewise.errors import RunError
from tunewise.numerics.pairs import holm

ALPHA = 0.05
FEW_ROWS = 50
MARGIN = 0.05
_ADAPTS_NOTHING = {
    Role.UNTOUCHED: Verdict.DO_NOT_ADAPT,
    Role.SHALLOW: Verdict.CLASSIFIER,
    Role.CONSTANT: Verdict.NOTHING_LEARNED,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rule found, for the sentences.

    Attributes:
        entries: in the table's order.
        best: highest on test.
        chosen: recommended.
        tied: all that tie with the best, it and `chosen` among them, cheapest first.
        verdict: the short answer.
        possible_gain: by how much a tied entry may still be better than `chosen` (upper limit).
        pairs: (a, b) -> score of a minus score of b, for both orders.
    """

    entries: tuple[Entry, ...]
    best: Entry
    chosen: Entry
    tied: tuple[Entry, ...]
    verdict: Verdict
    possible_gain: float
    pairs: dict[tuple[str, str], Pair]

    def pair(self, a: Entry, b: Entry) -> Pair:
        """Score of `a` minus score of `b`."""
        return self.pairs[(a.method, b.method)]

    def role(self, role: Role) -> Entry | None:
        """The highest entry with this role, or None."""
        return next((entry for entry in self.entries if entry.role is role), None)


def decide(entries: Sequence[Entry], pairs: Sequence[Pair]) -> Decision:
    """Apply the rule.

    Args:
        entries: of one table, in any order.
        pairs: every two entries, in either direction.

    Raises:
        RunError: there is no entry, or a pair is missing.
    """
    if not entries:
        raise RunError("there is no entry to recommend from")
    ordered = tuple(sorted(entries, key=table_order))
    best, others = ordered[0], ordered[1:]
    known = _both_ways(pairs)
    for a, b in combinations(ordered, 2):
        if (a.method, b.method) not in known:
            raise RunError(f"no paired difference between {a.method} and {b.method}")
    with_best = [known[(best.method, each.method)] for each in others]
    for pair, value in zip(with_best, holm([each.p_value for each in with_best]), strict=True):
        known[(pair.a, pair.b)] = replace(pair, p_value_holm=value)
        known[(pair.b, pair.a)] = replace(_reversed(pair), p_value_holm=value)
    tied = [best]
    tied += [each for each in others if not is_different(known[(best.method, each.method)])]
    tied.sort(key=cost_order)
    chosen = _cheapest_near(tied, best, known)
    gains = [known[(each.method, chosen.method)].high for each in tied if each is not chosen]
    gain = max(gains, default=0.0)
    verdict = _verdict(ordered, tied, chosen, gain)
    return Decision(ordered, best, chosen, tuple(tied), verdict, gain, known)


def _cheapest_near(
    tied: Sequence[Entry], best: Entry, known: Mapping[tuple[str, str], Pair]
) -> Entry:
    """The first of the tied that is no more than the margin below the best.

    What adapts nothing is judged by its verdict instead, which asks for more.
    """
    if tied[0].role in _ADAPTS_NOTHING:
        return tied[0]
    near = (
        each
        for each in tied
        if each is best or known[(best.method, each.method)].difference <= MARGIN
    )
    return next(near)


def is_different(pair: Pair) -> bool:
    """Whether a difference with the best is more than chance, corrected for their number."""
    p_value = pair.p_value if pair.p_value_holm is None else pair.p_value_holm
    return p_value < ALPHA and not pair.low <= 0 <= pair.high


def _verdict(
    entries: Sequence[Entry], tied: Sequence[Entry], chosen: Entry, possible_gain: float
) -> Verdict:
    """The short answer."""
    if len(entries) == 1:
        return Verdict.NOT_ENOUGH_DATA
    if chosen.role not in _ADAPTS_NOTHING:
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
