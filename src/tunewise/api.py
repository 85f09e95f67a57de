"""Tunewise from Python: what `compare`, `predict` and `measure` do, for scripts and notebooks.

    from tunewise.api import compare, load

    run = compare("tickets.csv", input="text", output="label", budget="20min")
    print(run)                                   # the recommendation, with its reasons
    pandas.DataFrame(run.table())                # a line for every method fitted
    run.model().answer("My card never arrived")  # by what was recommended
    load("ada/lora").answer("My card never arrived")

A run lies in the same folder, with the same bytes, as one of the command line, and goes on where
it was interrupted, whichever of the two began it. Errors are those of `tunewise.errors`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tunewise.cli.options import parse_methods, parse_questions, parse_seeds
from tunewise.compare.contract import Comparison
from tunewise.compare.priorities import priorities_from
from tunewise.config import RunConfig
from tunewise.early import check_run
from tunewise.errors import ConfigError
from tunewise.task.in_memory import source_of
from tunewise.task.options import TaskOptions, merge

if TYPE_CHECKING:
    from tunewise.adaptation.bundle import Adaptation
    from tunewise.adaptation.readout import Answer
    from tunewise.model.base import Base

# Given by `compare` itself.
_OWN = {"source", "options"}


def compare(
    data: Any,
    *,
    out: str | Path | None = None,
    progress: bool = True,
    priorities: Mapping[str, Any] | None = None,
    **told: Any,
) -> Run:
    """Fit methods at an equal budget, measure them on the same rows, recommend one.

    Methods are climbed from the cheapest rung up while it pays, unless `climb=False` or `methods`
    names those that are wanted.

    Args:
        data: a file, a folder or a data set id, as the command takes them; or rows: a data frame,
            or a sequence of mappings; or a mapping of train, validation and test to rows.
        out: folder of the run; `runs/NAME` where None.
        progress: whether the error stream is told how far the run is.
        priorities: what matters, by the names of `Priorities`.
        **told: how it is run, by the names of `RunConfig` (base, dtype, methods, seeds as a number
            or as the seeds, budget, test_rows, climb, settings, questions, question_settings), and
            what the data are, by those of `TaskOptions` (input, output, kind, instruction, name,
            ...).

    Raises:
        InputError: the run cannot be made.
        RunError: it could not finish; the same call goes on from there.
    """
    from tunewise.cli.progress import bars

    what_matters = priorities_from(None, dict(priorities or {}))
    typed = ", ".join([_shown(data), *(f"{name}={value!r}" for name, value in told.items())])
    with source_of(data) as (source, name):
        config = _config(source, {"name": name} | told)
        folder = config.usual_folder if out is None else Path(out)
        check_run(config, folder)
        from tunewise.pipeline import compare as run_all

        with bars() if progress else nullcontext(_Silent()) as reporter:
            found = run_all(
                config, folder, f"tunewise.api.compare({typed})", reporter, what_matters
            )
    return Run(found, folder)


def load(folder: str | Path, *, base: str | None = None, dtype: str = "auto") -> Model:
    """A stored adaptation together with the base it was made for.

    Args:
        folder: of the adaptation.
        base: another name or path of the same base; the one it was made with where None.
        dtype: of the frozen weights; the one it was made with where "auto".

    Raises:
        InputError: the folder holds no adaptation, or the base is another one.
    """
    from tunewise.adaptation.store import load as stored
    from tunewise.steps import base_for

    adaptation = stored(Path(folder))
    return Model(adaptation, base_for(adaptation, base, dtype))


@dataclass(frozen=True, slots=True)
class Run:
    """A run of `compare` that is done.

    Attributes:
        comparison: everything that was measured, and the recommendation.
        folder: where it lies.
    """

    comparison: Comparison = field(repr=False)
    folder: Path

    @property
    def report(self) -> Path:
        """The page with the table, the pictures and the evidence."""
        return self.folder / "report.html"

    def table(self) -> list[dict[str, Any]]:
        """A line for every method, best first: its score of 0 to 1 with a 95% interval, its costs.

        `mark` is "*" for what is recommended and "=" for what cannot be told from the best.
        """
        from tunewise.compare.terminal import mark

        return [
            {
                "mark": mark(self.comparison, entry),
                "method": entry.method,
                "parts": " + ".join(entry.parts),
                self.comparison.task.metric: entry.test.value,
                "low": entry.test.low,
                "high": entry.test.high,
                "flops_to_fit": entry.fit.flops,
                "seconds_to_fit": entry.fit.seconds,
                "prompt_tokens_per_request": entry.prompt_tokens_per_request,
                "milliseconds_per_row": entry.milliseconds_per_row,
                "bytes_on_disk": entry.bytes_on_disk,
            }
            for entry in self.comparison.entries
        ]

    def model(self, method: str | None = None) -> Model:
        """What a method found, ready to answer; the recommended method's where None.

        Raises:
            ConfigError: no such method was fitted.
        """
        known = [entry.method for entry in self.comparison.entries]
        wanted = self.comparison.recommendation.method if method is None else method
        if wanted not in known:
            raise ConfigError(
                "no such method was fitted",
                found=wanted,
                expected=f"one of {', '.join(known)}",
                fix="name one of these",
            )
        return load(self.folder / self.comparison.entry(wanted).adaptation)

    def _repr_html_(self) -> str:
        """What a notebook shows: the recommendation, the table and where the report lies."""
        from tunewise.compare.terminal import table_rows

        def line(cells: Sequence[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        headers, rows = table_rows(self.comparison)
        lines = "".join(line(row, "td") for row in rows)
        return (
            f"<p><b>{escape(self.comparison.recommendation.headline)}</b></p>"
            f"<table><thead>{line(headers, 'th')}</thead><tbody>{lines}</tbody></table>"
            "<p>*: recommended; =: cannot be told from the best. "
            f"Report: {escape(str(self.report))}</p>"
        )

    def __str__(self) -> str:
        advice = self.comparison.recommendation
        groups = (
            ("why", advice.reasons),
            ("mind", advice.warnings),
            ("would change", advice.would_change),
            ("next", advice.next_steps),
        )
        told = [f"  {title}: {text}" for title, texts in groups for text in texts]
        return "\n".join([advice.headline, *told])


@dataclass(frozen=True, slots=True)
class Model:
    """An adaptation and its base.

    Attributes:
        adaptation: what was found.
        base: the base model; None where the adaptation needs none.
    """

    adaptation: Adaptation = field(repr=False)
    base: Base | None = field(repr=False)

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """One answer per text, in order: `text`, `probability`, or `failure` where there is none.

        Args:
            texts: inputs; a single text in place of several is refused.

        Raises:
            ConfigError: a single text was given.
        """
        from tunewise.adaptation.predict import predictor_for

        if isinstance(texts, str):
            raise ConfigError(
                "answers takes several texts",
                found=f"one text, {texts[:40]!r}",
                expected="a sequence of texts",
                fix="answer(text), or answers([text])",
            )
        with predictor_for(self.base, self.adaptation) as predictor:
            return predictor.answers(list(texts))

    def answer(self, text: str) -> str | None:
        """The answer to one text; None where there is none."""
        return self.answers([text])[0].text

    def measure(self, data: Any, **about: Any) -> dict[str, Any]:
        """The metric with its interval on rows with answers (the test rows where there are splits).

        Args:
            data: see `compare`.
            **about: what the data are, by the names of `TaskOptions`.

        Rows without an answer are left out, and a Python warning names them.
        """
        from tunewise.steps import measure, score_summary
        from tunewise.task.task import rows_from

        spec = self.adaptation.spec
        with source_of(data) as (source, name):
            options = merge(TaskOptions.model_validate({}), **({"name": name} | about))
            rows = rows_from(source, options, spec, say=partial(warnings.warn, stacklevel=3))
        return score_summary(measure(self.base, self.adaptation, rows), rows, spec)


class _Silent:
    """A `Reporter` that tells nobody."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def begin(self, text: str, number: int, of: int, unit: str = "tokens") -> None:
        """A piece of long work begins."""

    def work(self, done: int, total: int | None, text: str) -> None:
        """How far that piece is."""

    def whole(self, done: int, total: int, seconds_left: float) -> None:
        """How far everything is."""


def _config(source: str, told: Mapping[str, Any]) -> RunConfig:
    how = {name for name in RunConfig.model_fields if name not in _OWN}
    known = [*how, *TaskOptions.model_fields]
    unknown = [name for name in told if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=2, cutoff=0.5)
        raise ConfigError(
            "there is no such option",
            found=unknown[0] + (f"; did you mean {' or '.join(close)}?" if close else ""),
            expected=f"options among {', '.join(sorted(known))}",
            fix="correct the name",
        )
    run = {name: value for name, value in told.items() if name in how}
    about = {name: value for name, value in told.items() if name not in how}
    if "budget" in run:
        run["budget"] = str(run["budget"])
    # Texts and single numbers as the flags take them; sequences are what they are.
    if isinstance(run.get("seeds"), int | str):
        run["seeds"] = parse_seeds(str(run["seeds"]))
    if isinstance(run.get("methods"), str):
        run["methods"] = parse_methods(run["methods"])
    if isinstance(run.get("questions"), str):
        run["questions"] = parse_questions(run["questions"], everything=False)
    try:
        return RunConfig(
            source=source, options=merge(TaskOptions.model_validate({}), **about), **run
        )
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, each['loc']))}: found {each['input']!r}; {each['msg']}"
            for each in error.errors()
        ]
        raise ConfigError(
            "the run cannot be made so",
            found="\n    ".join(faults),
            expected="values as `RunConfig` has them",
            fix="correct the options named above",
        ) from error


def _shown(data: Any) -> str:
    return repr(str(data)) if isinstance(data, str | Path) else f"<{type(data).__name__}>"
