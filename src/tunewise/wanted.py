"""What a run's configuration asks for: methods with settings, fits, questions, token passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tunewise.asking import Asked
from tunewise.climb import at_most
from tunewise.compare.priorities import Priorities
from tunewise.compare.wording import plural
from tunewise.config import ALL_QUESTIONS, RunConfig, check_budget, parse_budget, parse_time
from tunewise.errors import ConfigError, DataError
from tunewise.jobs import Job
from tunewise.measure.forecast import guess
from tunewise.measure.questions._registry import QUESTIONS, question_settings
from tunewise.measure.records import SkippedMethod
from tunewise.methods._contract import Method, parse_settings
from tunewise.methods._registry import discover_methods, find_method
from tunewise.planning.plan import Planner
from tunewise.planning.records import RunPlan
from tunewise.planning.within import plan_within, rows_within
from tunewise.steps import Ground, check_method
from tunewise.task.task import LoadedTask
from tunewise.task.warnings import with_test

# Of a time, what all questions may have before fits get smaller for them: a comparison of fits that
# hardly trained answers nothing, and a question that was left out can be asked later.
_QUESTIONS_SHARE = 0.5
# The setting of a question that a priority gives.
_PRICE = "price_per_hour"


def methods_of(config: RunConfig) -> tuple[list[Method], dict[str, Any]]:
    """The methods of a run, and their settings by name.

    Raises:
        InputError: what can be refused before anything slow begins.
    """
    known = discover_methods()
    named = {name: find_method(name, known) for name in (*config.methods, *config.settings)}
    declared = {named[name].name: named[name] for name in config.settings}
    # Without names: all there are, and chains that are declared with settings of their own.
    chosen = {named[name].name: named[name] for name in config.methods} or known | declared
    given = {named[name].name: values for name, values in config.settings.items()}
    settings = {
        name: parse_settings(each, given.get(name, {}))
        for name, each in (declared | chosen).items()
    }
    check_budget(config.budget)
    return list(chosen.values()), settings


def jobs_of(
    methods: Sequence[Method], task: LoadedTask, config: RunConfig
) -> tuple[list[Job], list[SkippedMethod]]:
    """Fits to be run, cheap methods first, and methods that cannot run here.

    What is for other kinds of task is passed over without a word unless it was named.

    Raises:
        ConfigError: none can.
    """
    asked: list[Job] = []
    skipped = []
    seeds = config.seeds
    named = {name.replace(" ", "") for name in (*config.methods, *config.settings)}
    for method in sorted(methods, key=lambda each: (each.needs.gradients, each.needs.base)):
        if method.name not in named and task.spec.kind not in method.needs.kinds:
            continue
        try:
            check_method(method, task.fit_view)
        except (ConfigError, DataError) as error:
            skipped.append(SkippedMethod.because(method.name, error))
            continue
        asked += [(method, seed) for seed in (seeds if method.needs.seeds else seeds[:1])]
    if not asked:
        raise ConfigError(
            "none of the methods can do this task",
            found="\n    ".join(f"{one.method}: {one.reason}" for one in skipped),
            expected="at least one that can",
            fix="name others in --methods, or leave it out to run all that can",
        )
    return asked, skipped


def questions_of(config: RunConfig, priorities: Priorities | None = None) -> list[Asked]:
    """What is asked after the comparison, with its settings.

    Args:
        config: of the run.
        priorities: the price among them is for questions that have one and are given none.

    Raises:
        InputError: a name or a setting is not known.
    """
    known = QUESTIONS.discover()
    given = config.question_settings
    named = list(known) if config.questions in (None, ALL_QUESTIONS) else config.questions
    found = {name: QUESTIONS.find(name) for name in (*named, *given)}
    price = None if priorities is None else priorities.price_an_hour
    priced = {} if price is None else {_PRICE: price}
    asked = []
    for name in named:
        has_price = _PRICE in found[name].Settings.model_fields
        values = (priced if has_price else {}) | given.get(name, {})
        asked.append(Asked(found[name], question_settings(found[name], values)))
    return asked


def questions_limit(config: RunConfig, budget: int) -> int | None:
    """Token passes that all questions may take: one more fit unless they are named."""
    if config.questions == ():
        return 0
    return budget if config.questions is None else None


def questions_time(config: RunConfig) -> float | None:
    """Seconds of a run that its questions are to keep to as well; None where they need not: those
    that are named are asked whatever they take, and a few cheap ones take little.
    """
    return parse_time(config.budget) if config.questions == ALL_QUESTIONS else None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a run has, whatever way its budget was told.

    Attributes:
        token_passes: per fit.
        test_rows: that are answered.
    """

    token_passes: int
    test_rows: int


def settle(
    config: RunConfig,
    ground: Ground,
    planner: Callable[[], Planner],
    say: Callable[[str], None] = lambda text: None,
) -> Settled:
    """Settle token passes and test rows.

    Args:
        config: of the run.
        ground: base and task.
        planner: called only where the budget is a time.
        say: is told what a time pays for.
    """
    there = len(ground.task.test)
    rows = there if config.test_rows is None else min(config.test_rows, there)
    seconds = parse_time(config.budget)
    if seconds is None:
        return Settled(parse_budget(config.budget, mean_row_tokens=ground.mean_row_tokens), rows)
    timed = planner().on(answering(config, ground, rows))
    plan = _plan_within(config, timed, seconds)
    if config.test_rows is None:

        def takes(rows: int) -> float:
            some = timed.on(answering(config, ground, rows))
            return plan_of(config, some, (), plan.budget).totals["measure_seconds"]

        kept = 0.0 if questions_time(config) is None else _QUESTIONS_SHARE
        rows = rows_within(there, cache(takes), (1 - kept) * seconds)
        if rows < there:
            plan = _plan_within(config, timed.on(answering(config, ground, rows)), seconds)
    short = plan.seconds > seconds
    say(
        f"{config.budget} {'is too short for every method' if short else 'on this machine'}: "
        f"{plan.budget:,} token passes per fit, planned to take "
        f"{'at most ' if plan.climbs else ''}{plan.seconds / 60:.0f} min"
    )
    return Settled(plan.budget, rows)


def answering(config: RunConfig, ground: Ground, rows: int) -> Ground:
    """The ground with so many of its test rows, and a word on that where they are not all.

    Args:
        config: of the run.
        ground: with all rows.
        rows: test rows at most.
    """
    test = ground.task.test.some(rows)
    if test is ground.task.test:
        return ground
    there = len(test) + test.left_out
    why = "as --test-rows asks" if config.test_rows else f"to keep to {config.budget}"
    said = (
        f"{len(test):,} of {there:,} test rows are answered, drawn at random, {why}; "
        f"a run with --test-rows {there}, in another --out, answers all"
    )
    check = test.checked(lambda kept: with_test(ground.check, kept, said))
    return replace(ground, task=replace(ground.task, test=test), check=check)


def _plan_within(config: RunConfig, timed: Planner, seconds: float) -> RunPlan:
    return plan_within(lambda passes: plan_of(config, timed, (), passes), seconds)


def plan_of(
    config: RunConfig, planner: Planner, skipped: Sequence[SkippedMethod], budget: int
) -> RunPlan:
    """What a run takes at a budget: every fit, or the most that a climb makes.

    Args:
        config: of the run.
        planner: of all its methods with all seeds.
        skipped: methods that are left out already.
        budget: token passes per fit.
    """
    limit = questions_limit(config, budget)
    passes = 0 if limit is None else limit
    if config.climbs:
        found = at_most(planner, skipped, budget, passes)
    else:
        found = planner.plan(skipped, budget, passes)
    if limit is not None:
        return found
    totals = found.totals
    passes = _guess(questions_of(config), int(totals["token_passes"]), budget, planner.ground)
    # Most of it is fits again, and their pace is known.
    pace = totals["fit_seconds"] / max(totals["token_passes"], 1)
    time = questions_time(config)
    if time is None or passes * pace <= _QUESTIONS_SHARE * time:
        return replace(
            found, questions_passes=passes, questions_seconds=passes * pace, guessed=True
        )
    kept = _QUESTIONS_SHARE * time
    passes = round(kept / pace)
    return replace(
        found, questions_passes=passes, questions_seconds=kept, guessed=True, questions_cut=True
    )


def beforehand(asked: Sequence[Asked], jobs: Sequence[Job], budget: int, ground: Ground) -> str:
    """What questions that have no limit will take, told before anything is fitted.

    Args:
        asked: the questions.
        jobs: fits of the run.
        budget: token passes of each.
        ground: base and task.
    """
    fits = sum(method.needs.base and method.needs.seeds for method, _ in jobs)
    passes = _guess(asked, fits * budget, budget, ground)
    if not passes:
        return f"{plural(len(asked), 'question')} will be asked after the fits; none runs the model"
    return (
        f"{plural(len(asked), 'question')} will be asked after the fits: "
        f"about {passes:,} token passes, as many as {passes / budget:.0f} fits of "
        f"{budget:,}; they are counted, and the minutes told, once the fits are there"
    )


def _guess(asked: Sequence[Asked], fits_passes: int, budget: int, ground: Ground) -> int:
    usual = parse_budget("default", mean_row_tokens=ground.mean_row_tokens)
    return guess([each.settings for each in asked], fits_passes, budget, usual)
