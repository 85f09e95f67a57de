"""What is lost where the rows come from elsewhere? A domain held out, or a file of other rows.

With a file nothing is fitted: what the run found answers its rows, and the loss is against the
run's own test rows, other rows of another difficulty. With domains in the data one is held out:
every entry is fitted again without it and compared, on the test rows of that domain, with the
run's fit that had seen it; the same rows, so the difference is paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from tunewise.measure.evidence import Answered, Measurement, Picture, Point, absent
from tunewise.measure.questions._again import (
    Outcome,
    answered_again,
    answering_cost,
    began_elsewhere,
    fit_again,
    named_entries,
    outcome_from,
    passes_of,
)
from tunewise.measure.questions._contract import QuestionContext, QuestionSettings, Subject
from tunewise.measure.questions._shares import (
    Chosen,
    by_weight,
    left_out_text,
    not_asked,
    share_field,
    within,
)
from tunewise.measure.questions._telling import Figure, figures
from tunewise.numerics.intervals import mean_interval
from tunewise.numerics.pairs import paired_difference
from tunewise.numerics.unpaired import difference_of
from tunewise.task.options import TaskOptions
from tunewise.task.task import rows_from
from tunewise.task.types import FitView, Kind, Row, clusters_of

FEWEST_TEST_ROWS = 20
FEWEST_TRAIN_ROWS = 16
SCORE, LOSS = "score_elsewhere", "loss_elsewhere"


class OutOfDomainSettings(QuestionSettings):
    """Settings of `out_of_domain`."""

    file: str | None = Field(
        None, description="file or data set with rows from elsewhere; unset: a domain is held out"
    )
    input: str | None = Field(None, description="the file's column with the text; found if unset")
    output: str | None = Field(
        None, description="the file's column with the answer; found if unset"
    )
    group: str | None = Field(
        None,
        description="the file's column whose equal rows belong together, as of one document; "
        "found if unset and named group",
    )
    domain: str | None = Field(
        None,
        description="domain to hold out; unset: of those with less than half the training "
        "rows the one with most test rows",
    )
    share: float = share_field(0.15)
    entries: tuple[str, ...] = Field(
        (), description="names of entries; empty: two, and what the share pays for"
    )


class OutOfDomain:
    """Every entry on rows of a domain it was not fitted on."""

    name = "out_of_domain"
    title = "Out of domain"
    asks = "what does each method lose on rows from another source than it was fitted on?"
    Settings = OutOfDomainSettings

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`. A file, which only the settings name, may help out."""
        return ""

    def cost(self, context: QuestionContext, settings: OutOfDomainSettings) -> int:
        """A fit and its answers for every entry; with a file the answers only."""
        if settings.file is None and _reason(context, _held_out(context, settings)):
            return 0
        return _chosen(context, settings).cost

    def measure(self, context: QuestionContext, settings: OutOfDomainSettings) -> Answered:
        """See `Question.measure`."""
        domain = _held_out(context, settings)
        reason = _reason(context, domain) if settings.file is None else ""
        if reason:
            return Answered((absent(LOSS, "", "score", reason),))
        chosen = _chosen(context, settings)
        entries = {name: context.subjects[name] for name in chosen.kept}
        if settings.file is not None:
            found = _on_file(context, settings, entries)
            where = f"the rows of {settings.file}"
            said = _file_rows(context, settings)[1]
        else:
            found = _without(context, domain, entries)
            said = [*began_elsewhere(context, found)]
            where = f"rows of {domain}, which was held out"
        told = (
            *_findings(found, where, paired=settings.file is None),
            *said,
            *left_out_text(self.name, chosen.left_out, settings.share),
        )
        found += not_asked(LOSS, chosen.left_out)
        return Answered(tuple(found), told, _picture(found, where))


def _chosen(context: QuestionContext, settings: OutOfDomainSettings) -> Chosen[str]:
    """The entries asked about: those named, or those that the share pays for."""
    entries = named_entries(context, settings.entries, lambda fits: True)
    fits_again = settings.file is None
    if fits_again:
        rows = _of(context.test, _held_out(context, settings))
    else:
        rows = _file_rows(context, settings)[0]
    costs = {
        name: answering_cost(context, entries[name][0], rows)
        + fits_again * passes_of(entries[name][0].record)
        for name in by_weight(entries)
    }
    return within(context, costs, settings.share, everything=bool(settings.entries))


def _file_rows(
    context: QuestionContext, settings: OutOfDomainSettings
) -> tuple[tuple[Row, ...], list[str]]:
    """The file's rows without those the task has already, and what is said of rows left out.

    Raises:
        DataError: it cannot be read, or has a label that the task does not know.
    """
    columns = {"input": settings.input, "output": settings.output, "group": settings.group}
    options = TaskOptions.model_validate(columns)
    said: list[str] = []
    rows = rows_from(str(settings.file), options, context.spec, say=said.append)
    # Rows that stand on both sides of the difference would make its interval too narrow.
    known = {row.input for row in (*context.view.train, *context.view.validation, *context.test)}
    return tuple(row for row in rows if row.input not in known), said


def _on_file(
    context: QuestionContext,
    settings: OutOfDomainSettings,
    entries: Mapping[str, Sequence[Subject]],
) -> list[Measurement]:
    rows, _ = _file_rows(context, settings)
    part = {"file": str(settings.file)}
    if not rows:
        reason = "every row of the file is among the task's own rows"
        return [absent(LOSS, name, "score", reason, part=part) for name in entries]
    found = []
    for name, fits in entries.items():
        chosen = fits[0]
        outcome = _answers(context, chosen, rows)
        here, there = (
            mean_interval(
                [[one.score for one in chosen.record.test]], clusters=clusters_of(context.test)
            ),
            mean_interval([outcome.scores], clusters=clusters_of(rows)),
        )
        loss = difference_of(here, there)
        common: dict[str, Any] = {
            "n_failed": outcome.failed,
            "seeds": (chosen.record.seed,),
            "part": part,
        }
        found += [
            Measurement(
                SCORE, name, "score", there.value, len(rows), "answered by the run's own fit",
                there.low, there.high, higher_is_better=True, **common,
            ),
            Measurement(
                LOSS, name, "score", loss.value, len(rows),
                f"the score on the run's {len(context.test)} test rows minus that on these rows; "
                "limits of independent means joined (Newcombe 1998)",
                loss.low, loss.high, higher_is_better=False, **common,
            ),
        ]  # fmt: skip
    return found


def _answers(context: QuestionContext, subject: Subject, rows: Sequence[Row]) -> Outcome:
    key = f"{subject.name} on the file"

    def make() -> dict[str, object]:
        return Outcome(*answered_again(context, subject.load(), rows, key)).as_dict()

    return outcome_from(context.once(key, make))


def _held_out(context: QuestionContext, settings: OutOfDomainSettings) -> str:
    """The domain that is held out; "" where there is none to hold out."""
    if settings.domain is not None:
        return settings.domain
    test = Counter(row.domain for row in context.test if row.domain is not None)
    train = Counter(row.domain for row in context.view.train if row.domain is not None)
    usable = [name for name in sorted(test) if not _reason(context, name)]
    half = len(context.view.train) / 2
    return max(usable, key=lambda name: (train[name] < half, test[name]), default="")


def _reason(context: QuestionContext, domain: str) -> str:
    """Why this domain cannot be held out; "" where it can."""
    names = sorted({row.domain for row in context.test if row.domain is not None})
    if not names:
        return "the rows name no domain, and no file of other rows is given"
    if domain == "":
        return (
            f"none of the {len(names)} domains can be held out: each would leave too few rows, "
            "or a label without any"
        )
    if domain not in names:
        return f"no test row is of the domain {domain!r}; there are {', '.join(names[:10])}"
    rows = _of(context.test, domain)
    if len(rows) < FEWEST_TEST_ROWS:
        return f"the domain {domain!r} has {len(rows)} test rows, fewer than {FEWEST_TEST_ROWS}"
    rest = _view_without(context.view, domain)
    if len(rest.train) < FEWEST_TRAIN_ROWS or not rest.validation:
        return (
            f"without {domain!r} too few rows are left: {len(rest.train)} to fit, "
            f"{len(rest.validation)} to choose"
        )
    if context.spec.kind is Kind.CLASSIFICATION:
        missing = {row.output for row in rows} - {row.output for row in rest.train}
        if missing:
            return f"only {domain!r} has rows of {', '.join(sorted(missing)[:5])}"
    return ""


def _of(rows: Sequence[Row], domain: str) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.domain == domain)


def _view_without(view: FitView, domain: str) -> FitView:
    return replace(
        view,
        train=tuple(row for row in view.train if row.domain != domain),
        validation=tuple(row for row in view.validation if row.domain != domain),
    )


def _without(
    context: QuestionContext, domain: str, entries: Mapping[str, Sequence[Subject]]
) -> list[Measurement]:
    view, rows = _view_without(context.view, domain), _of(context.test, domain)
    places = [index for index, row in enumerate(context.test) if row.domain == domain]
    part = {"domain": domain}
    found = []
    for name, fits in entries.items():
        record = fits[0].record
        seed = record.seed
        key = f"{name} without {domain}, seed {seed}"
        outcome = fit_again(context, name, seed, view, rows, key=key)
        if outcome.absent:
            found.append(absent(LOSS, name, "score", outcome.absent, part=part))
            continue
        score = mean_interval([outcome.scores], clusters=clusters_of(rows))
        seen = [record.test[index].score for index in places]
        loss = paired_difference(seen, outcome.scores, clusters=clusters_of(rows))
        common: dict[str, Any] = {"n_failed": outcome.failed, "seeds": (seed,), "part": part}
        found += [
            Measurement(
                SCORE, name, "score", score.value, len(rows),
                f"fitted on the {len(view.train)} training rows of other domains, same budget",
                score.low, score.high, higher_is_better=True, **common,
            ),
            Measurement(
                LOSS, name, "score", loss.difference, len(rows),
                "the run's fit, which had seen the domain, minus one that had not, on the same "
                f"rows; it had {len(context.view.train) - len(view.train)} training rows more",
                loss.low, loss.high, higher_is_better=False, **common,
            ),
        ]  # fmt: skip
    return found


def _findings(found: Sequence[Measurement], where: str, *, paired: bool) -> tuple[str, ...]:
    scores, losses = figures(found, SCORE), figures(found, LOSS)
    if not scores:
        return ()
    best = max(scores, key=lambda each: each.value)
    told = [f"On {where}, {best.of.about} scores highest: {best.points()}."]
    told += [
        f"{each.of.about} loses {each.points()} points there." for each in losses if each.low > 0
    ]
    than = "there without having seen them" if paired else "there than at home"
    told += [
        f"{each.of.about} is {_turned(each).points()} points better {than}."
        for each in losses
        if each.high < 0
    ]
    if all(each.low <= 0 <= each.high for each in losses):
        most = max(losses, key=lambda each: each.high)
        told.append(
            f"On {most.of.n} rows no loss can be told from noise; {most.of.about} may still lose "
            f"up to {100 * most.high:.1f} points there."
        )
    return tuple(told)


def _turned(each: Figure) -> Figure:
    return Figure(each.of, -each.value, -each.high, -each.low)


def _picture(found: Sequence[Measurement], where: str) -> tuple[Picture, ...]:
    points = tuple(
        Point(each.about, each.value, each.low, each.high).in_points()
        for each in found
        if each.name == LOSS and each.value is not None
    )
    if not points:
        return ()
    return (Picture(f"What is lost on {where}", "dots", "score lost, points", "", points),)


QUESTION = OutOfDomain()
