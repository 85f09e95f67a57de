"""What makes the numbers less sure, in sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tunewise.compare.contract import Entry, Pair, Role
from tunewise.compare.decide import FEW_ROWS, Decision, is_different
from tunewise.compare.entries import hardly_trained, unseen_deviation
from tunewise.compare.phrases import against
from tunewise.compare.wording import names_text, plural, points, score_text
from tunewise.numerics.pairs import holm


def warnings(found: Decision) -> Iterator[str]:
    """What makes the numbers less sure, or a method's failure."""
    rows = found.best.test.n
    if rows < FEW_ROWS:
        yield f"Only {plural(rows, 'test row')}: differences of less than about " + (
            f"{points(1.96 * math.sqrt(0.2 / rows))} points cannot be seen."
        )
    trained = [entry for entry in found.entries if entry.role is Role.TRAINED]
    few = hardly_trained(found.entries)
    if few:
        least, most = min(few.values()), max(few.values())
        took = f"{least} to {plural(most, 'step')}" if least < most else plural(most, "step")
        yield (
            f"{names_text(list(few))} trained for only {took}: too few to tell what training "
            "brings. A larger --budget would."
        )
    single = {entry.method: each for entry in trained if (each := unseen_deviation(entry))}
    if single:
        low, high = points(min(single.values())), points(max(single.values()))
        allowed = high if low == high else f"{low} to {high}"
        yield (
            f"One seed only: how much {names_text(list(single))} would change with another seed "
            f"was not measured. The intervals of scores do not hold it; differences allow for "
            f"{allowed} points, as measured elsewhere."
        )
    began: dict[str, list[str]] = {}
    for entry in found.entries:
        if entry.notes.get("began_at") is not None:
            began.setdefault(entry.notes["began_at"], []).append(entry.method)
    for start, methods in began.items():
        yield (
            f"{names_text(methods)} began at what {start} had found; the work of finding that is "
            f"told with {start} alone."
        )
    worse = _made_worse(found)
    for entry in found.entries:
        yield from _about(found, entry, worse)


def _made_worse(found: Decision) -> dict[str, Pair]:
    """The untouched base against what it is better than, by method; corrected for their number."""
    untouched = found.role(Role.UNTOUCHED)
    if untouched is None:
        return {}
    adapted = [each for each in found.entries if each.role in (Role.TRAINED, Role.PROMPT)]
    pairs = [found.pair(untouched, each) for each in adapted]
    corrected = holm([pair.p_value for pair in pairs])
    told = {
        each.method: replace(pair, p_value_holm=value)
        for each, pair, value in zip(adapted, pairs, corrected, strict=True)
    }
    return {name: pair for name, pair in told.items() if pair.difference > 0 and is_different(pair)}


def _about(found: Decision, entry: Entry, worse: Mapping[str, Pair]) -> Iterator[str]:
    """Warnings about one entry."""
    name, rows = entry.method, entry.test.n
    calls_base = entry.role not in (Role.CONSTANT, Role.SHALLOW)
    if calls_base and entry.distinct_answers == 1 and rows > 1:
        words = "did not learn" if entry.role is Role.TRAINED else "does not tell rows apart"
        yield f"{name} {words}: it gives every test row the same answer."
    if entry.test.n_failed:
        answered = rows * len(entry.seeds)
        yield f"{name} failed on {entry.test.n_failed:,} of {answered:,} answers (counted as 0)."
    if entry.distinct_answers == 0:
        yield f"{name} answered no row at all."
    untouched = found.role(Role.UNTOUCHED)
    if untouched is not None and name in worse:
        gap = against(worse[name])
        yield f"{name} made the base worse: it is below {untouched.method} by {gap}."
    if entry.role is Role.TRAINED:
        for reference in (untouched, found.role(Role.SHALLOW)):
            yield from _not_shown(found, entry, reference)
    if entry.validation is not None and entry.validation.low > entry.test.high:
        yield (
            f"{name} scores {score_text(entry.validation)} on validation and "
            f"{score_text(entry.test)} on test: it fits the rows it was chosen on better than new "
            "ones, or the splits differ."
        )
    spread = max(entry.seed_values) - min(entry.seed_values)
    if spread > 0.05:
        yield f"The seeds of {name} lie {points(spread)} points apart; use the chosen one."


def _not_shown(found: Decision, entry: Entry, reference: Entry | None) -> Iterator[str]:
    """Why training that scores higher than what trains no model is not shown to be better."""
    if reference is None:
        return
    pair = found.pair(entry, reference)
    if pair.difference <= 0 or pair.low > 0:
        return
    values = entry.seed_values
    of_rows = pair.row_deviation / math.sqrt(pair.n)
    of_seeds = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    if of_seeds > of_rows:
        spread = points(max(values) - min(values))
        why = f"its seeds lie {spread} points apart, and more of them would tell"
    else:
        chance = points(1.96 * of_rows)
        why = f"{plural(pair.n, 'test row')} leave {chance} points either way to chance"
    yield (
        f"{entry.method} is not shown to be better than {reference.method}: {against(pair)} "
        f"higher, but {why}."
    )
