"""The recommendation in words. Every number comes from the table; no sentence is canned praise."""

from __future__ import annotations

from collections.abc import Iterator

from tunewise.compare.contract import Entry, Reason, Role, Source, Verdict
from tunewise.compare.decide import Decision, is_different
from tunewise.compare.entries import COST_LADDER, hardly_trained, rung
from tunewise.compare.phrases import against, cost_text
from tunewise.compare.priorities import month_of
from tunewise.compare.wording import names_text, plural, points, score_text

_ACTIONS = {
    "prompt_text": "Tune the prompt and leave the weights alone",
    "virtual_tokens": "Tune a soft prompt and leave the weights alone",
    "kv_prefix": "Tune a soft prefix and leave the weights alone",
    "low_rank": "Fine-tune, by low-rank changes of the weights",
    "weights": "Fine-tune the weights",
}
# What a reason rests on, and where the report shows it.
_SCORE, _PAIR, _COST = "accuracy", "paired_difference", "cost"


def headline(found: Decision) -> str:
    """The answer in one or two plain sentences."""
    limit = "" if found.met else " Nothing measured meets the priorities; this is the nearest."
    return _answer(found) + _untrained(found) + limit


def _untrained(found: Decision) -> str:
    """That a verdict against training rests on training that hardly began; "" where it does not."""
    few = list(hardly_trained(found.entries))
    if not few or found.verdict not in (
        Verdict.DO_NOT_ADAPT,
        Verdict.CLASSIFIER,
        Verdict.NOTHING_LEARNED,
    ):
        return ""
    return f" It holds for this budget only: {names_text(few)} hardly began to train."


def _answer(found: Decision) -> str:
    chosen, best = found.chosen.method, found.best.method
    others = [entry.method for entry in found.tied if entry is not found.chosen]
    among = " that meets the priorities" if found.met and found.unmet else ""
    if len(found.entries) == 1:
        return f"Only {chosen} was measured, so there is nothing to compare it with."
    if found.verdict is Verdict.NOT_ENOUGH_DATA:
        return _undecided(found, others)
    if found.verdict is Verdict.DO_NOT_ADAPT:
        return f"Do not adapt: nothing tried{among} is better than the untouched base ({chosen})."
    if found.verdict is Verdict.CLASSIFIER:
        return (
            f"A small classifier is enough: nothing{among} is better than {chosen}, which needs "
            "no model."
        )
    if found.verdict is Verdict.NOTHING_LEARNED:
        return (
            f"Nothing learned the task: no method{among} is better than {chosen}, which gives "
            "every row the same answer."
        )
    action = f"{_ACTIONS[COST_LADDER[rung(found.chosen.parts)]]}: take {chosen}."
    if not others:
        return action
    if found.chosen is found.best:
        return f"{action} It scores highest, and {names_text(others)} cannot be told from it."
    return f"{action} It cannot be told from {best}, which scores highest, and is cheaper to run."


def _undecided(found: Decision, others: list[str]) -> str:
    rows = plural(found.best.test.n, "test row")
    if found.chosen in found.plain:
        return (
            f"Not enough data to tell: on {rows} nothing is shown to be better than "
            f"{found.chosen.method}, yet {names_text(others)} may be up to "
            f"{points(found.possible_gain)} points better."
        )
    plain = found.plain[0]
    pair = found.pair(found.best, plain)
    return (
        f"Not enough data to tell: on {rows} nothing is shown to be better than {plain.method}, "
        f"yet {found.best.method} may be up to {points(pair.high)} points better. Until more is "
        f"known, {found.chosen.method} is the best bet."
    )


def reasons(found: Decision) -> Iterator[Reason]:
    """Why, from the most to the least important."""
    chosen, best = found.chosen, found.best
    fits = f", mean of {len(chosen.seeds)} seeds" if len(chosen.seeds) > 1 else ""
    yield Reason(
        f"{chosen.method} scores {score_text(chosen.test)} on "
        f"{plural(chosen.test.n, 'test row')} ({chosen.test.metric}{fits}).",
        Source(_SCORE, (chosen.method,), chosen.test.n),
    )
    if best is not chosen:
        yield _paired(
            best,
            chosen,
            f"{best.method} scores highest, {score_text(best.test)}, but its lead on "
            f"{chosen.method}, {against(found.pair(best, chosen))}, may be chance.",
        )
    for reference in (found.role(Role.UNTOUCHED), found.role(Role.SHALLOW)):
        if reference is not None and _below(reference, found):
            yield _paired(best, reference, _set_beside(found, best, reference))
    below = next((entry for entry in found.entries if _is_below(found, entry)), None)
    if below is not None:
        gap = against(found.pair(best, below))
        text = f"The next below, {below.method}, is lower than {best.method} by {gap}."
        yield _paired(best, below, text)
    yield from _costs(found)
    yield from _kept_out(found)


def _below(reference: Entry, found: Decision) -> bool:
    """Whether it is neither the best nor the recommended, nor kept out above them."""
    told = (found.chosen, found.best)
    return reference not in told and reference.test.value <= found.best.test.value


def _is_below(found: Decision, entry: Entry) -> bool:
    told = (Role.UNTOUCHED, Role.SHALLOW)
    able = not found.met or entry.method not in found.unmet
    return able and entry not in found.tied and entry.role not in told


def _costs(found: Decision) -> Iterator[Reason]:
    """What the recommended costs, beside what ties with it."""
    chosen, best = found.chosen, found.best
    if len(found.tied) == 1:
        source = Source(_COST, (chosen.method,), chosen.test.n)
        yield Reason(f"It costs {_running(found, chosen)}.", source)
        return
    costs = "; ".join(f"{entry.method}: {_running(found, entry)}" for entry in found.tied)
    yield Reason(
        f"Of those that tie, the cheapest to run is preferred. {costs}.",
        Source(_COST, tuple(entry.method for entry in found.tied), chosen.test.n),
    )
    # Months that cost the same within a quarter are taken in the ladder's order.
    dear = "costs no more" if found.priorities.count_costs else "is cheaper still"
    for passed in found.tied[: found.tied.index(chosen)]:
        given = found.priorities.give_up_points
        yield _paired(
            best,
            passed,
            f"{passed.method} {dear}, but is lower than {best.method} by "
            f"{against(found.pair(best, passed))}, more than the {given:g} given up for a cheaper "
            "answer.",
        )


def _running(found: Decision, entry: Entry) -> str:
    """What running costs: a month's work where it is known."""
    told = cost_text(entry)
    if not found.priorities.count_costs:
        return told
    return f"{month_of(entry, found.priorities).text}, {told}"


def _kept_out(found: Decision) -> Iterator[Reason]:
    """Entries above the recommended that do not meet the priorities."""
    above = [entry for entry in found.entries if entry.test.value > found.best.test.value]
    for entry in above:
        why = " and ".join(found.unmet.get(entry.method, ()))
        if why:
            yield _paired(
                entry,
                found.best,
                f"{entry.method} scores {score_text(entry.test)}, but does not meet the "
                f"priorities: it {why}.",
            )


def _set_beside(found: Decision, best: Entry, reference: Entry) -> str:
    """The best set beside the untouched base or the small classifier."""
    pair = found.pair(best, reference)
    what = "the untouched base" if reference.role is Role.UNTOUCHED else "no model at all"
    end = "." if is_different(pair) else ", which may be chance."
    scores = f"{reference.method} ({what}) scores {score_text(reference.test)}"
    if points(abs(pair.difference)) == points(0.0):
        return f"{scores}, as {best.method} does: they are {against(pair)} apart."
    return f"{scores}; {best.method} is higher by {against(pair)}{end}"


def _paired(a: Entry, b: Entry, text: str) -> Reason:
    return Reason(text, Source(_PAIR, (a.method, b.method), a.test.n))
