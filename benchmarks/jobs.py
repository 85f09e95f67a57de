"""What one side of a comparison is told: one flat record, passed to its process as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One side's work.

    Attributes:
        side: who does it, a name of `worker.SIDES`.
        model: short name or path of the base model.
        dtype: "float32" or "bfloat16"; the frozen weights' where weights are frozen.
        workload: name of the rows; "" where none are needed.
        rows: training rows that are loaded, or validation rows that are scored.
        method: what is trained, or how rows are scored.
        size: virtual tokens, positions or rank; or how much grows in a scaling run.
        learning_rate: constant, without warm-up.
        steps: optimizer steps in all blocks together.
        demonstrations: solved rows in the prompt of scored rows.
        autocast: the peer keeps float32 weights and multiplies in bfloat16.
        pieces: parts in which a peer takes a step's rows (gradient accumulation).
        subset: of the scored rows, how many evenly spread ones this side scores; 0 for all.
    """

    side: str
    model: str = "smollm2-135m"
    dtype: str = "float32"
    workload: str = ""
    rows: int = 0
    method: str = ""
    size: int = 0
    learning_rate: float = 0.0
    steps: int = 0
    demonstrations: int = 0
    autocast: bool = False
    pieces: int = 1
    subset: int = 0

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job of `as_json`."""
        return cls(**json.loads(text))
