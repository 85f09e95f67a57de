"""The whole story on one page, top to bottom.

    load the task -> lock the test rows -> look at the run's folder -> load the base -> claim it
    -> for each method and seed (or rung by rung, while it pays): fit, store
    -> open the test rows, once -> measure every stored adaptation
    -> compare on paired rows -> recommend -> report
    -> ask what else is asked of every adaptation -> report again

Every step leaves its result in the run's folder; the same command goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tunewise.adaptation.store import installed_versions
from tunewise.asking import Asked, Asking
from tunewise.climb import climb, trials_of
from tunewise.compare.contract import (
    BaseFacts,
    BudgetFacts,
    Comparison,
    DataFacts,
    MachineFacts,
    RunContext,
)
from tunewise.compare.prior import Prior, Shape, prior
from tunewise.compare.priorities import Priorities
from tunewise.compare.report import write_reports
from tunewise.compare.run_folder import alone, check_out, claim, release
from tunewise.compare.table import build_comparison, gather_details, with_evidence
from tunewise.config import RunConfig, parse_time
from tunewise.errors import BudgetTooSmallError, InputError
from tunewise.jobs import Job, Jobs
from tunewise.measure.files import read_json, write_json
from tunewise.measure.records import FitRecord, SkippedMethod
from tunewise.model.base import default_threads, processor_name
from tunewise.model.ledger import UNIT
from tunewise.planning.plan import Planner
from tunewise.planning.records import RunPlan
from tunewise.steps import FIT_RULES, Ground, Reporter, stand_on
from tunewise.task.task import load_task
from tunewise.task.types import Row
from tunewise.wanted import (
    Settled,
    answering,
    beforehand,
    jobs_of,
    methods_of,
    plan_of,
    questions_limit,
    questions_of,
    questions_time,
    settle,
)

_TEST_ROWS = "test_rows"


def compare(
    config: RunConfig,
    out: Path,
    command: str,
    reporter: Reporter,
    priorities: Priorities | None = None,
) -> Comparison:
    """Run everything and write the reports to `out`.

    Args:
        config: what to run.
        out: folder of the run: new, empty, or of the same run, which then goes on.
        command: the command line as typed.
        reporter: is told how far the run is.
        priorities: what matters; they change the recommendation and no fit.

    Raises:
        InputError: the run cannot be made; a folder that was new is not left behind.
        RunError: it could not finish; the same command goes on from there.
    """
    chosen, settings = methods_of(config)
    questions = questions_of(config, priorities)
    task = load_task(config.source, config.options)
    plan = config.plan(task.data_hash)
    check_out(out, plan)
    asked, skipped = jobs_of(chosen, task, config)
    ground = stand_on(task, config.base, config.dtype)
    identity = config.identity(task.data_hash, ground.base.fingerprint, ground.base.dtype_name)
    there = out.exists()
    resumed = claim(out, identity, command, plan)
    with alone(out):
        if resumed:
            reporter.say(f"going on with the run in {out}")
        try:
            started, ground = _begun(out, ground)
            budget, ground = _settled(config, ground, asked, settings, out, reporter)
            write_json(out / "data_check.json", ground.check.as_dict())
            jobs = Jobs(ground, settings, budget, out, reporter)
            _announce(config, questions, asked, jobs)
            fitted, left_out = _fit(jobs, asked, climbing=config.climbs)
        except InputError:
            # What was fitted before the fault is kept: the mended command may go on from it.
            if not resumed:
                release(out, keep=there)
            raise
        jobs.all_fitted()
        skipped += left_out
        return _compared(config, jobs, fitted, skipped, questions, command, started, priorities)


def _compared(
    config: RunConfig,
    jobs: Jobs,
    fitted: Sequence[Job],
    skipped: Sequence[SkippedMethod],
    questions: Sequence[Asked],
    command: str,
    started: str,
    priorities: Priorities | None,
) -> Comparison:
    """Measure what is fitted, recommend, report, and ask what else is asked."""
    ground, task, budget, out = jobs.ground, jobs.ground.task, jobs.budget, jobs.out
    rows = task.test.open()
    records = _measure(jobs, fitted, rows)
    context = _run_context(config, ground, budget, command, started)
    by_id = {row.id: row for row in rows}
    comparison = build_comparison(task.spec, records, skipped, context, by_id, priorities)
    details = gather_details(comparison, records, rows, ground.check.as_dict())
    write_reports(comparison, details, out)
    if questions:
        # An hour of questions may follow: the comparison itself is there to be read by now.
        asking = Asking(jobs, records, rows, config.seeds)
        evidence = asking.ask(questions, questions_limit(config, budget), _left_of(config, jobs))
        comparison = with_evidence(comparison, evidence, priorities)
        write_reports(comparison, details, out)
    return comparison


def plan(config: RunConfig, reporter: Reporter | None = None) -> RunPlan:
    """What `compare` would cost. Nothing is fitted and nothing is written.

    Args:
        config: what would run.
        reporter: is told what takes its time, or None.

    Raises:
        InputError: the run cannot be made.
    """
    return _planned(config, reporter)[1]


@dataclass(frozen=True, slots=True)
class Advice:
    """What can be said before anything is fitted.

    Attributes:
        shape: what the task looks like.
        prior: what the nearest measured runs say.
        check: the data check, JSON values.
        plan: what `compare` would cost.
    """

    shape: Shape
    prior: Prior
    check: dict[str, Any]
    plan: RunPlan

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "task": asdict(self.shape),
            "prior": self.prior.as_dict(),
            "warnings": list(self.check["warnings"]),
            "plan": self.plan.as_dict(),
        }


def advise(
    config: RunConfig, priorities: Priorities | None = None, reporter: Reporter | None = None
) -> Advice:
    """What is to be expected, from the data check, the planner and runs on other tasks.

    Args:
        config: what `compare` would run.
        priorities: what matters.
        reporter: is told what takes its time, or None.

    Raises:
        InputError: the run cannot be made.
    """
    ground, planned = _planned(config, reporter)
    spec, tokens = ground.task.spec, ground.check.tokens
    shape = Shape(
        str(spec.kind),
        len(ground.task.fit_view.train),
        len(spec.labels),
        0.0 if tokens is None else tokens.input_tokens.median,
    )
    return Advice(shape, prior(shape, None, priorities), ground.check.as_dict(), planned)


def _planned(config: RunConfig, reporter: Reporter | None) -> tuple[Ground, RunPlan]:
    """Base and task of a run, and what it would cost."""
    chosen, settings = methods_of(config)
    task = load_task(config.source, config.options)
    asked, skipped = jobs_of(chosen, task, config)
    ground = stand_on(task, config.base, config.dtype)
    if reporter is not None:
        reporter.begin("timing this machine", 1, 1)
    planner = Planner(ground, asked, settings)
    settled = settle(config, ground, lambda: planner)
    budget, ground = settled.token_passes, answering(config, ground, settled.test_rows)
    plan = plan_of(config, planner.on(ground), skipped, budget)
    return ground, replace(plan, data_warnings=ground.check.warnings)


def _settled(
    config: RunConfig,
    ground: Ground,
    asked: Sequence[Job],
    settings: Mapping[str, Any],
    out: Path,
    reporter: Reporter,
) -> tuple[int, Ground]:
    """Token passes per fit, and the test rows that are answered.

    What a time pays for is settled once, and a run that goes on has it.
    """
    timed = parse_time(config.budget) is not None
    held = read_json(out / "budget.json") if timed else None
    if held is None:
        found = settle(config, ground, lambda: Planner(ground, asked, settings), reporter.say)
    else:
        found = Settled(int(held[UNIT]), int(held.get(_TEST_ROWS, len(ground.task.test))))
    if timed and held is None:
        write_json(out / "budget.json", {UNIT: found.token_passes, _TEST_ROWS: found.test_rows})
    return found.token_passes, answering(config, ground, found.test_rows)


def _left_of(config: RunConfig, jobs: Jobs) -> float | None:
    """Seconds of the run's time that fits and answers left to its questions; None for no limit."""
    seconds = questions_time(config)
    return None if seconds is None else seconds - jobs.seconds() - trials_of(jobs).seconds()


def _announce(
    config: RunConfig, questions: Sequence[Asked], asked: Sequence[Job], jobs: Jobs
) -> None:
    """Say what the check warns of, and what questions without a limit will take."""
    for warning in jobs.ground.check.warnings:
        jobs.reporter.say(f"mind: {warning}")
    if questions and questions_limit(config, jobs.budget) is None:
        told = beforehand(questions, asked, jobs.budget, jobs.ground)
        in_time = f", as far as {config.budget} pay for them" if questions_time(config) else ""
        jobs.reporter.say(f"{told}{in_time}")


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
            jobs.reporter.say(f"{method.name} left out: {left_out[method.name].reason}")
    return [job for job in asked if job[0].name not in left_out], list(left_out.values())


def _measure(jobs: Jobs, fitted: Sequence[Job], rows: Sequence[Row]) -> list[FitRecord]:
    """The answers of every stored adaptation, where they are not there yet."""
    records = []
    for number, (method, seed) in enumerate(fitted, start=1):
        record = jobs.record(method, seed)
        if record is None:
            told = f"measuring {method.name}, seed {seed}"
            jobs.reporter.begin(told, number, len(fitted), unit="rows")
            record = jobs.measure(method, seed, rows)
        records.append(record)
    return records


def _begun(out: Path, ground: Ground) -> tuple[str, Ground]:
    """When the run in this folder first began, and the ground with a word where since then the
    rules of fitting have changed.
    """
    held = read_json(out / "started.json")
    if held is None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        held = {"started": now, "fit_rules": FIT_RULES}
        write_json(out / "started.json", held)
    started = str(held["started"])
    if held.get("fit_rules", 1) == FIT_RULES:
        return started, ground
    said = (
        f"this run was begun on {started} by a version that fitted otherwise: what was fitted "
        "since is no fair match for what was before; another --out fits all by the same rules"
    )
    check = replace(ground.check, warnings=(*ground.check.warnings, said))
    return started, replace(ground, check=check)


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
