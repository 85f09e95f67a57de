"""What to do next, in sentences: more rows, of which label, which labels to look at, or ship."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunewise.compare.contract import Entry, Role, SliceScore, Verdict
from tunewise.compare.decide import ALPHA, FEW_ROWS, Decision
from tunewise.compare.entries import hardly_trained
from tunewise.compare.phrases import interval_text
from tunewise.compare.wording import names_text, plural, points
from tunewise.measure.evidence import Evidence, Measurement
from tunewise.numerics.intervals import independent_rows, share_limits

# Names of the figures of questions that are read here.
NOISY_ROWS, JUDGE_AGREES = "label_candidates", "judge_agrees"
GAIN_OF_ROWS = "gain_of_more_rows"
# Of answers it has not seen; below it, most rows that are named are the judge's own mistakes.
_SURE_JUDGE = 0.9
_WEAK_BY = 0.1  # points of 100 / 100 a label must lie below the mean to be called weak
_LEAST_ROWS = 5  # of a label; fewer say nothing about it
_MOST_LABELS = 3


def next_steps(found: Decision, evidence: Sequence[Evidence] = ()) -> Iterator[str]:
    """What to do, most useful first.

    Args:
        found: what the rule found.
        evidence: the questions that were asked.
    """
    noisy, judge = noisy_rows(evidence), judge_agrees(evidence)
    sure = judge is None or judge >= _SURE_JUDGE
    if noisy and sure:
        yield (
            f"Look at the {plural(noisy, 'row')} whose answer may be wrong (ranked under "
            "data_quality), correct those that are, then run again."
        )
    if found.verdict is Verdict.NOTHING_LEARNED:
        yield "Look at the rows and the instruction before anything else: the answers may be wrong."
    if found.verdict is Verdict.NOT_ENOUGH_DATA:
        yield from _to_tell(found)
    few = hardly_trained(found.entries)
    if few:
        yield f"Run again with a larger --budget: {names_text(list(few))} hardly began to train."
    yield from _more_rows(found, evidence)
    yield from _labels(found.chosen)
    if noisy and judge is not None and not sure:
        yield (
            f"Have a look at the first of {plural(noisy, 'row')} whose answer may be wrong (ranked "
            f"under data_quality): their judge agrees with {100 * judge:.0f}% of the answers it "
            "has not seen, so many are its own mistakes."
        )
    if _can_ship(found):
        yield f"Ship {found.chosen.method}: it is in {found.chosen.adaptation}."


def noisy_rows(evidence: Sequence[Evidence]) -> int:
    """Rows whose label is likely wrong, over all splits; told as a share of each."""
    return sum(
        round(each.value * each.n)
        for one in evidence
        for each in one.answered.measurements
        if each.name == NOISY_ROWS and each.value is not None
    )


def judge_agrees(evidence: Sequence[Evidence]) -> float | None:
    """How often what ranks those rows agrees with answers it has not seen; None if not told."""
    told = [
        each.value
        for one in evidence
        for each in one.answered.measurements
        if each.name == JUDGE_AGREES and each.value is not None
    ]
    return told[0] if told else None


def figure(evidence: Sequence[Evidence], name: str, about: str = "") -> Measurement | None:
    """The first figure of this name about this entry, wherever it was asked; None without value."""
    for one in evidence:
        for each in one.answered.measurements:
            if (each.name, each.about) == (name, about) and each.value is not None:
                return each
    return None


def _to_tell(found: Decision) -> Iterator[str]:
    """What would let the next run tell."""
    rows, seeds = found.best.test.n, len(found.best.seeds)
    if rows < FEW_ROWS:
        yield (
            f"{plural(rows, 'test row')} cannot tell methods apart: answer all there are, or "
            "label more."
        )
    elif seeds < 5 and found.best.fit.trainable_parameters:
        yield f"Run again with --seeds {5 if seeds > 1 else 3}, or with more test rows."


def _more_rows(found: Decision, evidence: Sequence[Evidence]) -> Iterator[str]:
    """What more rows would bring, where that was measured."""
    gain = figure(evidence, GAIN_OF_ROWS, found.chosen.method)
    if gain is None or gain.value is None:
        return
    limits = interval_text(gain.low, gain.high, points)
    worth = gain.low is not None and gain.low > 0.005
    advice = "Collect more rows" if worth else "More rows are not the next thing to pay for"
    count = gain.part.get("more_rows", 0)
    yield f"{advice}: another {count:,} would bring {points(gain.value)} points{limits}."


def _labels(entry: Entry) -> Iterator[str]:
    """The labels that the recommended entry answers worst, by more than the worst of as many
    equally hard ones would be: limits are those of all labels together (Bonferroni)."""
    slices = {} if entry.by_label is None else entry.by_label
    told = {name: each for name, each in slices.items() if each.n >= _LEAST_ROWS}
    level = 1 - ALPHA / max(1, len(told))
    weak = sorted(
        (each.value, name, each.n)
        for name, each in told.items()
        if each.value < entry.test.value - _WEAK_BY and _highest(each, level) < entry.test.value
    )
    for value, name, rows in weak[:_MOST_LABELS]:
        yield (
            f"Add rows of label {name}: {entry.method} finds {points(value)} of 100 on "
            f"{plural(rows, 'test row')}."
        )


def _highest(label: SliceScore, level: float) -> float:
    """The upper limit of a label's recall; rows of a group say less than as many others."""
    units = label.n if label.groups is None else label.groups
    rows = independent_rows(label.n, units, label.rows_worth_one, level=level)
    return share_limits(label.value, rows, level=level)[1]


def _can_ship(found: Decision) -> bool:
    settled = found.verdict not in (Verdict.NOT_ENOUGH_DATA, Verdict.NOTHING_LEARNED)
    wanted = found.priorities.minimum_quality
    sure = wanted is None or 100 * found.chosen.test.low >= wanted
    # What is cheaper than training was not held against any that had its chance.
    tried = found.chosen.role is Role.TRAINED or not hardly_trained(found.entries)
    return settled and found.met and sure and tried
