"""What happened during a fit: steps, losses, progress. Holds clock times, so it is no part of
an adaptation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_KEPT = ("step_seconds", "step_tokens", "losses", "curve", "trainable_parameters")


@dataclass(slots=True)
class FitLog:
    """The diary of one fit.

    Attributes:
        step_seconds: wall-clock of every optimizer step.
        step_tokens: tokens of the step's rows, each with its whole prompt and answer and without
            padding: what a trainer that repeats the prompt on every row would process.
        losses: mean training loss over the answer tokens of every step.
        curve: points for the training curves: {"step", "train_loss"} or
            {"step", "validation_loss", ...}.
        trainable_parameters: how many numbers the fit can change.
        seconds_before: seconds of pieces that an interrupted fit had done before this process.
        report: called as report(done, total, text) with work done and to be done in token
            passes (the total is None without a budget); drives the progress bar.
    """

    step_seconds: list[float] = field(default_factory=list)
    step_tokens: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    trainable_parameters: int = 0
    seconds_before: float = 0.0
    report: Callable[[int, int | None, str], None] | None = None

    def progress(self, done: int, total: int | None, text: str) -> None:
        """Tell how far the fit is."""
        if self.report is not None:
            self.report(done, total, text)

    def facts(self) -> dict[str, Any]:
        """What a stored state keeps of the diary: JSON values."""
        return {name: getattr(self, name) for name in _KEPT}

    def take(self, facts: Mapping[str, Any]) -> None:
        """Go on from a stored diary; what else stands in `facts` is passed over."""
        for name in _KEPT:
            setattr(self, name, facts[name])

    def append(self, later: FitLog) -> None:
        """The diary of what came after; its steps are counted on from here."""
        steps = max((point["step"] for point in self.curve), default=0.0)
        self.curve += [{**point, "step": steps + point["step"]} for point in later.curve]
        self.step_seconds += later.step_seconds
        self.step_tokens += later.step_tokens
        self.losses += later.losses
