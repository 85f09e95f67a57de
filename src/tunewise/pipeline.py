"""The whole story on one page, top to bottom.

    load the task -> lock the test rows -> look at the run's folder -> load the base -> claim it
    -> for each method and seed: fit, store, check that the base is unchanged
    -> open the test rows, once -> measure every stored adaptation
    -> compare on paired rows -> recommend -> report

Every step leaves its result in the run's folder; the same command goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tunewise.adaptation.store import folder_bytes, installed_versions, load, save
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
from tunewise.errors import BudgetTooSmallError, ConfigError, DataError, InputError, RunError
from tunewise.measure.files import read_json, read_record, write_json, write_record
from tunewise.measure.records import FitRecord, SkippedMethod
from tunewise.methods._chain import ARROW
from tunewise.methods._contract import Method, parse_settings
from tunewise.methods._registry import discover_methods, find_method
from tunewise.model.base import default_threads, processor_name
from tunewise.model.ledger import UNIT
from tunewise.planning.plan import plan_run
from tunewise.planning.records import RunPlan
from tunewise.steps import Ground, Reporter, check_method, fit, fit_facts, measure, stand_on
from tunewise.task.task import LoadedTask, load_task
from tunewise.task.types import Row

Job: TypeAlias = tuple[Method, int]
_CHECKPOINTS = "checkpoints"


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
    jobs, skipped = _jobs(chosen, task, config.seeds)
    ground = stand_on(task, config.base, config.dtype)
    base = ground.base
    budget = parse_budget(config.budget, mean_row_tokens=ground.mean_row_tokens)
    identity = config.identity(task.data_hash, base.fingerprint, base.dtype_name)
    there = out.exists()
    resumed = claim(out, identity, command, plan)
    if resumed:
        reporter.say(f"going on with the run in {out}")
    try:
        write_json(out / "data_check.json", ground.check.as_dict())
        started = _started(out)
        jobs, too_dear = _fit_all(ground, jobs, settings, budget, out, reporter)
    except InputError:
        # What was fitted before the fault is kept: the mended command may go on from it.
        if not resumed and not any(_is_fitted(method, seed, out) for method, seed in jobs):
            release(out, keep=there)
        raise
    skipped += too_dear
    rows = task.test.open()
    records = []
    for number, (method, seed) in enumerate(jobs, start=1):
        record = read_record(_record_path(method, seed, out))
        if record is None:
            told = f"measuring {method.name}, seed {seed}"
            reporter.begin(told, number, len(jobs), unit="rows")
            record = _measure_and_store(ground, method, seed, rows, out, reporter)
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
    jobs, skipped = _jobs(chosen, task, config.seeds)
    ground = stand_on(task, config.base, config.dtype)
    budget = parse_budget(config.budget, mean_row_tokens=ground.mean_row_tokens)
    return plan_run(ground, jobs, skipped, settings, budget)


def _chosen(config: RunConfig) -> tuple[list[Method], dict[str, Any]]:
    """The methods of a run, and their settings by name.

    Raises:
        InputError: what can be refused before anything slow begins.
    """
    known = discover_methods()
    chosen = [find_method(name, known) for name in config.methods] or list(known.values())
    for name in config.settings:
        find_method(name, known)
    settings = {
        each.name: parse_settings(each, config.settings.get(each.name, {})) for each in chosen
    }
    parse_budget(config.budget, mean_row_tokens=1.0)
    return chosen, settings


def _fit_all(
    ground: Ground,
    jobs: Sequence[Job],
    settings: Mapping[str, Any],
    budget: int,
    out: Path,
    reporter: Reporter,
) -> tuple[list[Job], list[SkippedMethod]]:
    """Fit what is not fitted yet; returns what is fitted, and the methods that cost too much."""
    too_dear: dict[str, SkippedMethod] = {}
    for number, (method, seed) in enumerate(jobs, start=1):
        if method.name in too_dear:
            continue
        if _is_fitted(method, seed, out):
            continue
        reporter.begin(f"fitting {method.name}, seed {seed}", number, len(jobs))
        try:
            _fit_and_store(ground, method, settings[method.name], seed, budget, out, reporter)
        except BudgetTooSmallError as error:
            reason = f"{error.what}; {error.found}; {error.expected}"
            too_dear[method.name] = SkippedMethod(method.name, reason)
    # Every fit clears its own checkpoint; the folder that held them goes once it is empty.
    with suppress(OSError):
        (out / _CHECKPOINTS).rmdir()
    done = [job for job in jobs if job[0].name not in too_dear]
    if not done:
        raise BudgetTooSmallError(
            "the budget does not pay for any of the methods",
            found="\n    ".join(f"{one.method}: {one.reason}" for one in too_dear.values()),
            expected="a budget that pays for one step of one method",
            fix="raise --budget",
        )
    return done, list(too_dear.values())


def _jobs(
    methods: Sequence[Method], task: LoadedTask, seeds: Sequence[int]
) -> tuple[list[Job], list[SkippedMethod]]:
    """Fits to be run, cheap methods first, and methods that cannot run here.

    Raises:
        ConfigError: none can.
    """
    jobs: list[Job] = []
    skipped = []
    for method in sorted(methods, key=lambda each: (each.needs.gradients, each.needs.base)):
        try:
            check_method(method, task.fit_view)
        except (ConfigError, DataError) as error:
            reason = f"{error.what}: found {error.found}, expected {error.expected}"
            skipped.append(SkippedMethod(method.name, reason))
            continue
        jobs += [(method, seed) for seed in (seeds if method.needs.seeds else seeds[:1])]
    if not jobs:
        raise ConfigError(
            "none of the methods can do this task",
            found="\n    ".join(f"{one.method}: {one.reason}" for one in skipped),
            expected="at least one that can",
            fix="name others in --methods, or leave it out to run all that can",
        )
    return jobs, skipped


def _folder(method: Method, seed: int) -> str:
    """An arrow is no letter of a file's name everywhere."""
    return f"{method.name.replace(ARROW, '-then-')}-seed{seed}"


def _names(method: Method, seed: int) -> tuple[str, str]:
    folder = _folder(method, seed)
    return f"adaptations/{folder}", f"fits/{folder}.json"


def _is_fitted(method: Method, seed: int, out: Path) -> bool:
    folder, facts = _names(method, seed)
    # The facts are written last.
    return read_json(out / facts) is not None and (out / folder).exists()


def _fit_and_store(
    ground: Ground,
    method: Method,
    settings: Any,
    seed: int,
    budget: int,
    out: Path,
    reporter: Reporter,
) -> None:
    folder, facts = _names(method, seed)
    checkpoint = out / _CHECKPOINTS / _folder(method, seed)
    fitted = fit(
        ground,
        method,
        settings,
        seed=seed,
        budget=budget,
        checkpoint=checkpoint,
        reporter=reporter,
    )
    save(fitted.adaptation, out / folder)
    write_json(out / facts, fit_facts(fitted))


def _measure_and_store(
    ground: Ground,
    method: Method,
    seed: int,
    rows: Sequence[Row],
    out: Path,
    reporter: Reporter,
) -> FitRecord:
    folder, facts_name = _names(method, seed)
    adaptation = load(out / folder, base_fingerprint=ground.base.fingerprint)
    test = measure(ground.base, adaptation, rows, reporter)
    validation = measure(ground.base, adaptation, ground.task.fit_view.validation, reporter)
    facts = read_json(out / facts_name)
    if facts is None:
        raise RunError("the facts of a fit are gone", found=str(out / facts_name), fix="run again")
    record = FitRecord(
        method=method.name,
        seed=seed,
        parts=adaptation.kinds,
        adaptation=folder,
        settings=dict(adaptation.provenance.settings),
        notes=dict(adaptation.provenance.notes),
        test=test.results,
        validation=validation.results,
        seconds=facts["seconds"],
        forward_tokens=facts["forward_tokens"],
        backward_tokens=facts["backward_tokens"],
        flops=facts["flops"],
        peak_bytes=facts["peak_bytes"],
        trainable_parameters=facts["trainable_parameters"],
        bytes_on_disk=folder_bytes(out / folder),
        prompt_tokens_per_request=test.prompt_tokens_per_request,
        milliseconds_per_row=test.milliseconds_per_row,
        curve=tuple(facts["curve"]),
    )
    write_record(_record_path(method, seed, out), record)
    return record


def _record_path(method: Method, seed: int, out: Path) -> Path:
    return out / "records" / f"{_folder(method, seed)}.json"


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
