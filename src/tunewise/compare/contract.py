"""The records of a comparison: what a run was, one entry per method, pairs, recommendation.

All scores lie between 0 and 1 and higher is better. Everything is frozen; `Comparison.as_dict`
gives plain JSON values in the layout of `templates/schema.json` (the number in "schema" changes
when a field is renamed, removed or changes its meaning; added fields leave it alone).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

from tunewise.measure.evidence import Evidence
from tunewise.measure.records import RowResult, SkippedMethod
from tunewise.task.types import Row, TaskSpec

SCHEMA_VERSION = 1


class Role(StrEnum):
    """What an entry stands for, judged by its parts and its counted work, never by its name."""

    CONSTANT = "constant"  # gives every row the same answer without calling the base
    SHALLOW = "shallow"  # a predictor that never calls the base
    UNTOUCHED = "untouched_base"  # the base and the plain instruction
    PROMPT = "prompt_text"  # a prompt that was searched or filled with demonstrations
    TRAINED = "trained"  # numbers were changed by gradients


class Verdict(StrEnum):
    """The short answer to "do I adapt the model?"."""

    ADAPT = "adapt"
    THEY_TIE = "they tie"
    DO_NOT_ADAPT = "do not adapt"
    CLASSIFIER = "a small classifier is enough"
    NOT_ENOUGH_DATA = "not enough data to tell"
    NOTHING_LEARNED = "nothing beats a constant answer"


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The base model: name, fingerprint, dtype its frozen weights computed in, parameter count."""

    name: str
    fingerprint: str
    dtype: str
    parameters: int


@dataclass(frozen=True, slots=True)
class BudgetFacts:
    """What every method could spend, for example 400,000 "token_passes"."""

    unit: str
    per_method: int


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Rows per split ("train", "validation", "test") and the hash of the fit view."""

    rows: Mapping[str, int]
    data_hash: str


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Where it ran: logical cores, the processor's name, threads the model used."""

    cores: int
    processor: str
    threads: int


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run was, for the table's header and the report's last page.

    Attributes:
        base, budget, data, machine: see their classes.
        seeds: the seeds asked for.
        command: the command line as typed.
        version: Tunewise's version.
        started: ISO date and time.
        versions: further libraries that took part, name -> version.
    """

    base: BaseFacts
    budget: BudgetFacts
    data: DataFacts
    machine: MachineFacts
    seeds: tuple[int, ...]
    command: str
    version: str
    started: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """Mean of a metric over rows and seeds, its 95% interval, rows, failed answers over seeds."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    n_failed: int


@dataclass(frozen=True, slots=True)
class SliceScore:
    """Mean score (or recall, for a label) on `n` rows of one label or domain.

    Attributes:
        value: the mean.
        n: rows.
        groups: that they stand in; None where no two of them share one.
        rows_worth_one: how many of them say as much as one independent row.
    """

    value: float
    n: int
    groups: int | None = None
    rows_worth_one: float = 1.0


@dataclass(frozen=True, slots=True)
class FitWork:
    """Work of one fit: means over the seeds, but the maximum for `peak_bytes`."""

    seconds: float
    forward_tokens: float
    backward_tokens: float
    flops: float
    peak_bytes: int
    trainable_parameters: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One method, its seeds joined.

    Attributes:
        method, parts: its name and the kinds of part it produced.
        role: what it stands for.
        adaptation: folder of the seed that is best on validation (ties: the first seed).
        chosen_seed: that seed; `settings`, `notes`, `bytes_on_disk` are that seed's too.
        settings, notes: JSON values, as the fit recorded them.
        seeds: seeds that were fitted.
        test, validation: scores; validation is None where no validation rows were answered.
        fit: counted and measured work.
        bytes_on_disk, prompt_tokens_per_request, milliseconds_per_row: cost of keeping and using.
        seed_values: test value per seed.
        distinct_answers: how many different answers the test rows got, over all seeds.
        extra: means of further per-row scores by name.
        by_label: recall per label, for tasks that have labels.
        by_domain: score per domain, where rows name one.
        curve: points of the fit per seed (keys are seeds as text).
    """

    method: str
    parts: tuple[str, ...]
    role: Role
    adaptation: str
    chosen_seed: int
    settings: Mapping[str, Any]
    notes: Mapping[str, Any]
    seeds: tuple[int, ...]
    test: Score
    validation: Score | None
    fit: FitWork
    bytes_on_disk: int
    prompt_tokens_per_request: float
    milliseconds_per_row: float
    seed_values: tuple[float, ...]
    distinct_answers: int
    extra: Mapping[str, float] = field(default_factory=dict)
    by_label: Mapping[str, SliceScore] | None = None
    by_domain: Mapping[str, SliceScore] | None = None
    curve: Mapping[str, tuple[Mapping[str, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two methods on the same test rows: score of `a` minus score of `b`.

    Attributes:
        a, b: methods; `a` stands above `b` in the table.
        difference, low, high: with the 95% interval.
        p_value: that there is no difference.
        p_value_holm: the same, corrected (Holm) for the number of comparisons with the best, which
            is what the recommendation reads; None for pairs without the best.
        row_deviation: standard deviation of the per-row differences; where rows stand in groups, of
            as many independent rows that would leave the difference as unsure.
        n: rows.
        seed_deviation: standard deviation of the difference by the seeds of the fits; where a
            trained method has one, by what is usual for such.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p_value: float
    p_value_holm: float | None
    row_deviation: float
    n: int
    seed_deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """What a sentence rests on.

    Attributes:
        measurement: "accuracy", "paired_difference", "cost", or the name of a question.
        methods: whose numbers.
        rows: test rows behind it.
    """

    measurement: str
    methods: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence, every number of which is from its source."""

    text: str
    source: Source


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to do, and why.

    Attributes:
        method: the method to take.
        verdict: the short answer.
        headline: one sentence in plain words.
        best: the method with the highest test score.
        tied_with: methods that cannot be told from the best (without `method` itself).
        reasons, warnings, would_change: sentences, every number from the table.
        runner_up: what would be recommended if `method` were not there, or None.
        next_steps: what to do next, as sentences.
        reason_sources: what each of the reasons rests on, in their order (without its text).
        priorities: those that were given, by name.
        unmet: method -> why it does not meet them.
    """

    method: str
    verdict: Verdict
    headline: str
    best: str
    tied_with: tuple[str, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    would_change: tuple[str, ...]
    runner_up: str | None = None
    next_steps: tuple[str, ...] = ()
    reason_sources: tuple[Source, ...] = ()
    priorities: Mapping[str, Any] = field(default_factory=dict)
    unmet: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole result of `tunewise compare`.

    Row texts are not in it, but where a question shows some as its evidence.
    """

    task: TaskSpec
    context: RunContext
    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    skipped: tuple[SkippedMethod, ...]
    recommendation: Recommendation
    evidence: tuple[Evidence, ...] = ()

    def entry(self, method: str) -> Entry:
        """The entry of this method; KeyError where there is none."""
        for entry in self.entries:
            if entry.method == method:
                return entry
        raise KeyError(method)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: the content of `comparison.json` (non-finite numbers as None)."""
        context = self.context
        plain = {
            "schema": SCHEMA_VERSION,
            "task": self.task,
            "base": context.base,
            "budget": context.budget,
            "data": context.data,
            "seeds": context.seeds,
            "entries": self.entries,
            "pairs": self.pairs,
            "recommendation": self.recommendation,
            "skipped": self.skipped,
            "evidence": self.evidence,
            "machine": context.machine,
            "command": context.command,
            "version": context.version,
            "versions": context.versions,
            "started": context.started,
        }
        return {name: _plain(value) for name, value in plain.items()}


@dataclass(frozen=True, slots=True)
class ReportDetails:
    """What the report shows beside the table: the texts themselves. All of it is untrusted.

    Attributes:
        rows: the test rows.
        answers: method -> row id -> its result (the chosen seed's).
        data_check: what the data check found; JSON values, shown as they are.
    """

    rows: tuple[Row, ...]
    answers: Mapping[str, Mapping[str, RowResult]]
    data_check: Mapping[str, Any] = field(default_factory=dict)


def _plain(value: Any) -> Any:
    """Dataclasses, mappings, tuples and enums as dicts, lists and strings, recursively."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
