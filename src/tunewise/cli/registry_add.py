"""registry add, measure: what loads an adaptation onto its base."""

from __future__ import annotations

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
    json_option,
    read_options,
    split_data_options,
)
from tunewise.cli.registry_place import opened, place_options, who
from tunewise.cli.registry_show import emit
from tunewise.errors import ConfigError
from tunewise.task.recipe import is_recipe

if TYPE_CHECKING:
    from tunewise.measure.records import RowResult
    from tunewise.serve.registry.gate import Scores

# What tells a folder with an adaptation.
_RECORD = "adaptation.json"


@click.command("add", short_help="Register an ADAPTATION as the next version of NAME.")
@click.argument("adaptation", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--run", default="", help="where it was found  [default: its run's folder, if any]")
@click.option("--notes", default="", help="free text that is kept with the version")
@click.option(
    "--probes",
    type=click.Path(path_type=Path),
    help="texts to ask, one a line  [default: a dozen of several fields]",
)
@click.option("--no-probes", is_flag=True, help="do not ask it anything; it cannot pass the gate")
@place_options
@base_option
@dtype_option
@json_option
def add_command(adaptation: Path, name: str, as_json: bool, **values: Any) -> None:
    """Register the ADAPTATION in a folder as the next version of NAME (tenant/name).

    A task file (TOML) with tables of methods is a recipe, and is registered as one.

    It is checked byte by byte and asked a few texts beside its base: one that answers as the base
    does is refused. Scores that its run measured are stored with it. With --no-probes nothing is
    computed; a --base that is named then must still be the one it was made for.
    """
    from tunewise.serve.registry.names import parse_name

    _refuse_turned(adaptation, name)
    parsed, actor = parse_name(name), who(values["actor"])
    recipe = is_recipe(adaptation)
    if recipe:
        _check_recipe(adaptation, values)
    else:
        check_stored(adaptation)
    from tunewise.serve.registry.publish import Registration

    if values["no_probes"] and values["probes"] is not None:
        raise ConfigError(
            "probes are given and refused",
            found="--probes with --no-probes",
            expected="one of them",
        )
    inputs = None if values["probes"] is None else _lines(values["probes"])

    def check(made: Any) -> dict[str, Any]:
        from tunewise.adaptation.probes import PROBE_INPUTS, hold_against_base
        from tunewise.steps import base_for

        base = base_for(made, values["base"], values["dtype"])
        return hold_against_base(base, made, PROBE_INPUTS if inputs is None else inputs).as_dict()

    source = adaptation.absolute()
    in_run = source.parent.name == "adaptations"
    registration = Registration(
        parsed,
        actor,
        run=values["run"] or (str(source.parent.parent) if in_run else ""),
        notes=values["notes"],
        base_fingerprint=_fingerprint(values["base"]) if values["no_probes"] else None,
        check=None if values["no_probes"] else check,
    )
    with opened(values["place"], values["files"]) as registry:
        version = registry.add(source, registration)
        if in_run and not registry.measured(version):
            scores = _scores_of_run(source, version.data_hash)
            if scores is not None:
                registry.attach(version, scores, actor)
        emit(as_json, version.as_dict(), f"{version}  {version.digest}")
        if not as_json:
            why = "to let its name mean it" if recipe else "to serve it by its name"
            more = ' --reason "..."' if recipe else ""
            click.echo(f"{why}: tunewise registry promote {version}{more}", err=True)


def _refuse_turned(adaptation: Path, name: str) -> None:
    if (Path(name) / _RECORD).is_file() and not (adaptation / _RECORD).is_file():
        raise ConfigError(
            "the adaptation comes first, then its name",
            found=f"{adaptation} {name}",
            expected="a folder, and tenant/name",
            fix=f"tunewise registry add {name} {adaptation}",
        )


def _check_recipe(file: Path, values: dict[str, Any]) -> None:
    """Refuse what a run by this recipe would refuse, and flags that mean nothing for one."""
    from tunewise.compare.priorities import priorities_from
    from tunewise.measure.questions._registry import QUESTIONS, question_settings
    from tunewise.methods._contract import parse_settings
    from tunewise.methods._registry import find_method
    from tunewise.task.recipe import read_recipe

    given = [name for name in ("base", "probes", "no_probes") if values[name]]
    if given:
        raise ConfigError(
            "a recipe has no base and is asked nothing",
            found=", ".join(f"--{name.replace('_', '-')}" for name in given),
            fix="leave it out",
        )
    recipe = read_recipe(file)
    for name, settings in recipe.methods.items():
        parse_settings(find_method(name), settings)
    for name, settings in recipe.questions.items():
        question_settings(QUESTIONS.find(name), settings)
    priorities_from(file, {})


def _fingerprint(base: str | None) -> str | None:
    """Of the base that an adaptation must be for; None where none is named."""
    if base is None:
        return None
    from tunewise.model.base import load_tokenizer

    return load_tokenizer(base)[1]


@click.command("measure", short_help="Measure a version on rows and store its scores.")
@click.argument("reference")
@click.argument("data", required=False)
@place_options
@base_option
@dtype_option
@json_option
@data_options
def measure_command(reference: str, data: str | None, as_json: bool, **values: Any) -> None:
    """Measure a version on the rows of DATA and store its scores, row by row."""
    from tunewise.cli.progress import bars
    from tunewise.serve.registry.gate import rows_hash
    from tunewise.serve.registry.intake import adaptation_in
    from tunewise.steps import base_for, measure, score_summary
    from tunewise.task.task import rows_from

    flags, rest = split_data_options(values)
    source, options = read_options(data, flags)
    with opened(rest["place"], rest["files"]) as registry:
        version = registry.version(reference)
        with registry.in_use(version, f"measuring, {who(rest['actor'])}", 3600.0):
            loaded = adaptation_in(registry.folder(version), version.digest)
            say = partial(click.echo, err=True)
            rows = rows_from(source, options, loaded.spec, say=say)
            base = base_for(loaded, rest["base"], rest["dtype"])
            with bars() as reporter:
                reporter.begin(f"measuring {version}", 1, 1, unit="rows")
                found = measure(base, loaded, rows, reporter)
        summary = score_summary(found, rows, loaded.spec)
        scores = _scores(rows_hash(rows), loaded.spec.metric, found.results, source)
        registry.attach(version, scores, who(rest["actor"]))
    emit(as_json, {"version": str(version), **summary})


def _scores_of_run(source: Path, data_hash: str) -> Scores | None:
    """The test scores that a run of `compare` measured of this adaptation, or None."""
    from tunewise.adaptation.store import load
    from tunewise.measure.files import read_record
    from tunewise.serve.registry.gate import run_rows_hash

    path = source.parent.parent / "records" / f"{source.name}.json"
    record = read_record(path)
    if record is None or not record.test:
        return None
    return _scores(
        run_rows_hash(data_hash, [result.id for result in record.test]),
        load(source).spec.metric,
        record.test,
        f"test rows of {source.parent.parent}",
    )


def _scores(rows_hash: str, metric: str, results: Sequence[RowResult], source: str) -> Scores:
    from tunewise.serve.registry.gate import Scores
    from tunewise.task.types import clusters_of

    ids, clusters = [result.id for result in results], clusters_of(results)
    return Scores(
        rows_hash,
        metric,
        {result.id: result.score for result in results},
        sum(result.answer is None for result in results),
        source,
        None if clusters is None else dict(zip(ids, clusters, strict=True)),
    )


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the probes cannot be read", found=f"{path}: {error}", expected="a text file"
        ) from error
    kept = tuple(dict.fromkeys(line for line in lines if line))
    if not kept:
        raise ConfigError(
            "there are no probes", found=f"{path} has no line with text", expected="one a line"
        )
    return kept
