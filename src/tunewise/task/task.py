"""Load a task: from a file to rows for fitting, locked test rows and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

from tunewise.task.check import DataCheck
from tunewise.task.options import TaskOptions
from tunewise.task.types import FitView, LockedTest, Row, TaskSpec


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task ready to be fitted and measured.

    Attributes:
        spec: what is asked.
        fit_view: rows for fitting and choosing.
        test: the locked test rows.
        check: what was found in the data.
        data_hash: SHA-256 of the fit view's content, in hexadecimal digits.
    """

    spec: TaskSpec
    fit_view: FitView
    test: LockedTest
    check: DataCheck
    data_hash: str


def load_task(source: str, options: TaskOptions) -> LoadedTask:
    """Load, clean and split a task."""
    raise NotImplementedError


def rows_from(source: str, options: TaskOptions, spec: TaskSpec) -> tuple[Row, ...]:
    """Rows for measuring or predicting with an adaptation that exists."""
    raise NotImplementedError
