"""The single steps that the pipeline and the commands are made of: prepare, fit, measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.predict import needs_base, predictor_for
from tunewise.adaptation.store import fingerprint_of
from tunewise.errors import ConfigError, DataError, RunError
from tunewise.measure.accuracy import Measured, measure_rows
from tunewise.measure.memory import PeakMemory
from tunewise.methods._contract import Method
from tunewise.model.base import Base, default_threads, load_base
from tunewise.model.checksum import weights_checksum
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.numerics.intervals import mean_interval
from tunewise.task.check import DataCheck, with_tokens
from tunewise.task.options import TaskOptions
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.task import LoadedTask, load_task
from tunewise.task.types import FitView, Row, TaskSpec, clusters_of


class Reporter(Protocol):
    """Who is told how far the run is."""

    def say(self, text: str) -> None:
        """One line that stays."""
        ...

    def begin(self, text: str, number: int, of: int, unit: str = "tokens") -> None:
        """A piece of long work begins; `unit` is what it is counted in."""
        ...

    def work(self, done: int, total: int | None, text: str) -> None:
        """How far that piece is."""
        ...

    def whole(self, done: int, total: int, seconds_left: float) -> None:
        """How far all pieces together are, in token passes, where that is known."""
        ...


# Raised whenever the same settings, seed and budget fit otherwise than before.
FIT_RULES = 4


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
    return stand_on(load_task(source, options), base_name, dtype)


def stand_on(task: LoadedTask, base_name: str, dtype: str) -> Ground:
    """Load the base for a task that is loaded already; see `prepare`."""
    return check_tokens(task, _load_base(base_name, dtype))


def _load_base(name: str, dtype: str) -> Base:
    # Whoever sets OMP_NUM_THREADS has told torch already.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(default_threads())
    return load_base(name, dtype=dtype)


def check_tokens(task: LoadedTask, base: Base) -> Ground:
    """Add to the data check what the rows are in tokens of this base."""
    renderer = Renderer(base.tokenizer, task.spec, PromptText(task.spec.instruction))
    rows = (*task.fit_view.train, *task.fit_view.validation)
    check = task.test.checked(
        lambda test: with_tokens(task.check, renderer, task.fit_view, test, base.context_length)
    )
    tokens = [
        len(renderer.row_tokens(r.input)) + len(renderer.answer_tokens(r.output)) for r in rows
    ]
    return Ground(base, task, check, sum(tokens) / len(tokens))


def fit(
    ground: Ground,
    method: Method,
    settings: Any,
    *,
    seed: int,
    budget: int | None,
    checkpoint: Path | None = None,
    start: Adaptation | None = None,
    report: Callable[[int, int | None, str], None] | None = None,
) -> Fitted:
    """Fit one method once.

    Args:
        ground: base and task.
        method: what to fit.
        settings: an instance of its `Settings`.
        seed: of everything random.
        budget: token passes at most; None for no limit.
        checkpoint: folder for the state of an interrupted fit, or None; to be cleared by
            `clear_state` once what was found is stored.
        start: adaptation to start from, or None.
        report: is told how far the fit is; see `FitLog.report`.

    Raises:
        RunError: the base was changed, which no method may do.
    """
    base, view = ground.base, ground.task.fit_view
    check_method(method, view)
    log = FitLog(report=report)
    ledger = Ledger(base.body_parameters, base.head_parameters, budget)
    before = weights_checksum(base)
    context = FitContext(
        base,
        view,
        ledger,
        seed,
        log,
        ground.task.data_hash,
        start=start,
        checkpoint_folder=checkpoint,
        identity=repr((method.name, settings.model_dump(mode="json"), budget, _named(start))),
    )
    began = time.perf_counter()
    with PeakMemory() as memory:
        adaptation = method.fit(context, settings)
    # The log of a fit that was interrupted also holds the steps of the process before.
    elapsed = time.perf_counter() - began + log.seconds_before
    seconds = max(elapsed, sum(log.step_seconds))
    if weights_checksum(base) != before:
        raise RunError(f"the method {method.name} changed the base model", fix="mend the method")
    return Fitted(adaptation, log, seconds, memory.peak_bytes)


def _named(start: Adaptation | None) -> str | None:
    return None if start is None else fingerprint_of(start)


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
            fix="choose another method (`tunewise methods`), or another --kind",
        )
    if len(view.train) < method.needs.minimum_rows:
        raise DataError(
            f"{method.name} needs more training rows",
            found=f"{len(view.train)}",
            expected=f"at least {method.needs.minimum_rows}",
            fix="add rows, or choose another method",
        )


def measure(
    base: Base | None,
    adaptation: Adaptation,
    rows: Sequence[Row],
    reporter: Reporter | None = None,
    *,
    free_too: bool = True,
) -> Measured:
    """Answer and score rows with a stored adaptation; see `measure_rows`."""

    def report(done: int, total: int) -> None:
        if reporter is not None:
            reporter.work(done, total, "")

    with predictor_for(base, adaptation) as predictor:
        spec, decoding = adaptation.spec, adaptation.decoding
        return measure_rows(predictor, rows, spec, decoding, report, free_too=free_too)


def fit_facts(fitted: Fitted) -> dict[str, Any]:
    """What a fit cost and how it went; JSON values."""
    log, made = fitted.log, fitted.adaptation.provenance
    return {
        "seconds": fitted.seconds,
        **made.work,
        "peak_bytes": fitted.peak_bytes,
        **log.facts(),
    }


def described(fitted: Fitted) -> dict[str, Any]:
    """A fit as `fit --json` tells it: the entry's facts, and every step."""
    made = fitted.adaptation.provenance
    facts = fit_facts(fitted)
    steps = {name: facts.pop(name) for name in ("step_seconds", "step_tokens", "losses")}
    return {
        "method": made.method,
        "parts": list(fitted.adaptation.kinds),
        "settings": dict(made.settings),
        "notes": dict(made.notes),
        "seed": made.seed,
        "dtype": made.dtype,
        "base": {"name": made.base_name, "fingerprint": made.base_fingerprint},
        "fit": facts,
        **steps,
    }


def base_for(adaptation: Adaptation, name: str | None, dtype: str) -> Base | None:
    """The base that a stored adaptation needs; None where it needs none."""
    if not needs_base(adaptation):
        return None
    made = adaptation.provenance
    return _load_base(
        made.base_name if name is None else name, made.dtype if dtype == "auto" else dtype
    )


def score_summary(measured: Measured, rows: Sequence[Row], spec: TaskSpec) -> dict[str, Any]:
    """Metric with its interval, for `tunewise measure`; rows of a group are drawn whole.

    Args:
        measured: answers to the rows, in their order.
        rows: that were answered.
        spec: names the metric.
    """
    scores = [[result.score for result in measured.results]]
    interval = mean_interval(scores, clusters=clusters_of(rows))
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
