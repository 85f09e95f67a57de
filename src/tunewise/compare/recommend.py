"""Which one to take: a pure function of the table."""

from __future__ import annotations

from collections.abc import Sequence

from tunewise.compare.contract import Entry, Pair, Recommendation


def recommend(entries: Sequence[Entry], pairs: Sequence[Pair]) -> Recommendation:
    """What to do, and why.

    Args:
        entries: of one table, in any order.
        pairs: every two entries, in either direction.
    """
    raise NotImplementedError
