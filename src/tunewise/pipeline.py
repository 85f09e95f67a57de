"""The whole story on one page, top to bottom.

    load the task -> lock the test rows -> load the base -> claim the run's folder
    -> for each method and seed: fit, store, check that the base is unchanged
    -> open the test rows, once -> measure every stored adaptation
    -> compare on paired rows -> recommend -> report

Every step leaves its result in the run's folder; the same command goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.predict import needs_base, predictor_for
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
from tunewise.errors import BudgetTooSmallError, ConfigError, DataError, RunError
from tunewise.measure.accuracy import Measured, measure_rows
from tunewise.measure.files import read_json, read_record, write_json, write_record
from tunewise.measure.memory import PeakMemory
from tunewise.measure.records import FitRecord, SkippedMethod
from tunewise.methods._contract import Method
from tunewise.methods._registry import discover_methods, find_method
from tunewise.model.base import Base, default_threads, load_base, processor_name
from tunewise.model.checksum import weights_checksum
from tunewise.model.ledger import UNIT, Ledger
from tunewise.model.log import FitLog
from tunewise.task.check import DataCheck, with_tokens
from tunewise.task.options import TaskOptions
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.task import LoadedTask, load_task
from tunewise.task.types import FitView, Row, TaskSpec


class Reporter(Protocol):
    """Who is told how far the run is."""

    def say(self, text: str) -> None:
        """One line that stays."""
        ...

    def begin(self, text: str, number: int, of: int) -> None:
        """A piece of long work begins."""
        ...

    def work(self, done: int, total: int | None, text: str) -> None:
        """How far that piece is, in token passes."""
        ...


@dataclass(frozen=True, slots=True)
class Ground:
    """What every fit of a run stands on."""

    base: Base
    task: LoadedTask
    check: DataCheck
    mean_row_tokens: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """One fit: what it found, its diary, its cost."""

    adaptation: Adaptation
    log: FitLog
    seconds: float
    peak_bytes: int


def prepare(source: str, options: TaskOptions, base_name: str, dtype: str) -> Ground:
    """Load task and base, and check the rows against the base's tokenizer and context."""
    task = load_task(source, options)
    torch.set_num_threads(default_threads())
    base = load_base(base_name, dtype=dtype)
    return check_tokens(task, base)


def check_tokens(task: LoadedTask, base: Base) -> Ground:
    """Add to the data check what the rows are in tokens of this base."""
    renderer = Renderer(base.tokenizer, task.spec, PromptText(task.spec.instruction))
    rows = (*task.fit_view.train, *task.fit_view.validation)
    # Lengths only: the look at the test rows is the data check's, not a method's.
    test = replace(task.test, times_opened=0).open()
    check = with_tokens(task.check, renderer, task.fit_view, test, base.context_length)
    tokens = [
        len(renderer.row_tokens(r.input)) + len(renderer.answer_tokens(r.output)) for r in rows
    ]
    return Ground(base, task, check, sum(tokens) / len(tokens))


def fit(
    base: Base,
    view: FitView,
    data_hash: str,
    method: Method,
    settings: Any,
    *,
    seed: int,
    budget: int | None,
    checkpoint: Path | None = None,
    start: Adaptation | None = None,
    reporter: Reporter | None = None,
) -> Fitted:
    """Fit one method once.

    Raises:
        RunError: the base was changed, which no method may do.
    """
    check_method(method, view)
    log = FitLog(report=None if reporter is None else reporter.work)
    ledger = Ledger(base.body_parameters, base.head_parameters, budget)
    before = weights_checksum(base)
    context = FitContext(
        base, view, ledger, seed, log, data_hash, start=start, checkpoint_folder=checkpoint
    )
    began = time.perf_counter()
    with PeakMemory() as memory:
        adaptation = method.fit(context, settings)
    seconds = time.perf_counter() - began
    if weights_checksum(base) != before:
        raise RunError(f"the method {method.name} changed the base model", fix="mend the method")
    return Fitted(adaptation, log, seconds, memory.peak_bytes)


def check_method(method: Method, view: FitView) -> None:
    """Refuse a method that cannot do this task.

    Raises:
        ConfigError: it does not do this kind of task.
        DataError: it needs more training rows.
    """
    kind = view.spec.kind
    if kind not in method.needs.kinds:
        raise ConfigError(
            f"{method.name} does not do this kind of task",
            found=str(kind),
            expected=", ".join(sorted(method.needs.kinds)),
        )
    if len(view.train) < method.needs.minimum_rows:
        raise DataError(
            f"{method.name} needs more training rows",
            found=f"{len(view.train)}",
            expected=f"at least {method.needs.minimum_rows}",
        )


def measure(base: Base | None, adaptation: Adaptation, rows: Sequence[Row]) -> Measured:
    """Answer and score rows with a stored adaptation."""
    with predictor_for(base, adaptation) as predictor:
        return measure_rows(predictor, rows, adaptation.spec, adaptation.decoding)


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
    write_json(out / "comparison.json", comparison.as_dict())
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
    task = ground.task
    fitted = fit(
        ground.base,
        task.fit_view,
        task.data_hash,
        method,
        settings,
        seed=seed,
        budget=budget,
        checkpoint=checkpoint,
        reporter=reporter,
    )
    save(fitted.adaptation, out / folder)
    write_json(out / facts, fit_facts(fitted))


def fit_facts(fitted: Fitted) -> dict[str, Any]:
    """What a fit cost and how it went; JSON values."""
    log, made = fitted.log, fitted.adaptation.provenance
    return {
        "seconds": fitted.seconds,
        **made.work,
        "peak_bytes": fitted.peak_bytes,
        "trainable_parameters": log.trainable_parameters,
        "step_seconds": log.step_seconds,
        "step_tokens": log.step_tokens,
        "losses": log.losses,
        "curve": log.curve,
    }


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


def base_for(adaptation: Adaptation, name: str | None, dtype: str) -> Base | None:
    """The base that a stored adaptation needs; None where it needs none."""
    if not needs_base(adaptation):
        return None
    torch.set_num_threads(default_threads())
    made = adaptation.provenance
    return load_base(name or made.base_name, dtype=made.dtype if dtype == "auto" else dtype)


def score_summary(measured: Measured, spec: TaskSpec) -> dict[str, Any]:
    """Metric with its interval, for `tunewise measure`."""
    from tunewise.numerics.intervals import mean_interval

    scores = [[result.score for result in measured.results]]
    interval = mean_interval(scores)
    return {
        "metric": spec.metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": len(measured.results),
        "n_failed": sum(result.answer is None for result in measured.results),
        "milliseconds_per_row": measured.milliseconds_per_row,
        "prompt_tokens_per_request": measured.prompt_tokens_per_request,
    }
