"""compare, predict, measure, data check."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunewise.adaptation.folder import check_stored
from tunewise.cli.options import (
    base_option,
    data_options,
    dtype_option,
    flag_name,
    json_option,
    parse_methods,
    parse_questions,
    parse_seeds,
    priority_options,
    question_tables,
    read_options,
    read_task,
    run_budget_option,
    split_data_options,
    take_priorities,
)
from tunewise.compare.priorities import Priorities
from tunewise.config import DEFAULT_BASE, RunConfig
from tunewise.early import check_columns, check_run
from tunewise.errors import ConfigError
from tunewise.model.dtypes import check_dtype

if TYPE_CHECKING:
    from tunewise.adaptation.predict import Predictor
    from tunewise.adaptation.readout import Answer


def typed_command() -> str:
    """The command line as typed."""
    return shlex.join(["tunewise", *sys.argv[1:]])


@click.command("compare", short_help="Fit methods at an equal budget, recommend one.")
@click.argument("data", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder of the run  [default: runs/NAME]"
)
@click.option(
    "--methods",
    default=None,
    metavar="A,B",
    help='methods to fit, or chains: "few_shot>lora"  [default: all that suit, see --climb]',
)
@click.option(
    "--seeds", default="3", show_default=True, metavar="N", help="number of seeds, or seeds: 0,5,7"
)
@click.option(
    "--test-rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="test rows to answer at most, drawn at random  "
    "[default: all, or fewer where --budget is a time]",
)
@click.option(
    "--climb/--all",
    "climb",
    default=None,
    help="from the cheapest rung up, each from the best prompt, while it pays; or all of them  "
    "[default: climb, or all that --methods names]",
)
@click.option(
    "--questions",
    default=None,
    metavar="A,B",
    help="what is asked after the comparison: all, none, or names  [default: what is cheap]",
)
@click.option("--evidence", is_flag=True, help="the same as --questions all")
@click.option(
    "--plan",
    "plan_only",
    is_flag=True,
    help="only say what the run would cost; nothing is fitted or written",
)
@run_budget_option
@base_option
@dtype_option
@json_option
@priority_options()
@data_options
def compare_command(
    data: str | None,
    out: Path | None,
    climb: bool | None,
    plan_only: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Fit methods at an equal budget, measure them on the same rows, recommend one.

    DATA is a JSONL, JSON, CSV, TSV or Parquet file, a folder with train, validation and test
    files, or a data set id. The same command goes on where an interrupted one was.
    """
    typed = [flag_name(each) for each in Priorities.model_fields if values.get(each) is not None]
    priorities = take_priorities(values)
    questions = parse_questions(values.pop("questions"), everything=values.pop("evidence"))
    flags, rest = split_data_options(values)
    source, options, settings = read_task(data, flags)
    config = RunConfig(
        source=source,
        options=options,
        base=DEFAULT_BASE if rest["base"] is None else rest["base"],
        dtype=rest["dtype"],
        methods=parse_methods(rest["methods"]),
        seeds=parse_seeds(rest["seeds"]),
        budget="default" if rest["budget"] is None else rest["budget"],
        test_rows=rest["test_rows"],
        climb=climb,
        questions=questions,
        question_settings=question_tables(flags),
        settings={name: dict(given) for name, given in settings.items()},
    )
    folder = config.usual_folder if out is None else out
    check_run(config, None if plan_only else folder)
    if plan_only:
        if typed:
            raise ConfigError(
                "priorities change no plan",
                found=f"{', '.join(typed)} with --plan",
                expected="one of the two, since what matters decides after everything is measured",
                fix="--plan alone; `tunewise advise` heeds --minimum-quality beforehand",
            )
        _plan(config, as_json)
        return
    from tunewise.cli.progress import bars, begin_loading
    from tunewise.cli.show import show_comparison

    with bars() as reporter:
        begin_loading(reporter, config.base)
        from tunewise.pipeline import compare

        comparison = compare(config, folder, typed_command(), reporter, priorities)
    if as_json:
        click.echo(json.dumps(comparison.as_dict(), ensure_ascii=False))
        return
    show_comparison(comparison)
    click.echo(f"\nreport: {folder / 'report.html'}")
    best = comparison.entry(comparison.recommendation.method)
    click.echo(f'try it: tunewise predict {shlex.quote(str(folder / best.adaptation))} "some text"')


def _plan(config: RunConfig, as_json: bool) -> None:
    """Say what a run would cost."""
    from tunewise.cli.progress import bars, begin_loading
    from tunewise.cli.show import show_plan

    with bars() as reporter:
        begin_loading(reporter, config.base)
        from tunewise.pipeline import plan

        planned = plan(config, reporter)
    if as_json:
        click.echo(json.dumps(planned.as_dict(), ensure_ascii=False))
    else:
        show_plan(planned)


@click.command("predict", short_help="Answer TEXTS with a stored ADAPTATION.")
@click.argument("adaptation", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--file", "data", metavar="DATA", help="answer the rows of a data file instead")
@base_option
@dtype_option
@json_option
@data_options
def predict_command(
    adaptation: Path, texts: tuple[str, ...], data: str | None, as_json: bool, **values: Any
) -> None:
    """Answer TEXTS with a stored ADAPTATION; "-" reads one text a line from standard input.

    Every text or row gets one answer, in order: an empty one where it cannot be answered, as where
    the text is empty, with the reason on standard error.
    """
    check_stored(adaptation)
    from tunewise.adaptation.predict import predictor_for
    from tunewise.adaptation.store import load
    from tunewise.errors import DataError
    from tunewise.steps import base_for
    from tunewise.task.task import rows_from

    flags, rest = split_data_options(values)
    loaded = load(adaptation)
    inputs = list(texts)
    if inputs == ["-"]:
        # Lines without text at the end are how files end; those between are texts.
        inputs = [line.strip() for line in sys.stdin.read().rstrip().split("\n")]
    places = [f"text {number}" for number in range(1, len(inputs) + 1)]
    if data is not None:
        source, options = read_options(data, flags)
        rows = rows_from(source, options, loaded.spec, need_output=False)
        inputs += [row.input for row in rows]
        places += [row.origin for row in rows]
    if not any(text.strip() for text in inputs):
        raise ConfigError(
            "there is nothing to answer",
            found="no text, or only empty ones",
            expected='a text, "-" or --file DATA',
            fix='tunewise predict ADAPTATION "some text"',
        )
    base = base_for(loaded, rest["base"], rest["dtype"])
    with predictor_for(base, loaded) as predictor:
        answers = _all_answers(predictor, inputs)
    if all(answer.text is None for answer in answers):
        raise DataError(
            "no text could be answered",
            found="; ".join(sorted({answer.failure for answer in answers})),
            expected="texts that fit into the model's context",
            fix="shorten them",
        )
    if as_json:
        click.echo(json.dumps(_answers(inputs, answers), ensure_ascii=False))
        return
    for place, answer in zip(places, answers, strict=True):
        if answer.text is None:
            click.echo(f"no answer to {place}: {answer.failure}", err=True)
        # A line for every text, so that lines of input and output stay side by side.
        click.echo("" if answer.text is None else answer.text)


def _all_answers(predictor: Predictor, inputs: Sequence[str]) -> list[Answer]:
    """An answer for every text, in order; empty texts are not asked and have none."""
    from tunewise.adaptation.readout import Answer

    given = iter(predictor.answers([text for text in inputs if text.strip()]))
    return [
        next(given) if text.strip() else Answer(None, failure="the text is empty")
        for text in inputs
    ]


def _answers(inputs: Sequence[str], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """One object per text: input, answer, probability, and failure where there is no answer."""
    found = []
    for text, answer in zip(inputs, answers, strict=True):
        content = {"input": text, "answer": answer.text, "probability": answer.probability}
        found.append({**content, "failure": answer.failure} if answer.failure else content)
    return found


@click.command("measure", short_help="Measure a stored ADAPTATION on rows with answers.")
@click.argument("adaptation", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@base_option
@dtype_option
@json_option
@data_options
def measure_command(adaptation: Path, data: str | None, as_json: bool, **values: Any) -> None:
    """Measure a stored ADAPTATION on the rows of DATA (its test rows where it has splits)."""
    flags, rest = split_data_options(values)
    source, options = read_options(data, flags)
    check_stored(adaptation)
    from tunewise.adaptation.store import load
    from tunewise.cli.progress import bars
    from tunewise.cli.show import show_mapping
    from tunewise.steps import base_for, measure, score_summary
    from tunewise.task.task import rows_from

    loaded = load(adaptation)
    rows = rows_from(source, options, loaded.spec, say=partial(click.echo, err=True))
    base = base_for(loaded, rest["base"], rest["dtype"])
    with bars() as reporter:
        reporter.begin(f"measuring {loaded.provenance.method}", 1, 1, unit="rows")
        measured = measure(base, loaded, rows, reporter)
    summary = score_summary(measured, rows, loaded.spec)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        show_mapping(summary)


@click.group("data")
def data_group() -> None:
    """Look at data before anything is fitted."""


@data_group.command("check", short_help="Duplicates, leaks, contradictions, balance, lengths.")
@click.argument("data", required=False)
@base_option
@dtype_option
@json_option
@data_options
def check_command(data: str | None, as_json: bool, **values: Any) -> None:
    """Rows, duplicates, leaks between splits, contradictions, balance, lengths, rendered rows."""
    flags, rest = split_data_options(values)
    source, options = read_options(data, flags)
    check_dtype(rest["dtype"])
    check_columns(source, options)
    from tunewise.cli.progress import bars, begin_loading
    from tunewise.cli.show import show_mapping

    base = DEFAULT_BASE if rest["base"] is None else rest["base"]
    with bars() as reporter:
        begin_loading(reporter, base)
        from tunewise.steps import prepare

        ground = prepare(source, options, base, rest["dtype"])
    content = ground.check.as_dict()
    if as_json:
        click.echo(json.dumps(content, ensure_ascii=False))
    else:
        show_mapping(content)
