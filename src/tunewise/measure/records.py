"""What measuring leaves behind: plain records, free of torch, that `compare` reads.

Per-row scores are kept, not only means: every comparison is paired on the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tunewise.errors import TunewiseError


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row answered by one adaptation.

    Attributes:
        id: the row's id.
        answer: what was answered; None where answering failed.
        score: the task's metric for this row, 0 to 1; 0 where answering failed.
        probability: of the answer given, where the decoding has one.
        failure: why answering failed; empty where it did not.
        extra: further scores of this row by name, for example {"valid_json": 1.0}.
        group: the row's; None where it has none, or where an older version measured it.
    """

    id: str
    answer: str | None
    score: float
    probability: float | None = None
    failure: str = ""
    extra: dict[str, float] = field(default_factory=dict)
    group: str | None = None


@dataclass(frozen=True, slots=True)
class FitRecord:
    """One fit of one method with one seed, and its answers.

    Attributes:
        method: the method's name.
        seed: the fit's seed.
        parts: kinds of part in the adaptation.
        adaptation: path of its folder, relative to the run's folder.
        settings: as used (JSON values).
        notes: what the method told (JSON values), for example the chosen learning rate.
        test: results on the test rows, in the rows' order.
        validation: results on the validation rows.
        seconds: wall-clock of the fit.
        forward_tokens, backward_tokens, flops: counted work of the fit.
        peak_bytes: highest resident memory of the process during the fit.
        trainable_parameters: how many numbers the fit could change.
        bytes_on_disk: size of the adaptation's folder.
        prompt_tokens_per_request: tokens or positions put before a row's own text, mean.
        milliseconds_per_row: measured on the test rows, batched as in measuring.
        curve: points of the fit: {"step", "train_loss"} and {"step", "validation_loss"}.
    """

    method: str
    seed: int
    parts: tuple[str, ...]
    adaptation: str
    settings: dict[str, Any]
    notes: dict[str, Any]
    test: tuple[RowResult, ...]
    validation: tuple[RowResult, ...]
    seconds: float
    forward_tokens: int
    backward_tokens: int
    flops: int
    peak_bytes: int
    trainable_parameters: int
    bytes_on_disk: int
    prompt_tokens_per_request: float
    milliseconds_per_row: float
    curve: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SkippedMethod:
    """A method that was asked for and could not run, with the reason."""

    method: str
    reason: str

    @classmethod
    def because(cls, method: str, error: TunewiseError) -> SkippedMethod:
        """The method, and the error that refuses it, in one line."""
        told = (error.what, f"found {error.found}", f"expected {error.expected}")
        return cls(method, "; ".join(told))
