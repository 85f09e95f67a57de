"""advise: what is to be expected before anything is fitted."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from tunewise.cli.options import (
    base_option,
    data_options,
    dtype_option,
    json_option,
    parse_methods,
    parse_seeds,
    priority_options,
    read_options,
    run_budget_option,
    split_data_options,
    take_priorities,
)
from tunewise.config import DEFAULT_BASE, RunConfig
from tunewise.early import check_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunewise.compare.prior import MeasuredRun, Odds, Prior
    from tunewise.pipeline import Advice

# What can be told from other tasks; the rest must be measured on one's own.
_READ = ("minimum_quality", "give_up_points")


@click.command("advise", short_help="Say what to expect before anything is fitted.")
@click.argument("data", required=False)
@click.option("--methods", default=None, metavar="A,B", help="methods to plan for  [default: all]")
@click.option("--seeds", default="3", show_default=True, metavar="N", help="seeds to plan for")
@run_budget_option
@base_option
@dtype_option
@json_option
@priority_options(only=_READ)
@data_options
def advise_command(data: str | None, as_json: bool, **values: Any) -> None:
    """Say what is to be expected of DATA before anything is fitted: a prior, no result.

    The odds are counts over other tasks that were measured, those most like this one; the cost is
    planned on this machine.
    """
    priorities = take_priorities(values)
    flags, rest = split_data_options(values)
    source, options = read_options(data, flags)
    config = RunConfig(
        source=source,
        options=options,
        base=DEFAULT_BASE if rest["base"] is None else rest["base"],
        dtype=rest["dtype"],
        methods=parse_methods(rest["methods"]),
        seeds=parse_seeds(rest["seeds"]),
        budget="default" if rest["budget"] is None else rest["budget"],
        climb=None,
        test_rows=None,
        questions=(),
    )
    check_run(config)
    from tunewise.cli.progress import bars, begin_loading

    with bars() as reporter:
        begin_loading(reporter, config.base)
        from tunewise.pipeline import advise

        found = advise(config, priorities, reporter)
    if as_json:
        click.echo(json.dumps(found.as_dict(), ensure_ascii=False))
        return
    _show(found, budget_given=rest["budget"] is not None)


def _show(found: Advice, *, budget_given: bool) -> None:
    """The answer, the odds, what the data check warns of, and what a run would cost."""
    from tunewise.cli.show import LONG_SECONDS, say, show_table
    from tunewise.compare.wording import duration

    shape = found.shape
    labels = f", {shape.labels} labels" if shape.labels else ""
    say(
        f"{shape.kind}{labels}: {shape.train_rows:,} rows to fit, "
        f"{shape.input_tokens:.0f} tokens a row"
    )
    say("")
    say(found.prior.headline, style="bold")
    if found.prior.odds:
        say("")
        headers, rows = odds_table(found.prior)
        show_table(headers, rows, [[] for _ in rows])
        say("")
        for line in legend(found.prior):
            say(f"  {line}", style="dim", indent=4)
    for warning in found.check["warnings"]:
        say(f"  mind: {warning}", indent=4)
    say("")
    say(f"to know, about {duration(found.plan.seconds)} on this machine:")
    # As typed, since without its columns and its base it would be another run, or none; on a line
    # of its own, to be copied whole.
    typed = ["tunewise", "compare", *sys.argv[2:]]
    click.echo(f"  {shlex.join(typed)}")
    if found.plan.seconds > LONG_SECONDS and not budget_given:
        say("or within a time, with less training:")
        click.echo(f"  {shlex.join([*typed, '--budget', '20min'])}")


def odds_table(prior: Prior) -> tuple[list[str], list[list[str]]]:
    """Titles and cells, from cheapest to dearest family; `legend` says what they are."""
    headers = ["", "near best", "interval", "below best", "above base"]
    wanted = any(each.reached is not None for each in prior.odds)
    return headers + (["reached"] if wanted else []), [_cells(prior, each) for each in prior.odds]


def _cells(prior: Prior, each: Odds) -> list[str]:
    from tunewise.compare.prior import part_of_sets

    cells = [
        each.family + (" *" if each.family == prior.family else ""),
        f"{part_of_sets(each.near_best)} of {each.sets}",
        f"{100 * each.low:.0f} to {100 * each.high:.0f}%",
        f"{each.loss:.1f}",
        "not measured" if each.gain is None else f"{each.gain:+.1f}",
    ]
    if each.reached is not None:
        cells.append(f"{part_of_sets(each.reached)} of {each.sets}")
    return cells


def legend(prior: Prior) -> list[str]:
    """What every number of the table is, and which sets it is from."""
    from tunewise.compare.wording import plural

    given_up = f"{prior.given_up:g} point{'' if prior.given_up == 1 else 's'}"
    lines = [
        f"near best: on how many sets its score came within {given_up} (of 100) of the best "
        "method's",
        "interval: in what share of many sets like these that would be so, with 95% confidence; "
        "few sets leave it wide",
        "below best: points (of 100) that it lost on the best method, mean over the sets",
        "above base: points (of 100) that it gained on the untouched base model, median over the "
        "sets",
    ]
    if prior.minimum is not None:
        lines.append(f"reached: on how many sets its score was {prior.minimum:g} or more")
    lines.append(
        f"*: the cheapest that loses no more than {given_up} beyond what the least losing one does"
    )
    sets = prior.sets
    counted = f"from {plural(len(sets), 'set')}, {plural(len(prior.nearest), 'run')}"
    named = ", ".join(f"{name} ({_rows(runs)} rows to fit)" for name, runs in sets.items())
    lines.append(f"{counted}: {named}")
    if len(prior.nearest) > len(sets):
        lines.append(
            "a set counts once, however many runs it has: those nearer to your data in rows, "
            "labels and length count most, and a set whose runs disagree counts in part"
        )
    return lines


def _rows(runs: Sequence[MeasuredRun]) -> str:
    return " and ".join(f"{count:,}" for count in sorted({run.shape.train_rows for run in runs}))
