"""The whole story on one page, top to bottom.

    load the task -> lock the test rows -> load the base -> claim the run's folder
    -> for each method and seed: fit, store, check that the base is unchanged
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

from tunewise.adaptation.store import folder_bytes, library_versions, load, save
from tunewise.compare.contract import (
    BaseFacts,
    BudgetFacts,
    Comparison,
    DataFacts,
    MachineFacts,
    RunContext,
)
from tunewise.compare.report import write_reports
from tunewise.compare.run_folder import claim
from tunewise.compare.table import build_comparison, gather_details
from tunewise.config import RunConfig, parse_budget
from tunewise.errors import BudgetTooSmallError, ConfigError, DataError
from tunewise.measure.files import read_json, read_record, write_json, write_record
from tunewise.measure.records import FitRecord, SkippedMethod
from tunewise.methods._contract import Method
from tunewise.methods._registry import discover_methods, find_method
from tunewise.model.base import default_threads, processor_name
from tunewise.model.ledger import UNIT
from tunewise.steps import Ground, Reporter, check_method, fit, fit_facts, measure, prepare
from tunewise.task.task import LoadedTask
from tunewise.task.types import Row


def compare(config: RunConfig, out: Path, command: str, reporter: Reporter) -> Comparison:
    """Run everything and write the reports to `out`."""
    known = discover_methods()
    chosen = [find_method(name, known) for name in config.methods] or list(known.values())
    # Names and values of settings are refused before anything slow begins.
    settings = {
        method.name: method.Settings(**config.settings.get(method.name, {})) for method in chosen
    }
    ground = prepare(config.source, config.options, config.base, config.dtype)
    task, base = ground.task, ground.base
    budget = parse_budget(config.budget, mean_row_tokens=ground.mean_row_tokens)
    identity = config.identity(task.data_hash, base.fingerprint, base.dtype_name)
    if claim(out, identity, command):
        reporter.say(f"going on with the run in {out}")
    write_json(out / "data_check.json", ground.check.as_dict())
    started = _started(out)
    jobs, skipped = _jobs(chosen, task, config.seeds)
    for number, (method, seed) in enumerate(jobs, start=1):
        reporter.begin(f"fitting {method.name}, seed {seed}", number, len(jobs))
        try:
            _fit_and_store(ground, method, settings[method.name], seed, budget, out, reporter)
        except BudgetTooSmallError as error:
            skipped.append(
                SkippedMethod(method.name, f"{error.what}; {error.found}; {error.expected}")
            )
    if len({one.method for one in skipped}) == len(chosen):
        reasons = "; ".join(f"{one.method}: {one.reason}" for one in skipped)
        raise BudgetTooSmallError("no method could be fitted", found=reasons, fix="raise --budget")
    left_out = {one.method for one in skipped}
    jobs = [job for job in jobs if job[0].name not in left_out]
    rows = task.test.open()
    records = []
    for number, (method, seed) in enumerate(jobs, start=1):
        reporter.begin(f"measuring {method.name}, seed {seed}", number, len(jobs))
        records.append(_measure_and_store(ground, method, seed, rows, out))
    context = _run_context(config, ground, budget, command, started)
    comparison = build_comparison(
        task.spec, records, skipped, context, {row.id: row for row in rows}
    )
    details = gather_details(comparison, records, rows, ground.check.as_dict())
    write_reports(comparison, details, out)
    return comparison


def _jobs(
    methods: Sequence[Method], task: LoadedTask, seeds: Sequence[int]
) -> tuple[list[tuple[Method, int]], list[SkippedMethod]]:
    """Fits to be run, cheap methods first, and methods that cannot run here."""
    jobs: list[tuple[Method, int]] = []
    skipped = []
    for method in sorted(methods, key=lambda each: (each.needs.gradients, each.needs.base)):
        try:
            check_method(method, task.fit_view)
        except (ConfigError, DataError) as error:
            reason = f"{error.what}: found {error.found}, expected {error.expected}"
            skipped.append(SkippedMethod(method.name, reason))
            continue
        jobs += [(method, seed) for seed in (seeds if method.needs.seeds else seeds[:1])]
    return jobs, skipped


def _names(method: Method, seed: int) -> tuple[str, str]:
    folder = f"{method.name}-seed{seed}"
    return f"adaptations/{folder}", f"fits/{folder}.json"


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
    if (out / facts).exists() and (out / folder).exists():
        return
    checkpoint = out / "checkpoints" / f"{method.name}-seed{seed}"
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
    ground: Ground, method: Method, seed: int, rows: Sequence[Row], out: Path
) -> FitRecord:
    folder, facts_name = _names(method, seed)
    path = out / "records" / f"{method.name}-seed{seed}.json"
    record = read_record(path)
    if record is not None:
        return record
    adaptation = load(out / folder, base_fingerprint=ground.base.fingerprint)
    test = measure(ground.base, adaptation, rows)
    validation = measure(ground.base, adaptation, ground.task.fit_view.validation)
    facts = read_json(out / facts_name) or {}
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
    write_record(path, record)
    return record


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
    versions = library_versions()
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
