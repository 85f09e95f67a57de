"""How good one answer is: the metrics by name, each between 0 and 1, higher is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.task import metrics
from tunewise.task.types import Kind, Row, TaskSpec

Score: TypeAlias = Callable[[str, Row, TaskSpec], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as in `TaskSpec.metric`.
        kinds: kinds of answer that it fits.
        score: of an answer to a row, 0 to 1.
    """

    name: str
    kinds: frozenset[Kind]
    score: Score


def _accuracy(answer: str, row: Row, spec: TaskSpec) -> float:
    """1 where the answer, case and white space folded, is an accepted one."""
    return float(metrics.folded(answer) in {metrics.folded(each) for each in row.references})


def _label_f1(answer: str, row: Row, spec: TaskSpec) -> float:
    return metrics.label_f1(answer, row.output)


def _label_exact(answer: str, row: Row, spec: TaskSpec) -> float:
    return float(metrics.label_set(answer) == metrics.label_set(row.output))


def _token_f1(answer: str, row: Row, spec: TaskSpec) -> float:
    return metrics.token_f1(answer, row.references)


def _exact_match(answer: str, row: Row, spec: TaskSpec) -> float:
    return metrics.exact_match(answer, row.references)


def _rouge_l(answer: str, row: Row, spec: TaskSpec) -> float:
    return metrics.rouge_l(answer, row.references)


def _chrf(answer: str, row: Row, spec: TaskSpec) -> float:
    return metrics.chrf(answer, row.references)


def _field_f1(answer: str, row: Row, spec: TaskSpec) -> float:
    return metrics.field_f1(answer, row.references)


def _json_exact(answer: str, row: Row, spec: TaskSpec) -> float:
    """1 where the values are equal, whatever the order of keys and the spaces."""
    valid, value = metrics.parse_json(answer)
    return float(valid and any(value == metrics.parse_json(each)[1] for each in row.references))


def _valid_json(answer: str, row: Row, spec: TaskSpec) -> float:
    return float(metrics.parse_json(answer)[0])


def _schema_valid(answer: str, row: Row, spec: TaskSpec) -> float:
    import jsonschema

    valid, value = metrics.parse_json(answer)
    if not valid or spec.schema is None:
        return float(valid)
    try:
        jsonschema.validate(value, dict(spec.schema))
    except jsonschema.ValidationError:
        return 0.0
    return 1.0


_TEXT = frozenset({Kind.SHORT_ANSWER, Kind.GENERATION})
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", frozenset({Kind.CLASSIFICATION}), _accuracy),
            Metric("label_f1", frozenset({Kind.MULTI_LABEL}), _label_f1),
            Metric("label_exact", frozenset({Kind.MULTI_LABEL}), _label_exact),
            Metric("token_f1", _TEXT, _token_f1),
            Metric("exact_match", _TEXT, _exact_match),
            Metric("rouge_l", _TEXT, _rouge_l),
            Metric("chrf", _TEXT, _chrf),
            Metric("field_f1", frozenset({Kind.JSON}), _field_f1),
            Metric("json_exact", frozenset({Kind.JSON}), _json_exact),
        )
    }
)
DEFAULT_METRIC: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.CLASSIFICATION: "accuracy",
        Kind.MULTI_LABEL: "label_f1",
        Kind.SHORT_ANSWER: "token_f1",
        Kind.GENERATION: "rouge_l",
        Kind.JSON: "field_f1",
    }
)
_EXTRA: Mapping[Kind, Mapping[str, Score]] = MappingProxyType(
    {
        Kind.MULTI_LABEL: {"exact": _label_exact},
        Kind.SHORT_ANSWER: {"exact_match": _exact_match},
        Kind.GENERATION: {"chrf": _chrf},
        Kind.JSON: {
            "valid_json": _valid_json,
            "schema_valid": _schema_valid,
            "exact": _json_exact,
        },
    }
)


def metric_for(name: str, kind: Kind) -> Metric:
    """The metric of that name, if it fits the kind of answer.

    Args:
        name: a key of `METRICS`.
        kind: what an answer is.

    Raises:
        UnknownNameError: there is no such metric; those that fit are named.
        ConfigError: the metric does not fit the kind.
    """
    fitting = [each.name for each in METRICS.values() if kind in each.kinds]
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS, fix=f"{kind} takes {', '.join(fitting)}")
    metric = METRICS[name]
    if kind not in metric.kinds:
        raise ConfigError(
            f"the metric {name!r} does not fit a task of kind {kind}",
            found=f"metric {name}, which is for {', '.join(sorted(metric.kinds))}",
            expected=f"one of {', '.join(fitting)}",
            fix=f"use --metric {fitting[0]}, or set --kind if {kind} is wrong",
        )
    return metric


def score_row(metric_name: str, answer: str, row: Row, spec: TaskSpec) -> float:
    """The score of one answer, 0 to 1.

    Args:
        metric_name: a key of `METRICS`.
        answer: what was answered.
        row: the row with its accepted answers.
        spec: what is asked.

    Raises:
        UnknownNameError, ConfigError: as `metric_for`.
    """
    return metric_for(metric_name, spec.kind).score(answer, row, spec)


def extra_scores(answer: str, row: Row, spec: TaskSpec) -> dict[str, float]:
    """Further scores by name that the kind of task has; `schema_valid` only with a schema.

    Args:
        answer: what was answered.
        row: the row with its accepted answers.
        spec: what is asked.
    """
    scores = _EXTRA.get(spec.kind, {})
    return {
        name: score(answer, row, spec)
        for name, score in scores.items()
        if name != "schema_valid" or spec.schema is not None
    }
