"""A run with its fits measured, and questions asked of it in a folder of the test's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.conftest import build_tokenizer

from tunewise.asking import Asked, Asking
from tunewise.jobs import Jobs
from tunewise.measure.evidence import Answered, Evidence
from tunewise.measure.pieces import Pieces
from tunewise.measure.questions._contract import (
    Question,
    QuestionContext,
    QuestionSettings,
    Subject,
)
from tunewise.measure.questions._registry import QUESTIONS
from tunewise.measure.records import FitRecord, RowResult
from tunewise.methods._registry import find_method
from tunewise.model.ledger import Ledger
from tunewise.steps import prepare
from tunewise.task.options import TaskOptions
from tunewise.task.types import FitView, Kind, Row, TaskSpec


@dataclass
class Told:
    """A reporter that keeps what it is told."""

    begun: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    left: list[tuple[int, int, float]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """See `Reporter`."""
        self.said.append(text)

    def begin(self, text: str, number: int, of: int, unit: str = "tokens") -> None:
        """See `Reporter`."""
        self.begun.append(text)

    def work(self, done: int, total: int | None, text: str) -> None:
        """See `Reporter`."""
        self.pieces.append(text)

    def whole(self, done: int, total: int, seconds_left: float) -> None:
        """See `Reporter`."""
        self.left.append((done, total, seconds_left))


@dataclass(frozen=True)
class Run:
    """A run whose fits are measured."""

    jobs: Jobs
    records: tuple[FitRecord, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    def asking(self, out: Path) -> Asking:
        """Questions of this run whose answers are kept in `out`."""
        out.mkdir(parents=True, exist_ok=True)
        for name in ("adaptations",):
            if not (out / name).exists():
                os.symlink(self.jobs.out / name, out / name)
        return Asking(
            replace(self.jobs, out=out, reporter=Told()), self.records, self.rows, self.seeds
        )

    def ask(self, name: str, out: Path, **settings: Any) -> Evidence:
        """Ask one question without a limit."""
        question = QUESTIONS.find(name)
        asked = Asked(question, question.Settings(**settings))
        (evidence,) = self.asking(out).ask([asked], None)
        return evidence


def run_on(
    data: Path,
    out: Path,
    base: Path | str,
    methods: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    budget: int = 20_000,
    settings: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> Run:
    """Fit and measure methods on a data file."""
    ground = prepare(str(data), TaskOptions.model_validate(options), str(base), "float32")
    found = [find_method(name) for name in methods]
    given = {} if settings is None else settings
    jobs = Jobs(
        ground,
        {each.name: each.Settings(**given.get(each.name, {})) for each in found},
        budget,
        out,
        Told(),
    )
    pairs = [(m, seed) for m in found for seed in (seeds if m.needs.seeds else seeds[:1])]
    for method, seed in pairs:
        jobs.fit(method, seed)
    rows = ground.task.test.open()
    records = tuple(jobs.measure(method, seed, rows) for method, seed in pairs)
    return Run(jobs, records, rows, tuple(seeds))


class Toy:
    """A question for tests: counts how often its pieces were made."""

    name = "toy"
    title = "Toy"
    asks = "does it work?"
    Settings = QuestionSettings

    def __init__(self, planned: int = 100, reason: str = "") -> None:
        self.planned, self.reason, self.made = planned, reason, list[str]()
        self.fails: Exception | None = None

    def inapplicable(self, context: QuestionContext) -> str:
        """See `Question.inapplicable`."""
        return self.reason

    def cost(self, context: QuestionContext, settings: QuestionSettings) -> int:
        """See `Question.cost`."""
        return self.planned

    def measure(self, context: QuestionContext, settings: QuestionSettings) -> Answered:
        """Two pieces of half the plan each; may fail between them."""
        for key in ("first", "second"):

            def make(key: str = key) -> dict[str, Any]:
                if self.fails is not None and key == "second":
                    raise self.fails
                self.made.append(key)
                context.ledger.charge(forward=self.planned // 2)
                return {"key": key}

            assert context.once(key, make) == {"key": key}
        return Answered((), findings=("it works",))


def toys(*toys: Question) -> list[Asked]:
    """Questions with their default settings."""
    return [Asked(toy, toy.Settings()) for toy in toys]


def planted_context(
    outputs: Sequence[str],
    scores: dict[str, dict[int, Sequence[float]]],
    *,
    inputs: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    probability: float | None = 0.9,
    kind: Kind = Kind.CLASSIFICATION,
    labels: Sequence[str] | None = None,
    results: dict[str, Sequence[RowResult]] | None = None,
    **costs: Any,
) -> QuestionContext:
    """A context of test rows and planted answers, for questions that read records only.

    Args:
        outputs: of the test rows.
        scores: by entry and seed, of every row.
        inputs, domains: of the rows; made up where left out.
        probability: of every answer.
        kind, labels: of the task.
        results: answers as they are, by entry (one seed), beside or instead of scores.
        costs: fields of every record.
    """
    rows = tuple(
        Row(
            f"r{n}",
            f"text {n}" if inputs is None else inputs[n],
            output,
            (output,),
            None if domains is None else domains[n],
        )
        for n, output in enumerate(outputs)
    )
    names = tuple(sorted(set(outputs))) if labels is None else tuple(labels)
    spec = TaskSpec("planted", kind, "Say.", names, "accuracy")
    told = {
        name: {
            seed: tuple(
                RowResult(row.id, row.output if score else "?", score, probability)
                for row, score in zip(rows, line, strict=True)
            )
            for seed, line in by_seed.items()
        }
        for name, by_seed in scores.items()
    }
    told |= {name: {0: tuple(line)} for name, line in ({} if results is None else results).items()}
    return QuestionContext(
        base=SimpleNamespace(tokenizer=build_tokenizer()),  # type: ignore[arg-type]  # all that is read
        view=FitView(spec, rows, rows),
        test=rows,
        data_check={},
        subjects={
            name: tuple(
                Subject(_record(name, seed, line, costs), _no_load) for seed, line in lines.items()
            )
            for name, lines in told.items()
        },
        refit=_no_load,  # type: ignore[arg-type]  # never called
        serving=_no_load,  # type: ignore[arg-type]  # never called
        fit_budget=1000,
        seeds=(0, 1),
        ledger=Ledger(1, 1),
        pieces=Pieces(),
        report=lambda done, total, text: None,
    )


def _record(name: str, seed: int, line: tuple[RowResult, ...], costs: dict[str, Any]) -> FitRecord:
    plain: dict[str, Any] = {
        "seconds": 10.0 + seed,
        "forward_tokens": 600,
        "backward_tokens": 400,
        "flops": 10**9,
        "peak_bytes": 10**8,
        "trainable_parameters": 100,
        "bytes_on_disk": 5_000,
        "prompt_tokens_per_request": 20.0,
        "milliseconds_per_row": 2.0,
    }
    own = {key: value.get(name, plain.get(key)) for key, value in costs.items()}
    return FitRecord(
        method=name,
        seed=seed,
        parts=("prompt_text",),
        adaptation="",
        settings={},
        notes={},
        test=line,
        validation=line,
        **(plain | own),
    )


def _no_load(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is loaded here")
