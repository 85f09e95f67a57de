"""How many rows does each method need? Fits on nested parts of the training rows, and a curve.

Five sizes in geometric steps, the full one taken from the run itself. A part of the rows has that
part of a fit's budget, but not less than an eighth. Sizes are done from the smallest up; from the
third on, a method is left out that is clearly behind the best both at the size before and with all
rows: between the two it has no chance. Its curve then rests on fewer sizes. Which entries are asked
about at all, `_shares` says: a curve costs two or three fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pydantic import Field

from tunewise.adaptation.judge import sample_rows
from tunewise.measure.evidence import Answered, Measurement, absent
from tunewise.measure.questions._again import (
    Floats,
    answering_cost,
    fit_again,
    is_constant,
    named_entries,
    passes_of,
    results_on,
    scores_on_test,
)
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings
from tunewise.measure.questions._curves_told import crossings_of, findings_of, pictures_of
from tunewise.measure.questions._shares import (
    Chosen,
    by_weight,
    left_out_text,
    not_asked,
    share_field,
    within,
)
from tunewise.measure.questions._subsets import growing_sizes, part_of
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.learning_curve import (
    FEWEST_SIZES,
    LearningCurve,
    fit_curve,
    gain,
    smallest_size,
)
from tunewise.numerics.pairs import paired_difference
from tunewise.task.types import Row, clusters_of

FEWEST_ROWS = 64
_LEAST_SHARE = 0.125
_LEAST_ROWS = 8
_SPAN = 40.0
_ALWAYS = 2  # sizes below the full one that every method is fitted at
_LEAST_FITS, _MOST_FITS, _MOST_COST = 2, 3, 3.0


class DataNeedSettings(QuestionSettings):
    """Settings of `data_need`."""

    fits_again: ClassVar[bool] = True

    sizes: int = Field(5, ge=4, description="numbers of training rows tried, the full one included")
    fits: int | None = Field(
        None,
        ge=1,
        description="fits at each size, each with a part of the rows drawn; unset: 3, or 2 where a "
        "curve of 3 would cost 3 whole fits or more",
    )
    tolerance: float = Field(
        0.02, gt=0, lt=1, description="score (0 to 1) that fewer rows may cost"
    )
    rows: int = Field(200, ge=20, description="test rows answered after each fit, at most")
    more_rows: int = Field(1000, ge=1, description="further rows whose gain is told")
    share: float = share_field(0.25)
    entries: tuple[str, ...] = Field(
        (), description="names of entries; empty: two, and what the share pays for; no constants"
    )


@dataclass(slots=True)
class _Measured:
    """Scores (S, n) by number of training rows, failed answers, and what it all took."""

    scores: dict[int, Floats] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    passes: int = 0
    reason: str = ""


class DataNeed:
    """A learning curve for every entry."""

    name = "data_need"
    title = "Data need"
    asks = "how many training rows does each method need, and what would more of them bring?"
    Settings = DataNeedSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        count = len(context.view.train)
        if count < FEWEST_ROWS:
            return f"a curve needs at least {FEWEST_ROWS} training rows, and there are {count}"
        return ""

    def cost(self, context: QuestionContext, settings: DataNeedSettings) -> int:
        """As if no method were left out."""
        return _chosen(context, settings).cost

    def measure(self, context: QuestionContext, settings: DataNeedSettings) -> Answered:
        """See `Question.measure`."""
        sizes, chosen = _sizes(context, settings), _chosen(context, settings)
        entries = {name: context.subjects[name] for name in chosen.kept}
        measured = {name: _Measured() for name in entries}
        rows = _tested(context, settings)
        for name, fits in entries.items():
            measured[name].scores[sizes[-1]] = scores_on_test(fits, rows)
            results = [one for fit in fits for one in results_on(fit.record, rows)]
            measured[name].failed[sizes[-1]] = sum(one.answer is None for one in results)
        racing, whole = list(entries), clusters_of(rows)
        for number, size in enumerate(sizes[:-1]):
            if number >= _ALWAYS:
                racing = _still_in(racing, measured, (sizes[number - 1], sizes[-1]), whole)
            for name in racing:
                _fit_at(context, settings, name, size, measured[name])
        curves = _curves(measured, whole)
        found = [
            *_points(context, measured, whole),
            *_needs(context, settings, curves, measured),
            *crossings_of(curves, len(rows), tuple(range(_fits(context, settings)))),
            *_works(context, settings, measured),
            *not_asked("rows_needed", chosen.left_out, "rows"),
        ]
        pictures = pictures_of(
            {name: each.scores for name, each in measured.items()},
            curves,
            settings.more_rows,
            whole,
        )
        told = (
            *findings_of(found, curves, settings.tolerance, settings.more_rows),
            *left_out_text(self.name, chosen.left_out, settings.share),
        )
        return Answered(tuple(found), told, pictures)


def _chosen(context: QuestionContext, settings: DataNeedSettings) -> Chosen[str]:
    """The entries whose curves are measured: those named, or those that the share pays for.

    A constant answer needs no rows and is left out unless named.
    """
    entries = named_entries(context, settings.entries, lambda fits: not is_constant(fits[0].record))
    rows, costs = _tested(context, settings), {}
    for name in by_weight(entries):
        chosen = entries[name][0]
        answering, whole = answering_cost(context, chosen, rows), passes_of(chosen.record)
        costs[name] = _fits(context, settings) * sum(
            part * whole + answering for part in _parts(context, settings)
        )
    return within(context, costs, settings.share, everything=bool(settings.entries))


def _sizes(context: QuestionContext, settings: DataNeedSettings) -> tuple[int, ...]:
    least = max(_LEAST_ROWS, 2 * len(context.spec.labels))
    return growing_sizes(len(context.view.train), settings.sizes, least, _SPAN)


def _parts(context: QuestionContext, settings: DataNeedSettings) -> list[float]:
    """What one fit at each size below the full one takes, in whole fits."""
    sizes = _sizes(context, settings)[:-1]
    # Rounding up a part of the rows may cost a judgement more.
    return [min(1.0, 1.1 * _share(context, size)) for size in sizes]


def _fits(context: QuestionContext, settings: DataNeedSettings) -> int:
    """At each size: as asked, else as many as a curve below three whole fits has room for."""
    if settings.fits is not None:
        return settings.fits
    return _MOST_FITS if _MOST_FITS * sum(_parts(context, settings)) < _MOST_COST else _LEAST_FITS


def _tested(context: QuestionContext, settings: DataNeedSettings) -> tuple[Row, ...]:
    """The test rows answered, the same after every fit."""
    return sample_rows(context.test, settings.rows, seed=0)


def _share(context: QuestionContext, size: int) -> float:
    """Of a fit's budget."""
    return max(_LEAST_SHARE, size / len(context.view.train))


def _fit_at(
    context: QuestionContext,
    settings: DataNeedSettings,
    name: str,
    size: int,
    measured: _Measured,
) -> None:
    """Fit one entry at one size with every seed, and answer the test rows."""
    budget = round(_share(context, size) * context.fit_budget)
    rows = _tested(context, settings)
    outcomes = []
    for seed in range(_fits(context, settings)):
        view = part_of(context.view, size, seed)
        key = f"{name}, {size} rows, seed {seed}"
        outcome = fit_again(context, name, seed, view, rows, budget=budget, key=key)
        measured.passes += outcome.token_passes
        if outcome.absent:
            measured.reason = f"{size} rows: {outcome.absent}"
        else:
            outcomes.append(outcome)
    if outcomes:
        measured.scores[size] = np.array([outcome.scores for outcome in outcomes])
        measured.failed[size] = sum(outcome.failed for outcome in outcomes)


def _still_in(
    racing: Sequence[str],
    measured: Mapping[str, _Measured],
    sizes: tuple[int, int],
    clusters: Sequence[str] | None,
) -> list[str]:
    """The entries that may still be worth fitting at the next size; see the module's text.

    Args:
        racing: entries so far.
        measured: their scores.
        sizes: the last one at which all were fitted, and the full one.
        clusters: of the test rows.
    """
    before, full = sizes

    def behind(name: str, size: int) -> bool:
        held = [each for each in racing if size in measured[each].scores]
        best = max(held, key=lambda each: float(measured[each].scores[size].mean()))
        if name == best:
            return False
        scores = measured[name].scores
        first = measured[best].scores[size]
        return paired_difference(first, scores[size], clusters=clusters).low > 0

    return [
        name
        for name in racing
        if before not in measured[name].scores or not (behind(name, before) and behind(name, full))
    ]


def _curves(
    measured: Mapping[str, _Measured], clusters: Sequence[str] | None
) -> dict[str, LearningCurve]:
    """Of every entry that has sizes enough."""
    curves = {}
    for number, (name, each) in enumerate(measured.items()):
        sizes = sorted(each.scores)
        if len(sizes) >= FEWEST_SIZES:
            scores = [each.scores[size] for size in sizes]
            curves[name] = fit_curve(sizes, scores, number=number, clusters=clusters)
    return curves


def _points(
    context: QuestionContext,
    measured: Mapping[str, _Measured],
    clusters: Sequence[str] | None,
) -> list[Measurement]:
    """The score at every size."""
    found = []
    full = len(context.view.train)
    for name, each in measured.items():
        for size, scores in sorted(each.scores.items()):
            interval = mean_interval(scores, clusters=clusters)
            share = 100 * _share(context, size)
            how = "the run's own fits, mean over test rows and fits"
            seeds = tuple(sorted(fit.record.seed for fit in context.subjects[name]))
            if size < full:
                how = "fits on drawn rows, validation rows in the same share, "
                how += f"{share:.0f}% of a fit's budget; mean over test rows and fits"
                seeds = tuple(range(len(scores)))
            found.append(
                Measurement(
                    "score", name, "score", interval.value, scores.shape[1], how,
                    interval.low, interval.high, higher_is_better=True,
                    n_failed=each.failed[size], seeds=seeds, part={"rows": size},
                )
            )  # fmt: skip
    return found


def _needs(
    context: QuestionContext,
    settings: DataNeedSettings,
    curves: Mapping[str, LearningCurve],
    measured: Mapping[str, _Measured],
) -> list[Measurement]:
    """Rows needed, and what more would bring."""
    found = []
    rows, seeds = len(_tested(context, settings)), tuple(range(_fits(context, settings)))
    within, more = {"tolerance": settings.tolerance}, {"more_rows": settings.more_rows}
    for name, each in measured.items():
        if name not in curves:
            why = each.reason if each.reason else "the rows allow for no more"
            reason = f"only {len(each.scores)} sizes could be fitted: {why}"
            found.append(absent("rows_needed", name, "rows", reason, part=within))
            found.append(absent("gain_of_more_rows", name, "score", reason, part=more))
            continue
        curve = curves[name]
        how = f"inverse power law through {len(curve.sizes)} sizes, its band by bootstrap over "
        how += "test rows and fits"
        need, gained = smallest_size(curve, settings.tolerance), gain(curve, settings.more_rows)
        found.append(
            Measurement(
                "rows_needed", name, "rows", need.value, rows, how, need.low, need.high,
                higher_is_better=False, seeds=seeds, part=within,
            )
        )  # fmt: skip
        how += "; beyond the largest size, hence an extrapolation"
        found.append(
            Measurement(
                "gain_of_more_rows", name, "score", gained.value, rows, how, gained.low,
                gained.high, higher_is_better=True, seeds=seeds, part=more,
            )
        )  # fmt: skip
    return found


def _works(
    context: QuestionContext, settings: DataNeedSettings, measured: Mapping[str, _Measured]
) -> list[Measurement]:
    """What the curve cost, in full fits."""
    how = "token passes of all fits below the full size, over those of one fit of the run; n: sizes"
    seeds = tuple(range(_fits(context, settings)))
    return [
        Measurement(
            "curve_cost", name, "full_fits", each.passes / full, len(each.scores) - 1, how,
            higher_is_better=False, seeds=seeds,
        )
        for name, each in measured.items()
        if (full := passes_of(context.subjects[name][0].record))
    ]  # fmt: skip


QUESTION = DataNeed()
