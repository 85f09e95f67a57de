"""Which one to take, and why: a pure function of table and priorities (the rule is in `decide`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunewise.compare.cautions import warnings
from tunewise.compare.changes import would_change
from tunewise.compare.contract import Entry, Pair, Recommendation
from tunewise.compare.decide import decide
from tunewise.compare.next_steps import next_steps
from tunewise.compare.priorities import Priorities
from tunewise.compare.sentences import headline, reasons
from tunewise.measure.evidence import Evidence

# What serving tells of a request that shares no batch, and of one that does.
ALONE, BATCHED = "milliseconds_alone", "milliseconds_batched"


def recommend(
    entries: Sequence[Entry],
    pairs: Sequence[Pair],
    priorities: Priorities | None = None,
    evidence: Sequence[Evidence] = (),
    base_bytes: int = 0,
) -> Recommendation:
    """What to do, and why.

    Args:
        entries: of one table, in any order.
        pairs: every two entries, in either direction.
        priorities: what matters; None for nothing in particular.
        evidence: the questions that were asked.
        base_bytes: of the base in memory.

    Raises:
        RunError: there is no entry, or a pair is missing.
    """
    alone, batched = _times(evidence, ALONE), _times(evidence, BATCHED)
    if all(each.method in batched for each in entries):
        # Timed in turns, so that a slow minute of the machine met all; the table's are not.
        entries = [replace(each, milliseconds_per_row=batched[each.method]) for each in entries]
    found = decide(entries, pairs, priorities, base_bytes, alone)
    told = list(reasons(found))
    return Recommendation(
        method=found.chosen.method,
        verdict=found.verdict,
        headline=headline(found),
        best=found.best.method,
        tied_with=tuple(each.method for each in found.tied if each is not found.chosen),
        reasons=tuple(each.text for each in told),
        warnings=tuple(warnings(found)),
        would_change=tuple(would_change(found, evidence)),
        runner_up=None if found.runner_up is None else found.runner_up.method,
        next_steps=tuple(next_steps(found, evidence)),
        reason_sources=tuple(each.source for each in told),
        priorities=found.priorities.given(),
        unmet=found.unmet,
    )


def _times(evidence: Sequence[Evidence], name: str) -> dict[str, float]:
    """Milliseconds of this name by method, where they were measured."""
    return {
        each.about: each.value
        for one in evidence
        for each in one.answered.measurements
        if each.name == name and each.value is not None
    }
