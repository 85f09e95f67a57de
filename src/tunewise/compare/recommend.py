"""Which one to take, and why: a pure function of the table (the rule is in `decide`)."""

from __future__ import annotations

from collections.abc import Sequence

from tunewise.compare.contract import Entry, Pair, Recommendation
from tunewise.compare.decide import decide
from tunewise.compare.sentences import headline, reasons, warnings, would_change


def recommend(entries: Sequence[Entry], pairs: Sequence[Pair]) -> Recommendation:
    """What to do, and why.

    Args:
        entries: of one table, in any order.
        pairs: every two entries, in either direction.

    Raises:
        RunError: there is no entry, or a pair is missing.
    """
    found = decide(entries, pairs)
    return Recommendation(
        method=found.chosen.method,
        verdict=found.verdict,
        headline=headline(found),
        best=found.best.method,
        tied_with=tuple(each.method for each in found.tied if each is not found.chosen),
        reasons=tuple(reasons(found)),
        warnings=tuple(warnings(found)),
        would_change=tuple(would_change(found)),
    )
