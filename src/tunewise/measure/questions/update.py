"""What does it take to keep up? New rows and a new label: going on beside fitting anew.

Some training rows are held back and play the new ones. Of each kind of part the entry that is best
on validation rows is fitted without them, and goes on from there when they come: it starts from
what it found, sees old and new rows, and may spend its part of a fit's budget. Fitting anew is what
the run did with all rows. A prompt is edited the same way: its search begins at the old prompt.

A new label is held back whole; some rows of it come. What matters then is how well it is told, and
what the other labels lose by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from tunewise.adaptation.judge import sample_rows
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._again import (
    Outcome,
    answering_cost,
    fit_in_turns,
    passes_of,
    results_on,
    share_of,
    validation_mean,
)
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._new_label import new_label, rows_with, why_no_label, with_label
from tunewise.measure.questions._shares import (
    AT_LEAST,
    Chosen,
    by_weight,
    left_out_text,
    not_asked,
    share_field,
    within,
)
from tunewise.measure.questions._subsets import nested_order
from tunewise.measure.questions._telling import figures
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.pairs import paired_difference
from tunewise.task.types import Kind, Row, clusters_of

FEWEST_ROWS = 40
ROWS, LABEL = "new rows", "a new label"
BEFORE, CONTINUED, ANEW = "before", "continued", "fitted_anew"


class UpdateSettings(QuestionSettings):
    """Settings of `update`."""

    fits_again: ClassVar[bool] = True

    added: tuple[int, ...] = Field((50, 500), description="numbers of new rows")
    rows: int = Field(200, ge=20, description="test rows answered after each fit, at most")
    label_rows: int = Field(50, ge=1, description="rows of the new label, at most")
    new_label: str | None = Field(
        None, description="label that is new; unset: one of middling frequency"
    )
    kinds: tuple[str, ...] = Field(
        ("prompt_text", "virtual_tokens", "low_rank"),
        description="kinds of part whose best entry is asked about, as the share pays for it",
    )
    share: float = share_field(0.27)


class Update:
    """New rows and a new label for the best entry of every kind of part."""

    name = "update"
    title = "Update"
    asks = "what does it take, and bring, to add rows or a label to what was fitted?"
    Settings = UpdateSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        count = len(context.view.train)
        if count < FEWEST_ROWS:
            return (
                f"at least {FEWEST_ROWS} training rows are needed to hold some back, found {count}"
            )
        return ""

    def cost(self, context: QuestionContext, settings: UpdateSettings) -> int:
        """A fit without the new rows and one that goes on for each number of them."""
        return _chosen(context, settings).cost

    def measure(self, context: QuestionContext, settings: UpdateSettings) -> Answered:
        """See `Question.measure`."""
        found: list[Measurement] = []
        entries = _entries(context, settings)
        if not entries:
            kinds = ", ".join(settings.kinds)
            return Answered((absent("gain", "", "score", f"no entry is one of {kinds} alone"),))
        chosen = _chosen(context, settings)
        label = new_label(context, settings.new_label)
        for name, what in chosen.kept:
            if what == ROWS:
                found += _new_rows(context, settings, name, entries[name])
        for name, what in chosen.kept:
            if what == LABEL:
                # Of many labels a plain sample of the test rows may hold none of this one.
                rows = rows_with(context, label, settings.rows)
                found += with_label(context, entries[name], label, settings.label_rows, rows)
        reason = why_no_label(context, label)
        if reason:
            found.append(absent("new_label_score", "", "score", reason))
        left_out = [f"{name} with {what}" for name, what in chosen.left_out]
        told = (*_findings(found), *left_out_text(self.name, left_out, settings.share))
        for name, what in chosen.left_out:
            found += not_asked("gain" if what == ROWS else "new_label_score", [name])
        return Answered(tuple(found), told, _pictures(found))


def _entries(context: QuestionContext, settings: UpdateSettings) -> dict[str, Subject]:
    """Of every kind of part the entry that is best on validation rows, in the order asked for."""
    by_kind: dict[str, list[Subject]] = {}
    for subject in context.chosen().values():
        trained = [kind for kind in subject.record.parts if kind != "prompt_text"]
        if len(trained) <= 1:
            by_kind.setdefault(trained[0] if trained else "prompt_text", []).append(subject)
    prompts = by_kind.get("prompt_text", [])
    if len(prompts) > 1:
        # The one that cost least to find is the plain instruction: nothing in it is from rows.
        prompts.remove(min(prompts, key=lambda each: passes_of(each.record)))
    best = [
        max(by_kind[kind], key=lambda each: validation_mean(each.record))
        for kind in settings.kinds
        if kind in by_kind
    ]
    return {subject.record.method: subject for subject in best}


def _chosen(context: QuestionContext, settings: UpdateSettings) -> Chosen[tuple[str, str]]:
    """Entries with what comes to each, rows or a label: what the share pays for."""
    added, entries = _added(context, settings), _entries(context, settings)
    # One fit before, then a share for every time it goes on; the rows are answered after each.
    shares = {ROWS: [1.0, *(share_of(context, count) for count in added)]}
    if not why_no_label(context, new_label(context, settings.new_label)):
        shares[LABEL] = [1.0, share_of(context, settings.label_rows)]
    rows = _tested(context, settings)
    names = by_weight({name: (subject,) for name, subject in entries.items()})
    costs = {}
    for some in (names[:AT_LEAST], names[AT_LEAST:]):
        for what, spent in shares.items():
            for name in some:
                whole = max(passes_of(entries[name].record), 1)
                answering = answering_cost(context, entries[name], rows)
                costs[name, what] = 1.05 * (sum(spent) * whole + len(spent) * answering)
    return within(context, costs, settings.share, everything=False)


def _tested(context: QuestionContext, settings: UpdateSettings) -> tuple[Row, ...]:
    """The test rows answered, the same after every fit."""
    return sample_rows(context.test, settings.rows, seed=0)


def _added(context: QuestionContext, settings: UpdateSettings) -> list[int]:
    """The numbers of new rows, none above half of all."""
    most = len(context.view.train) // 2
    return sorted({min(count, most) for count in settings.added if count > 0})


def _new_rows(
    context: QuestionContext, settings: UpdateSettings, name: str, subject: Subject
) -> list[Measurement]:
    view, added = context.view, _added(context, settings)
    rows = _tested(context, settings)
    whole = clusters_of(rows)
    by_label = view.spec.kind is Kind.CLASSIFICATION
    order = nested_order(view.train, subject.record.seed, by_label=by_label)
    held = added[-1]
    old = order[: len(order) - held]
    views = [(f"{len(old)} rows", replace(view, train=old), 1.0)]
    views += [
        (f"{count} more", replace(view, train=order[: len(old) + count]), share_of(context, count))
        for count in added
    ]
    before, *continued = fit_in_turns(context, subject, views, rows)
    record = subject.record
    own = results_on(record, rows)
    failed = sum(one.answer is None for one in own)
    anew = Outcome(tuple(one.score for one in own), failed, passes_of(record), record.seconds)
    found = [_scored(context, subject, BEFORE, 0, before, whole)]
    for count, outcome in zip(added, continued, strict=True):
        found.append(_scored(context, subject, CONTINUED, count, outcome, whole))
        found += _costs(name, CONTINUED, count, outcome, record.seed)
        found.append(_difference("gain", subject, count, (outcome, before), whole))
    found.append(_scored(context, subject, ANEW, held, anew, whole))
    found += _costs(name, ANEW, held, anew, record.seed)
    found.append(_difference("behind_new_fit", subject, held, (anew, continued[-1]), whole))
    return found


def _scored(
    context: QuestionContext,
    subject: Subject,
    way: str,
    added: int,
    outcome: Outcome,
    clusters: Sequence[str] | None,
) -> Measurement:
    part: dict[str, str | int] = {"way": way, "added": added}
    name = subject.record.method
    if outcome.absent:
        return absent("score", name, "score", outcome.absent, part=part)
    interval = mean_interval([outcome.scores], clusters=clusters)
    share = f"{100 * share_of(context, added):.0f}% of a fit's budget"
    how = {
        BEFORE: "fitted without the new rows, whole budget",
        CONTINUED: f"gone on from that with the new rows, {share}",
        ANEW: "the run's own fit, which had all rows",
    }[way]
    return Measurement(
        "score", name, "score", interval.value, len(outcome.scores), how,
        interval.low, interval.high, higher_is_better=True, n_failed=outcome.failed,
        seeds=(subject.record.seed,), part=part,
    )  # fmt: skip


def _costs(name: str, way: str, added: int, outcome: Outcome, seed: int) -> list[Measurement]:
    part: dict[str, str | int] = {"way": way, "added": added}
    if outcome.absent:
        return [absent("token_passes", name, "token_passes", outcome.absent, part=part)]
    how = "counted" if way == CONTINUED else "counted when the run fitted it"
    return [
        Measurement(
            what, name, what, value, 1, f"{how}; n: fits", higher_is_better=False,
            seeds=(seed,), part=part,
        )
        for what, value in (
            ("token_passes", float(outcome.token_passes)),
            ("seconds", outcome.seconds),
        )
    ]  # fmt: skip


def _difference(
    what: str,
    subject: Subject,
    added: int,
    both: tuple[Outcome, Outcome],
    clusters: Sequence[str] | None,
) -> Measurement:
    """The first minus the other on the same rows."""
    one, other = both
    name, part = subject.record.method, {"added": added}
    for outcome in both:
        if outcome.absent:
            return absent(what, name, "score", outcome.absent, part=part)
    told = paired_difference(one.scores, other.scores, clusters=clusters)
    how = {
        "gain": "gone on with the new rows minus before them, on the same test rows",
        "behind_new_fit": "the run's own fit minus gone on with the new rows, same test rows",
    }[what]
    return Measurement(
        what, name, "score", told.difference, len(one.scores), how, told.low, told.high,
        higher_is_better=what == "gain", seeds=(subject.record.seed,), part=part,
    )  # fmt: skip


def _findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    told = []
    passes = _by(found, "token_passes")
    anew = {name: value for (name, way, _), value in passes.items() if way == ANEW}
    for each in figures(found, "gain"):
        name, added = each.of.about, each.of.part["added"]
        spent, whole = passes.get((name, CONTINUED, added)), anew.get(name)
        cost = ""
        if spent is not None and whole:
            cost = f" for {100 * spent / whole:.0f}% of the work of a new fit"
        verdict = "cannot be told from nothing" if each.low <= 0 <= each.high else "is a gain"
        verdict = "is a loss" if each.high < 0 else verdict
        told.append(
            f"Going on with {added} new rows changes {name} by {each.points()} points{cost}; that "
            f"{verdict}."
        )
    told += [
        f"Fitting {each.of.about} anew on all rows instead of going on with the last "
        f"{each.of.part['added']} changes it by {each.points()} points."
        for each in figures(found, "behind_new_fit")
    ]
    others = {each.of.about: each for each in figures(found, "change_of_others")}
    told += [
        f"After {each.of.part['added']} rows of the new label {each.of.part['label']!r}, "
        f"{each.of.about} gets {each.points()} of 100 rows of it right; the other labels change by "
        f"{others[each.of.about].points()} points."
        for each in figures(found, "new_label_score")
    ]
    return tuple(told)


def _by(found: Sequence[Measurement], name: str) -> Mapping[tuple[str, str, Any], float]:
    return {
        (each.about, str(each.part["way"]), each.part["added"]): each.value
        for each in found
        if each.name == name and each.value is not None
    }


def _pictures(found: Sequence[Measurement]) -> tuple[Picture, ...]:
    points = tuple(
        Point(
            each.of.about, each.value, each.low, each.high,
            group=f"{str(each.of.part['way']).replace('_', ' ')}, {each.of.part['added']} added",
        ).in_points()
        for each in figures(found, "score")
    )  # fmt: skip
    if not points:
        return ()
    return (
        Picture("Going on beside fitting anew", "dots", "score on test rows, points", "", points),
    )


QUESTION = Update()
