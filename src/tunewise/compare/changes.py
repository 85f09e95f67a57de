"""What would make the answer another one, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from tunewise.compare.contract import Entry, Role
from tunewise.compare.decide import ALPHA, Decision
from tunewise.compare.phrases import against, cost_text, interval_text, minus_value
from tunewise.compare.priorities import LEAST_CHANGES_A_MONTH, refits_a_month
from tunewise.compare.wording import names_text, points, score_text, size_text
from tunewise.measure.evidence import Evidence
from tunewise.numerics.pairs import rows_to_resolve

DOMAINS = 10  # "if ten domains share one base", the example in `would_change`
CROSSING, BREAK_EVEN = "crossing_rows", "break_even_requests"
_MOST_BREAK_EVENS = 2
_NOT_IN_TURNS = " (timed at different minutes; --questions cost_to_serve takes turns)"
_SAME_SPEED = 1.1  # milliseconds that differ by less are not told apart


def would_change(found: Decision, evidence: Sequence[Evidence] = ()) -> Iterator[str]:
    """What would make the answer another one.

    Args:
        found: what the rule found.
        evidence: the questions that were asked.
    """
    chosen, best = found.chosen, found.best
    rivals = [entry for entry in found.tied if entry is not chosen]
    rival = best if best is not chosen else next(iter(sorted(rivals, key=minus_value)), None)
    if rival is not None:
        yield from _more_rows(found, rival)
    if best is not chosen:
        yield (
            f"If every point counts and cost does not, take {best.method}: on these rows it is "
            f"{points(found.pair(best, chosen).difference)} points higher (at most "
            f"{points(found.pair(best, chosen).high)})."
        )
    yield from crossings(found, evidence)
    yield from break_evens(found, evidence)
    cheaper = [entry for entry in found.entries if found.order(entry) < found.order(chosen)]
    cheaper = [
        entry
        for entry in cheaper
        if entry.role is not Role.CONSTANT
        and entry.test.value <= chosen.test.value
        # What does not meet the priorities is no way out, where something does.
        and not (found.met and entry.method in found.unmet)
    ]
    if cheaper:
        near = min(cheaper, key=minus_value)
        yield (
            f"If {against(found.pair(chosen, near))} are worth less to you than a cheaper answer, "
            f"take {near.method} ({cost_text(near)})."
        )
    if found.priorities.domains == 1:
        yield from _many_domains(found)
    yield from _floor(found)
    yield from _relaxed(found)


def crossings(found: Decision, evidence: Sequence[Evidence]) -> Iterator[str]:
    """From how many training rows on another method would be ahead of the recommended one."""
    for each in (figure for one in evidence for figure in one.answered.measurements):
        names = (each.about, each.beside)
        if each.name != CROSSING or each.value is None or found.chosen.method not in names:
            continue
        if each.low is None:
            # Too many of the drawings do not cross at all.
            continue
        limits = interval_text(each.low, each.high, lambda rows: f"{rows:,.0f}")
        yield (
            f"{each.about} above about {each.value:,.0f} training rows{limits}, {each.beside} "
            "below, if the curves go on as they were measured."
        )


def break_evens(found: Decision, evidence: Sequence[Evidence] = ()) -> Iterator[str]:
    """From how many requests a month on a tied method, or the best prompt beside what was trained,
    takes less of the machine, or more.

    Where the two were timed in turns, that tells whether their speeds can be told apart at all.

    Args:
        found: what the rule found.
        evidence: the questions that were asked.
    """
    apart = _timed_apart(evidence)
    rivals = (entry for entry in found.tied if entry is not found.chosen)
    told = (_break_even_text(found, entry, apart) for entry in rivals)
    yield from islice((f"{text}." for text in told if text), _MOST_BREAK_EVENS)
    # What the weights have to earn back is asked of the best prompt too, though it is not as good.
    prompt = found.role(Role.PROMPT)
    if found.chosen.role is Role.TRAINED and prompt is not None and prompt not in found.tied:
        text = _break_even_text(found, prompt, apart)
        if text:
            yield f"{text}; it is lower by {against(found.pair(found.chosen, prompt))}."


def _break_even_text(
    found: Decision, entry: Entry, apart: Mapping[frozenset[str], bool]
) -> str | None:
    """From how many requests a month on an entry takes less of the machine, or more."""
    chosen, pair = found.chosen, frozenset((entry.method, found.chosen.method))
    requests = break_even(found, entry) if apart.get(pair, True) else None
    if requests is None:
        return None
    side = "Above" if entry.milliseconds_per_row < chosen.milliseconds_per_row else "Below"
    return (
        f"{side} about {_round_up(math.ceil(requests)):,} requests a month {entry.method} takes "
        f"less of this machine than {chosen.method}: {entry.milliseconds_per_row:.1f} "
        f"against {chosen.milliseconds_per_row:.1f} ms a request, "
        f"{entry.fit.seconds:.0f} against {chosen.fit.seconds:.0f} s a fit, "
        f"{_fits(found)}{'' if pair in apart else _NOT_IN_TURNS}"
    )


def _timed_apart(evidence: Sequence[Evidence]) -> dict[frozenset[str], bool]:
    """Of every pair that was timed in turns, whether the one that is dearer to fit is quicker."""
    return {
        frozenset((each.about, each.beside)): each.value is not None
        for one in evidence
        for each in one.answered.measurements
        if each.name == BREAK_EVEN
    }


def break_even(found: Decision, entry: Entry) -> float | None:
    """Requests a month at which an entry takes as much of the machine as the recommended one.

    None where one of them takes less at any number, or their speeds are not told apart.
    """
    chosen = found.chosen
    slow, fast = sorted((entry.milliseconds_per_row, chosen.milliseconds_per_row))[::-1]
    if fast <= 0 or slow / fast < _SAME_SPEED:
        return None
    refits = refits_a_month(found.priorities)
    saved = refits * (entry.fit.seconds - chosen.fit.seconds)
    per_request = (chosen.milliseconds_per_row - entry.milliseconds_per_row) / 1000
    return saved / per_request if saved / per_request > 0 else None


def _fits(found: Decision) -> str:
    """How often what is compared is fitted, in words."""
    changes, domains = found.priorities.changes_a_month, found.priorities.domains
    often = f"{changes:g} times a month" if changes > LEAST_CHANGES_A_MONTH else "once a year"
    return f"fitted {often}" if domains == 1 else f"each of {domains:,} domains fitted {often}"


def _relaxed(found: Decision) -> Iterator[str]:
    """What would be taken if the priorities did not keep it out."""
    top = found.entries[0]
    if found.met and top.method in found.unmet and top.test.value > found.best.test.value:
        yield f"Without these priorities {top.method} would lead: {score_text(top.test)}."


def _more_rows(found: Decision, rival: Entry) -> Iterator[str]:
    """How many test rows would settle a tie."""
    pair = found.pair(rival, found.chosen)
    level = 1 - ALPHA / (len(found.entries) - 1)  # what Holm asks of the first of them
    of_seeds = pair.seed_deviation**2
    needed = rows_to_resolve(pair.difference, pair.row_deviation, besides=of_seeds, level=level)
    names = f"{rival.method} and {found.chosen.method}"
    if pair.difference == 0 or pair.row_deviation == 0:
        yield f"{names} score the same here; more test rows would show whether that holds."
    elif needed is None or needed <= pair.n:
        yield (
            f"{names} differ by {points(abs(pair.difference))} points on these rows, but not by "
            "more than seeds and the number of comparisons explain: more seeds would settle it."
        )
    elif needed > 100_000:
        yield (
            f"The gap of {points(abs(pair.difference))} points between {names} is too small for "
            "any usual number of test rows to settle; it hardly matters."
        )
    else:
        yield (
            f"With about {_round_up(needed):,} test rows (here {pair.n:,}) the gap of "
            f"{points(abs(pair.difference))} points between {names} would be settled, if it stays."
        )


def _many_domains(found: Decision) -> Iterator[str]:
    """Storage when many adaptations share one base: it grows with the largest part."""
    trained = [entry for entry in found.entries if entry.role is Role.TRAINED]
    by_size = sorted(trained, key=lambda entry: entry.bytes_on_disk)
    if len(by_size) > 1 and by_size[-1].bytes_on_disk > 3 * by_size[0].bytes_on_disk:
        sizes = "; ".join(
            f"{entry.method} x {DOMAINS} = {size_text(DOMAINS * entry.bytes_on_disk)}"
            for entry in by_size
        )
        yield f"If {DOMAINS} tasks share one base, what is kept beside it grows to: {sizes}."


def _floor(found: Decision) -> Iterator[str]:
    """Who is left when the score must surely be above a limit."""
    limit = math.floor(100 * max(entry.test.low for entry in found.entries)) / 100
    able = [entry.method for entry in found.entries if entry.test.low >= limit]
    if limit > 0 and len(able) < len(found.entries):
        verb = "reach" if len(able) > 1 else "reaches"
        yield (
            f"If the score must be {points(limit)} or more even at the lower end of its interval, "
            f"only {names_text(able)} {verb} it."
        )


def _round_up(rows: int) -> int:
    """Two significant digits, upwards: more would pretend to know."""
    step: int = 10 ** max(0, len(str(rows)) - 2)
    return math.ceil(rows / step) * step
