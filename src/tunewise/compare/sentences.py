"""The recommendation in words. Every number comes from the table; no sentence is canned praise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from tunewise.compare.contract import Entry, Pair, Role, Verdict
from tunewise.compare.decide import ALPHA, FEW_ROWS, Decision, is_different
from tunewise.compare.entries import COST_LADDER, cost_order, rung
from tunewise.compare.wording import (
    flops_text,
    names_text,
    p_text,
    plural,
    points,
    score_text,
    size_text,
    tokens_text,
)
from tunewise.numerics.pairs import rows_to_resolve

DOMAINS = 10  # "if ten domains share one base", the example in `would_change`
_ACTIONS = {
    "prompt_text": "Tune the prompt and leave the weights alone",
    "virtual_tokens": "Tune a soft prompt and leave the weights alone",
    "kv_prefix": "Tune a soft prefix and leave the weights alone",
    "low_rank": "Fine-tune, by low-rank changes of the weights",
    "weights": "Fine-tune the weights",
}


def headline(found: Decision) -> str:
    """The answer in one or two plain sentences."""
    chosen, best = found.chosen.method, found.best.method
    others = [entry.method for entry in found.tied if entry is not found.chosen]
    if len(found.entries) == 1:
        return f"Only {chosen} was measured, so there is nothing to compare it with."
    if found.verdict is Verdict.NOT_ENOUGH_DATA:
        return (
            f"Not enough data to tell: on {plural(found.best.test.n, 'test row')} nothing is shown "
            f"to be better than {chosen}, yet {names_text(others)} may be up to "
            f"{points(found.possible_gain)} points better."
        )
    if found.verdict is Verdict.DO_NOT_ADAPT:
        return f"Do not adapt: nothing tried is better than the untouched base ({chosen})."
    if found.verdict is Verdict.CLASSIFIER:
        return (
            f"A small classifier is enough: nothing is better than {chosen}, which needs no model."
        )
    if found.verdict is Verdict.NOTHING_LEARNED:
        return (
            f"Nothing learned the task: no method is better than {chosen}, which gives every row "
            "the same answer."
        )
    action = f"{_ACTIONS[COST_LADDER[rung(found.chosen.parts)]]}: take {chosen}."
    if not others:
        return action
    if found.chosen is found.best:
        return f"{action} It scores highest, and {names_text(others)} cannot be told from it."
    return f"{action} It cannot be told from {best}, which scores highest, and is cheaper to run."


def reasons(found: Decision) -> Iterator[str]:
    """Why, from the most to the least important."""
    chosen, best = found.chosen, found.best
    fits = f", mean of {len(chosen.seeds)} seeds" if len(chosen.seeds) > 1 else ""
    yield (
        f"{chosen.method} scores {score_text(chosen.test)} on "
        f"{plural(chosen.test.n, 'test row')} ({chosen.test.metric}{fits})."
    )
    if best is not chosen:
        yield (
            f"{best.method} scores highest, {score_text(best.test)}, but the difference of "
            f"{_against(found.pair(best, chosen))} may be chance."
        )
    for reference in (found.role(Role.UNTOUCHED), found.role(Role.SHALLOW)):
        if reference is not None and reference not in (chosen, best):
            yield _set_beside(found, best, reference)
    below = next((entry for entry in found.entries if entry not in found.tied), None)
    if below is not None and below.role not in (Role.UNTOUCHED, Role.SHALLOW):
        yield f"The next below, {below.method}, is lower by {_against(found.pair(best, below))}."
    if len(found.tied) > 1:
        costs = "; ".join(f"{entry.method}: {cost_text(entry)}" for entry in found.tied)
        yield f"Of those that tie, the cheapest to run is preferred. {costs}."
        for passed in found.tied[: found.tied.index(chosen)]:
            yield (
                f"{passed.method} is cheaper still, but lower than {best.method} by "
                f"{_against(found.pair(best, passed))}: so loose a tie is no reason to take it."
            )
    else:
        yield f"It costs {cost_text(chosen)}."


def warnings(found: Decision) -> Iterator[str]:
    """What makes the numbers less sure, or a method's failure."""
    rows = found.best.test.n
    if rows < FEW_ROWS:
        yield f"Only {plural(rows, 'test row')}: differences of less than about " + (
            f"{points(1.96 * math.sqrt(0.2 / rows))} points cannot be seen."
        )
    trained = [entry for entry in found.entries if entry.role is Role.TRAINED]
    single = [entry.method for entry in trained if len(entry.seeds) == 1]
    if single:
        yield (
            f"One seed only: how much {names_text(single)} would change with another seed was not "
            "measured, and the intervals do not hold it."
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
    for entry in found.entries:
        yield from _about(found, entry)


def _about(found: Decision, entry: Entry) -> Iterator[str]:
    """Warnings about one entry."""
    name, rows = entry.method, entry.test.n
    calls_base = entry.role not in (Role.CONSTANT, Role.SHALLOW)
    if calls_base and entry.distinct_answers == 1 and rows > 1:
        yield f"{name} did not learn: it gives every test row the same answer."
    if entry.test.n_failed:
        answered = rows * len(entry.seeds)
        yield f"{name} failed on {entry.test.n_failed:,} of {answered:,} answers (counted as 0)."
    if entry.distinct_answers == 0:
        yield f"{name} answered no row at all."
    untouched = found.role(Role.UNTOUCHED)
    if untouched is not None and entry.role in (Role.TRAINED, Role.PROMPT):
        pair = found.pair(untouched, entry)
        if pair.difference > 0 and is_different(pair):
            yield f"{name} made the base worse: it is below {untouched.method} by {_against(pair)}."
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
        f"{entry.method} is not shown to be better than {reference.method}: {_against(pair)} "
        f"higher, but {why}."
    )


def would_change(found: Decision) -> Iterator[str]:
    """What would make the answer another one."""
    chosen, best = found.chosen, found.best
    rivals = [entry for entry in found.tied if entry is not chosen]
    rival = best if best is not chosen else next(iter(sorted(rivals, key=_minus_value)), None)
    if rival is not None:
        yield from _more_rows(found, rival)
    if best is not chosen:
        yield (
            f"If every point counts and cost does not, take {best.method}: on these rows it is "
            f"{points(found.pair(best, chosen).difference)} points higher (at most "
            f"{points(found.pair(best, chosen).high)})."
        )
    cheaper = [entry for entry in found.entries if cost_order(entry) < cost_order(chosen)]
    cheaper = [entry for entry in cheaper if entry.role is not Role.CONSTANT]
    if cheaper:
        near = min(cheaper, key=_minus_value)
        yield (
            f"If {_against(found.pair(chosen, near))} are worth less to you than a cheaper answer, "
            f"take {near.method} ({cost_text(near)})."
        )
    yield from _many_domains(found)
    yield from _floor(found)


def _more_rows(found: Decision, rival: Entry) -> Iterator[str]:
    """How many test rows would settle a tie."""
    pair = found.pair(rival, found.chosen)
    level = 1 - ALPHA / (len(found.entries) - 1)  # what Holm asks of the first of them
    needed = rows_to_resolve(pair.difference, pair.row_deviation, level=level)
    names = f"{rival.method} and {found.chosen.method}"
    if needed is None:
        yield f"{names} score the same here; more test rows would show whether that holds."
    elif needed <= pair.n:
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
            f"With about {_round_up(needed):,} test rows (there are {pair.n:,}) the gap of "
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


def _set_beside(found: Decision, best: Entry, reference: Entry) -> str:
    """The best set beside the untouched base or the small classifier."""
    pair = found.pair(best, reference)
    what = "the untouched base" if reference.role is Role.UNTOUCHED else "no model at all"
    end = "." if is_different(pair) else ", which may be chance."
    return (
        f"{reference.method} ({what}) scores {score_text(reference.test)}; {best.method} is "
        f"higher by {_against(pair)}{end}"
    )


def cost_text(entry: Entry) -> str:
    """What running and keeping an entry costs, in a clause."""
    before = f"{tokens_text(entry.prompt_tokens_per_request)} tokens before each request"
    if entry.role in (Role.CONSTANT, Role.SHALLOW):
        before = "no call of the model"
    fit = f", {flops_text(entry.fit.flops)} to fit" if entry.fit.flops > 0 else ""
    return f"{before}, {size_text(entry.bytes_on_disk)} on disk{fit}"


def _against(pair: Pair) -> str:
    """A difference with interval and the p-value that the rule used."""
    p_value = pair.p_value if pair.p_value_holm is None else pair.p_value_holm
    limits = f"{points(pair.low)} to {points(pair.high)}"
    return f"{points(pair.difference)} points ({limits}; {p_text(p_value)})"


def _minus_value(entry: Entry) -> float:
    """Sort key: highest test score first."""
    return -entry.test.value


def _round_up(rows: int) -> int:
    """Two significant digits, upwards: more would pretend to know."""
    step: int = 10 ** max(0, len(str(rows)) - 2)
    return math.ceil(rows / step) * step
