"""The whole story on one page, top to bottom.

    load the task -> lock the test rows -> look at the run's folder -> load the base -> claim it
    -> for each method and seed (or rung by rung, while it pays): fit, store
    -> open the test rows, once -> measure every stored adaptation
    -> compare on paired rows -> recommend -> report

Every step leaves its result in the run's folder; the same command goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tunewise.adaptation.store import installed_versions
from tunewise.climb import climb
from tunewise.compare.contract import (
    BaseFacts,
    BudgetFacts,
    Comparison,
    DataFacts,
    MachineFacts,
    RunContext,
)
from tunewise.compare.report import write_reports
from tunewise.compare.run_folder import check_out, claim, release
from tunewise.compare.table import build_comparison, gather_details
from tunewise.config import RunConfig, parse_budget
from tunewise.errors import BudgetTooSmallError, ConfigError, DataError, InputError
from tunewise.jobs import Job, Jobs
from tunewise.measure.files import read_json, write_json
from tunewise.measure.records import SkippedMethod
from tunewise.methods._contract import Method, parse_settings
from tunewise.methods._registry import discover_methods, find_method
from tunewise.model.base import default_threads, processor_name
from tunewise.model.ledger import UNIT
from tunewise.planning.plan import plan_run
from tunewise.planning.records import RunPlan
from tunewise.steps import Ground, Reporter, check_method, stand_on
from tunewise.task.task import LoadedTask, load_task


def compare(config: RunConfig, out: Path, command: str, reporter: Reporter) -> Comparison:
    """Run everything and write the reports to `out`.

    Args:
        config: what to run.
        out: folder of the run: new, empty, or of the same run, which then goes on.
        command: the command line as typed.
        reporter: is told how far the run is.

    Raises:
        InputError: the run cannot be made; a folder that was new is not left behind.
        RunError: it could not finish; the same command goes on from there.
    """
    chosen, settings = _chosen(config)
    task = load_task(config.source, config.options)
    plan = config.plan(task.data_hash)
    check_out(out, plan)
    asked, skipped = _asked(chosen, task, config.seeds)
    ground = stand_on(task, config.base, config.dtype)
    base = ground.base
    budget = parse_budget(config.budget, mean_row_tokens=ground.mean_row_tokens)
    identity = config.identity(task.data_hash, base.fingerprint, base.dtype_name)
    there = out.exists()
    resumed = claim(out, identity, command, plan)
    if resumed:
        reporter.say(f"going on with the run in {out}")
    jobs = Jobs(ground, settings, budget, out, reporter)
    try:
        write_json(out / "data_check.json", ground.check.as_dict())
        started = _started(out)
        fitted, left_out = _fit(jobs, asked, climbing=config.climb)
    except InputError:
        # What was fitted before the fault is kept: the mended command may go on from it.
        if not resumed:
            release(out, keep=there)
        raise
    jobs.all_fitted()
    skipped += left_out
    rows = task.test.open()
    records = []
    for number, (method, seed) in enumerate(fitted, start=1):
        record = jobs.record(method, seed)
        if record is None:
            told = f"measuring {method.name}, seed {seed}"
            reporter.begin(told, number, len(fitted), unit="rows")
            record = jobs.measure(method, seed, rows)
        records.append(record)
    context = _run_context(config, ground, budget, command, started)
    comparison = build_comparison(
        task.spec, records, skipped, context, {row.id: row for row in rows}
    )
    details = gather_details(comparison, records, rows, ground.check.as_dict())
    write_reports(comparison, details, out)
    return comparison


def plan(config: RunConfig) -> RunPlan:
    """What `compare` would cost. Nothing is fitted and nothing is written.

    Args:
        config: what would run.

    Raises:
        InputError: the run cannot be made.
    """
    chosen, settings = _chosen(config)
    task = load_task(config.source, config.options)
    asked, skipped = _asked(chosen, task, config.seeds)
    ground = stand_on(task, config.base, config.dtype)
    budget = parse_budget(config.budget, mean_row_tokens=ground.mean_row_tokens)
    return plan_run(ground, asked, skipped, settings, budget)


def _chosen(config: RunConfig) -> tuple[list[Method], dict[str, Any]]:
    """The methods of a run, and their settings by name.

    Raises:
        InputError: what can be refused before anything slow begins.
    """
    known = discover_methods()
    named = {name: find_method(name, known) for name in (*config.methods, *config.settings)}
    chosen = {named[name].name: named[name] for name in config.methods} or known
    given = {named[name].name: values for name, values in config.settings.items()}
    settings = {name: parse_settings(each, given.get(name, {})) for name, each in chosen.items()}
    parse_budget(config.budget, mean_row_tokens=1.0)
    return list(chosen.values()), settings


def _fit(
    jobs: Jobs, asked: Sequence[Job], *, climbing: bool
) -> tuple[list[Job], list[SkippedMethod]]:
    """Fit what is asked for; returns what is fitted, and the methods that were left out.

    Raises:
        BudgetTooSmallError: the budget does not pay for any of them.
    """
    fitted, left_out = climb(jobs, asked) if climbing else _fit_all(jobs, asked)
    if not fitted:
        raise BudgetTooSmallError(
            "the budget does not pay for any of the methods",
            found="\n    ".join(f"{one.method}: {one.reason}" for one in left_out),
            expected="a budget that pays for one step of one method",
            fix="raise --budget",
        )
    return fitted, left_out


def _fit_all(jobs: Jobs, asked: Sequence[Job]) -> tuple[list[Job], list[SkippedMethod]]:
    """Fit what is not fitted yet; returns what is fitted, and the methods that cost too much."""
    left_out: dict[str, SkippedMethod] = {}
    for number, (method, seed) in enumerate(asked, start=1):
        if method.name in left_out or jobs.is_fitted(method, seed):
            continue
        jobs.reporter.begin(f"fitting {method.name}, seed {seed}", number, len(asked))
        try:
            jobs.fit(method, seed)
        except BudgetTooSmallError as error:
            left_out[method.name] = SkippedMethod.because(method.name, error)
    return [job for job in asked if job[0].name not in left_out], list(left_out.values())


def _asked(
    methods: Sequence[Method], task: LoadedTask, seeds: Sequence[int]
) -> tuple[list[Job], list[SkippedMethod]]:
    """Fits to be run, cheap methods first, and methods that cannot run here.

    Raises:
        ConfigError: none can.
    """
    asked: list[Job] = []
    skipped = []
    for method in sorted(methods, key=lambda each: (each.needs.gradients, each.needs.base)):
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


def _started(out: Path) -> str:
    """When the run in this folder first began."""
    held = read_json(out / "started.json")
    if held is None:
        held = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(out / "started.json", held)
    return str(held["started"])


def _run_context(
    config: RunConfig, ground: Ground, budget: int, command: str, started: str
) -> RunContext:
    task, base = ground.task, ground.base
    versions = installed_versions()
    sizes = {
        "train": len(task.fit_view.train),
        "validation": len(task.fit_view.validation),
        "test": len(task.test),
    }
    return RunContext(
        base=BaseFacts(base.name, base.fingerprint, base.dtype_name, base.parameters),
        budget=BudgetFacts(UNIT, budget),
        data=DataFacts(sizes, task.data_hash),
        machine=MachineFacts(default_threads(), processor_name(), torch.get_num_threads()),
        seeds=config.seeds,
        command=command,
        version=versions.get("tunewise", ""),
        started=started,
        versions=versions,
    )
