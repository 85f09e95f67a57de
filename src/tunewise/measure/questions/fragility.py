"""What happens if the same is said otherwise? Formats, wordings, orders, typing slips, casing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import PromptTextPart
from tunewise.measure.evidence import Answered, Measurement, Picture, Point, TextTable, absent
from tunewise.measure.questions._again import named_entries
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._figures import SCORE, interval_text, paired_change, sampled
from tunewise.measure.questions._shares import (
    Chosen,
    by_weight,
    left_out_text,
    not_asked,
    share_field,
    within,
)
from tunewise.measure.questions._variants import FORMAT, ORDER, WORDING, Counts, Variant, variants
from tunewise.measure.questions._work import answering_passes
from tunewise.measure.records import RowResult
from tunewise.numerics.changes import spread_by_chance, worst_change
from tunewise.numerics.intervals import Floats, mean_interval
from tunewise.numerics.spread import spread_of
from tunewise.task.prompt import PromptText
from tunewise.task.types import Row, clusters_of

# Everything that is done to the input, beside the families that change how it is asked.
INPUT = "input"
FAMILIES = (FORMAT, WORDING, ORDER, INPUT)
# A drop of so much under the worst change is worth a sentence.
_LEAST_TOLD = 0.02
_MOST_CHARACTERS = 160


class FragilitySettings(QuestionSettings):
    """Settings of `fragility`."""

    rows: int = Field(96, ge=4, description="test rows answered under every change, at most")
    formats: int = Field(6, ge=0, description="formats of a row that are tried")
    wordings: int = Field(4, ge=0, description="other wordings of the instruction that are tried")
    orders: int = Field(3, ge=0, description="other orders of the demonstrations that are tried")
    seed: int = Field(0, ge=0, description="seed of rows, formats, orders and typing slips")
    share: float = share_field(0.12)
    entries: tuple[str, ...] = Field(
        (), description="names of entries; empty: two, and what the share pays for"
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """One change and what came of it: scores (n,) and answers of the rows."""

    family: str
    name: str
    scores: Floats
    answers: tuple[str | None, ...]
    inputs: tuple[str, ...]


class Fragility:
    """Answers the same rows under changes that leave their meaning."""

    name = "fragility"
    title = "Fragility"
    asks = "does the score move if the same is asked in another format, wording, order or spelling?"
    Settings = FragilitySettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return ""

    def cost(self, context: QuestionContext, settings: FragilitySettings) -> int:
        """See `Question.cost`."""
        return _chosen(context, settings).cost

    def measure(self, context: QuestionContext, settings: FragilitySettings) -> Answered:
        """See `Question.measure`."""
        rows = _rows(context, settings)
        places = {row.id: at for at, row in enumerate(context.test)}
        found: list[Measurement] = []
        points: list[Point] = []
        lines: list[tuple[str, ...]] = []
        chosen = _chosen(context, settings)
        for name in chosen.kept:
            subject = context.subjects[name][0]
            plain = [subject.record.test[places[row.id]] for row in rows]
            seen, left_out = _answered(context, settings, name, subject)
            before = np.array([one.score for one in plain])
            found += _of_entry(name, subject, rows, plain, seen, left_out)
            points += _points(name, before, seen)
            if seen:
                lines.append(_worst_line(name, rows, plain, before, seen))
        columns = ("entry", "worst change", "score, points", "a row", "as it was", "changed")
        table = TextTable(
            "The worst change of each entry, on one of its rows", columns, tuple(lines)
        )
        told = (
            *_findings(found),
            *left_out_text(self.name, chosen.left_out, settings.share),
        )
        found += not_asked("worst_change", chosen.left_out)
        return Answered(tuple(found), told, (_picture(points),), (table,) if lines else ())


def _chosen(context: QuestionContext, settings: FragilitySettings) -> Chosen[str]:
    """The entries asked about: those named, or those that the share pays for."""
    entries = named_entries(context, settings.entries, lambda fits: True)
    costs = {}
    for name in by_weight(entries):
        adaptation = entries[name][0].load()
        made, _ = _variants(context, settings, adaptation)
        costs[name] = sum(
            answering_passes(
                context.base, _with_prompt(adaptation, each.prompt, each.others), each.inputs
            )
            for each in made
        )
    return within(context, costs, settings.share, everything=bool(settings.entries))


def _rows(context: QuestionContext, settings: FragilitySettings) -> list[Row]:
    return sampled(context.test, settings.rows, seed=settings.seed)


def _variants(
    context: QuestionContext, settings: FragilitySettings, adaptation: Adaptation
) -> tuple[list[Variant], dict[str, str]]:
    counts = Counts(settings.formats, settings.wordings, settings.orders)
    rows = _rows(context, settings)
    return variants(adaptation, rows, context.view.train, counts, settings.seed)


def _with_prompt(
    adaptation: Adaptation, prompt: PromptText | None, others: tuple[PromptText, ...] = ()
) -> Adaptation:
    """The adaptation with other text prompts in the place of its own; None leaves them."""
    if prompt is None:
        return adaptation
    kept = tuple(part for part in adaptation.parts if not isinstance(part, PromptTextPart))
    return replace(adaptation, parts=(PromptTextPart(prompt, others), *kept))


def _answered(
    context: QuestionContext, settings: FragilitySettings, name: str, subject: Subject
) -> tuple[list[_Seen], dict[str, str]]:
    """Answers under every change; those that share a prompt share its prefix."""
    adaptation = subject.load()
    made, left_out = _variants(context, settings, adaptation)
    rows = _rows(context, settings)
    by_prompt: dict[tuple[PromptText | None, tuple[PromptText, ...]], list[Variant]] = {}
    for each in made:
        by_prompt.setdefault((each.prompt, each.others), []).append(each)
    seen = []
    for number, (prompts, group) in enumerate(by_prompt.items()):

        def make(
            prompts: tuple[PromptText | None, tuple[PromptText, ...]] = prompts,
            group: Sequence[Variant] = group,
        ) -> Mapping[str, Any]:
            changed = _with_prompt(adaptation, *prompts)
            with context.predictor(changed) as predictor:
                return {
                    "variants": [
                        _told(
                            context.answered(
                                predictor, changed, _rewritten(rows, each), name
                            ).results
                        )
                        for each in group
                    ]
                }

        stored = context.once(f"{name}, prompt {number}", make)
        for each, told in zip(group, stored["variants"], strict=True):
            family = each.family if each.family in FAMILIES else INPUT
            scores = np.array(told["scores"], dtype=np.float64)
            seen.append(_Seen(family, each.name, scores, tuple(told["answers"]), each.inputs))
    return seen, left_out


def _rewritten(rows: Sequence[Row], variant: Variant) -> list[Row]:
    return [replace(row, input=text) for row, text in zip(rows, variant.inputs, strict=True)]


def _told(results: Sequence[RowResult]) -> dict[str, Any]:
    return {
        "scores": [one.score for one in results],
        "answers": [one.answer for one in results],
    }


def _of_entry(
    name: str,
    subject: Subject,
    rows: Sequence[Row],
    plain: Sequence[RowResult],
    seen: Sequence[_Seen],
    left_out: Mapping[str, str],
) -> list[Measurement]:
    """The figures of every family, and of all changes together."""
    seeds = (subject.record.seed,)
    found = []
    for family in (*FAMILIES, "any"):
        own = [each for each in seen if family in ("any", each.family)]
        part = {"change": family}
        if not own:
            reason = left_out.get(family, "no such change was asked for, or none applies")
            found.append(absent("spread", name, SCORE, reason, seeds=seeds, part=part))
            found.append(absent("worst_change", name, SCORE, reason, seeds=seeds, part=part))
            continue
        found += _of_family(name, seeds, family, rows, plain, own)
    return found


def _of_family(
    name: str,
    seeds: tuple[int, ...],
    family: str,
    tested: Sequence[Row],
    plain: Sequence[RowResult],
    own: Sequence[_Seen],
) -> list[Measurement]:
    before, clusters = np.array([one.score for one in plain]), clusters_of(tested)
    changed = np.array([each.scores for each in own])
    means = [float(before.mean()), *changed.mean(axis=1).tolist()]
    spread = spread_of(means)
    chance, p_value = spread_by_chance(np.concatenate([before[None], changed]), clusters=clusters)
    failed = sum(answer is None for each in own for answer in each.answers)
    rows = f"{len(own)} changes and none, the same {before.size} rows"
    chanced = f"chance alone would show {100 * chance:.1f} points, p = {p_value:.3f}"
    figures = (
        ("spread", spread.range, f"highest minus lowest score over {rows}; {chanced}", False),
        ("interquartile", spread.interquartile, f"of the scores over {rows}", False),
        ("lowest", spread.lowest, f"lowest score over {rows}", True),
        ("highest", spread.highest, f"highest score over {rows}", True),
        ("spread_by_chance", chance, f"range if no change mattered, by permutation; {rows}", None),
    )
    part = {"change": family}
    found = [
        Measurement(what, name, SCORE, value, before.size, how, None, None, better, failed, seeds,
                    part=part)
        for what, value, how, better in figures
    ]  # fmt: skip
    worst = worst_change(before, changed, clusters=clusters)
    usual = paired_change(changed, before, clusters)
    same = np.array(
        [
            [float(one.answer == other) for one, other in zip(plain, each.answers, strict=True)]
            for each in own
        ]
    )
    kept = mean_interval(same, clusters=clusters)
    for what, interval, how in (
        ("worst_change", worst, "score under the worst change minus none; the change is chosen on "
         "one half of the rows and measured on the other, and in turn"),
        ("mean_change", usual, "score under a change minus none, mean over changes and rows"),
        ("answers_kept", kept, "share of answers that stay the same, over changes and rows"),
    ):  # fmt: skip
        found.append(
            Measurement(what, name, SCORE, interval.value, before.size, how, interval.low,
                        interval.high, True, failed, seeds, part=part)
        )  # fmt: skip
    return found


def _worst_line(
    name: str,
    rows: Sequence[Row],
    plain: Sequence[RowResult],
    before: Floats,
    seen: Sequence[_Seen],
) -> tuple[str, ...]:
    """The change under which the entry does worst, and a row whose score it lowers."""
    worst = min(seen, key=lambda each: float(each.scores.mean()))
    drops = before - worst.scores
    at = int(drops.argmax())
    scores = f"{100 * before.mean():.1f} to {100 * worst.scores.mean():.1f}"
    what = worst.name if worst.family == INPUT else f"{worst.family}: {worst.name}"
    was, now = plain[at].answer, worst.answers[at]
    return (
        name,
        what,
        scores,
        _cut(worst.inputs[at]) if drops[at] > 0 else "no row is hurt",
        _cut(was) if was is not None else "no answer",
        _cut(now) if now is not None else "no answer",
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"


def _findings(found: Sequence[Measurement]) -> tuple[str, ...]:
    told = []
    words = {
        FORMAT: "another format of the row",
        WORDING: "another wording of the instruction",
        ORDER: "another order of the demonstrations",
        INPUT: "slips and spellings of the input",
    }
    for each in found:
        family = str(each.part.get("change"))
        if each.name != "worst_change" or each.value is None or family not in words:
            continue
        if each.high is not None and each.high < 0 and each.value <= -_LEAST_TOLD:
            told.append(
                f"{each.about} is fragile to {words[family]}: the worst changes its score by "
                f"{interval_text(each)} points."
            )
    if not told and found:
        told.append("No entry is clearly hurt by any of the changes.")
    return tuple(told)


def _points(name: str, before: Floats, seen: Sequence[_Seen]) -> list[Point]:
    return [
        Point(name, 100 * float(before.mean()), group="as it is"),
        *(Point(name, 100 * float(each.scores.mean()), group=each.family) for each in seen),
    ]


def _picture(points: Sequence[Point]) -> Picture:
    return Picture(
        "Score under every change that leaves the meaning", "dots", "score, points", "",
        tuple(points),
    )  # fmt: skip


QUESTION = Fragility()
