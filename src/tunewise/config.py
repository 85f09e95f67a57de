"""What a run is: one frozen, validated record, whatever flags and files it came from."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tunewise.errors import ConfigError
from tunewise.task.options import TaskOptions

DEFAULT_BASE = "smollm2-135m"
ALL_QUESTIONS = ("all",)
# Token passes per fit. The default grows with the rows' length, so that a fit can take about
# `_DEFAULT_STEPS` steps of 16 rows, and is stated with every run.
BUDGET_NAMES = {"small": 0.4, "default": 1.0, "large": 4.0}
_SECONDS = {"min": 60.0, "h": 3600.0}
_LEAST_DEFAULT = 100_000
_MOST_DEFAULT = 1_000_000
_DEFAULT_STEPS = 64


class RunConfig(BaseModel):
    """One `tunewise compare`.

    Two runs with the same `identity` give the same adaptations; a run folder belongs to one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="data file, folder or data set id")
    options: TaskOptions = Field(description="columns, kind, splits")
    base: str = Field(DEFAULT_BASE, description="base model")
    dtype: str = Field("auto", description="dtype of the frozen weights: auto, bfloat16, float32")
    methods: tuple[str, ...] = Field((), description="methods to fit; empty: all that fit the task")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of every method")
    budget: str = Field(
        "default", description="token passes per fit: a number, 50k, a name; or 20min"
    )
    test_rows: int | None = Field(
        None,
        ge=1,
        description="test rows to answer at most, drawn at random; None: all, or fewer where the "
        "budget is a time",
    )
    climb: bool | None = Field(
        None,
        description="climb from rung to rung while it pays; no: fit all; "
        "None: climb, unless methods are named",
    )
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings by method"
    )
    questions: tuple[str, ...] | None = Field(
        None,
        description="what is asked after the comparison; None: the cheap questions, "
        "('all',): every one",
    )
    question_settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings by question"
    )

    @property
    def climbs(self) -> bool:
        """Whether only what pays is fitted; who names methods wants those beside each other."""
        return not self.methods if self.climb is None else self.climb

    @property
    def usual_folder(self) -> Path:
        """Where the run lies unless another folder is named."""
        return Path("runs") / (self.options.name or Path(self.source).stem or "task")

    def identity(self, data_hash: str, base_fingerprint: str, dtype: str) -> str:
        """Hash of everything that decides the results."""
        return self._hash(data=data_hash, base=base_fingerprint, dtype=dtype)

    def plan(self, data_hash: str) -> str:
        """Hash of the part of the identity that is known before the base is loaded."""
        return self._hash(data=data_hash)

    def _hash(self, **besides: str) -> str:
        # What is asked afterwards changes no fit: a finished run can be asked more.
        beside = dict.fromkeys(("base", "dtype", "source", "questions", "question_settings"), True)
        # What refuses data changes none either: where it does not, the rows are the same.
        asked = self.model_dump(mode="json", exclude={**beside, "options": {"require_answers"}})
        asked["climb"] = self.climbs
        if self.test_rows is None:
            # As runs were told apart before there was a choice.
            del asked["test_rows"]
        text = json.dumps({**asked, **besides}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def parse_time(text: str) -> float | None:
    """Seconds of a budget that is a time for the whole comparison; None for any other budget.

    Args:
        text: a number of minutes or hours, such as "20min" or "1.5h".
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h)", text.strip().lower())
    return None if found is None else float(found[1]) * _SECONDS[found[2]]


def check_budget(text: str) -> None:
    """Refuse a budget that cannot be read, before anything slow begins.

    Raises:
        ConfigError: see `parse_budget`.
    """
    if parse_time(text) is None:
        parse_budget(text, mean_row_tokens=1.0)


def parse_budget(text: str, *, mean_row_tokens: float, batch_size: int = 16) -> int:
    """Token passes of a budget.

    Args:
        text: a whole number, a number with k or m ("150k", "1.5m"), or one of small, default,
            large (0.4, 1 and 4 times the default for these rows).
        mean_row_tokens: tokens of a row with its answer, mean.
        batch_size: rows of an optimizer step.

    Raises:
        ConfigError: it is none of these.
    """
    word = text.strip().lower()
    if word in BUDGET_NAMES:
        # A step costs forward and backward; judging and the race take about as much again.
        wanted = _DEFAULT_STEPS * batch_size * mean_row_tokens * 2 * 1.8
        default = min(max(wanted, _LEAST_DEFAULT), _MOST_DEFAULT)
        return 1000 * round(default * BUDGET_NAMES[word] / 1000)
    scale = {"k": 1_000, "m": 1_000_000}.get(word[-1:], 1)
    number = word[:-1] if scale > 1 else word
    try:
        passes = float(number) * scale
    except ValueError:
        passes = -1.0
    if not (1 <= passes < math.inf) or passes != int(passes):
        raise ConfigError(
            "the budget cannot be read",
            found=f"--budget {text}",
            expected="token passes per fit such as 120000, 120k or 1.5m, "
            f"or one of {', '.join(BUDGET_NAMES)}; of a whole comparison also a time such as 20min",
            fix="--budget default",
        )
    return int(passes)
