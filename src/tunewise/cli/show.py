"""What the terminal shows: the table, the recommendation, the plan, the data check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tunewise.cli.layout import choose_columns, hang, lines_of
from tunewise.compare.wording import duration

if TYPE_CHECKING:
    from tunewise.compare.contract import Comparison
    from tunewise.measure.evidence import Evidence
    from tunewise.planning.records import JobPlan, RunPlan

OUT = Console()
# Columns of the comparison that give way on a narrow terminal, the first to go first.
_GIVE_WAY = ("fit seconds", "parts", "validation", "failed", "size", "ms/row")
# A run that is planned to take longer is told how it would take less.
LONG_SECONDS = 3600.0
# From here on a number is shown with one decimal place.
_MANY = 1000
_WORDS = frozenset({"", "method", "parts"})


def show_comparison(comparison: Comparison) -> None:
    """The table and the recommendation."""
    from tunewise.compare.terminal import table_rows

    headers, rows = table_rows(comparison)
    context = comparison.context
    sizes = ", ".join(f"{count} {name}" for name, count in context.data.rows.items())
    seeds = len(context.seeds)
    OUT.print()
    _line(
        f"{comparison.task.name}: {comparison.task.metric}, rows {sizes}; {context.base.name} in "
        f"{context.base.dtype}; {context.budget.per_method:,} token passes per fit; "
        f"{seeds} seed{'s' if seeds > 1 else ''}"
    )
    OUT.print()
    failed = headers.index("failed")
    if all(row[failed] == "0" for row in rows):
        headers, rows = (
            [title for title in headers if title != "failed"],
            [[*row[:failed], *row[failed + 1 :]] for row in rows],
        )
    headers, rows = choose_columns(headers, rows, OUT.width, _GIVE_WAY)
    first, *others = lines_of(headers, rows, left=_WORDS)
    _raw(first, "bold")
    for line, row in zip(others, rows, strict=True):
        _raw(line, "bold" if row[0] == "*" else "")
    if any(row[0] for row in rows):
        _line("*: recommended; =: cannot be told from the best", style="dim")
    for skipped in comparison.skipped:
        _line(f"{skipped.method} left out: {skipped.reason}", style="dim", indent=2)
    advice = comparison.recommendation
    OUT.print()
    _line(advice.headline, style="bold")
    for title, sentences in (
        ("why", advice.reasons),
        ("mind", advice.warnings),
        ("would change", advice.would_change),
        ("next", advice.next_steps),
    ):
        for sentence in sentences:
            _line(f"  {title}: {sentence}", indent=4 + len(title))
    if comparison.evidence:
        _show_evidence(comparison.evidence)


def _show_evidence(evidence: Sequence[Evidence]) -> None:
    """A line for each question: the first sentence of its answer, or why there is none.

    Those left out for their cost share one line: their reasons differ in a number only.
    """
    from tunewise.compare.asked import in_order

    OUT.print()
    _line("asked besides; the whole answers are in the report:", style="bold")
    asked = in_order(evidence)
    for each in (question for question in asked if not question.left_out):
        told = each.answered.findings
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        text = f"not answered: {each.absent}" if each.absent else "".join(told[:1])
        _line(
            f"  {each.title}: {text if text else 'its figures are in the report'}{more}", indent=4
        )
    dear = [each for each in asked if each.left_out]
    if dear:
        prices = ", ".join(f"{each.question} {each.planned_passes:,}" for each in dear)
        _line(
            f"  not asked, as they take more token passes than are kept for questions: {prices}; "
            "`--questions NAME,NAME` asks them",
            indent=4,
        )


def show_plan(plan: RunPlan) -> None:
    """What a run would cost: a line for each method, the sum, and what would be left out."""
    jobs: dict[str, list[JobPlan]] = {}
    for job in plan.jobs:
        jobs.setdefault(f"{job.method} (trial)" if job.trial else job.method, []).append(job)
    _line(
        f"{plan.budget:,} token passes per {'whole ' * plan.climbs}fit; this machine timed in "
        f"{plan.calibration_seconds:.1f} s; nothing was fitted"
    )
    OUT.print()
    headers = ["method", "seeds", "token passes", "fit", "measure", "peak memory"]
    rows = [_planned(name, each) for name, each in jobs.items()]
    totals = plan.totals
    rows.append(
        [
            "all",
            f"{len(plan.jobs)}",
            f"{totals['token_passes']:,}",
            duration(totals["fit_seconds"]),
            duration(totals["measure_seconds"]),
            f"{totals['peak_bytes'] / 1e9:.2f} GB",
        ]
    )
    first, *others = lines_of(headers, rows, left=_WORDS)
    _raw(first, "bold")
    for line in others[:-1]:
        _raw(line)
    _raw(others[-1], "bold")
    if any(job.at_most for job in plan.jobs):
        _line("<: at most; a search may stop earlier", style="dim")
    if plan.climbs:
        _line(
            "a climb makes no more than this: every trial, the two dearest of those whole, and the "
            "other seeds of the dearest; it leaves out what does not pay",
            style="dim",
        )
    _line(_questions_planned(plan), style="dim")
    if plan.seconds > LONG_SECONDS:
        less = "--seeds 1" if plan.climbs else "--seeds 1 or --climb"
        _line(f"`--budget 20min` keeps to a time; {less} fits less", style="dim")
    for skipped in plan.skipped:
        _line(f"{skipped.method} left out: {skipped.reason}", style="dim", indent=2)
    for warning in plan.data_warnings:
        _line(f"  mind: {warning}", indent=4)


def _questions_planned(plan: RunPlan) -> str:
    """What the questions behind the comparison add."""
    if plan.questions_passes == 0:
        return "and questions that run no model" if plan.guessed else "and no questions"
    if plan.guessed:
        return (
            f"and questions: about {plan.questions_passes:,} token passes, about "
            f"{duration(plan.questions_seconds)}; they are counted once the fits are there"
            + (", and those that take the run past its time left out" if plan.questions_cut else "")
        )
    return (
        f"and questions: at most {plan.questions_passes:,} token passes, about "
        f"{duration(plan.questions_seconds)}; `--questions none` asks none"
    )


def _planned(name: str, jobs: list[JobPlan]) -> list[str]:
    """The cells of a method: all its seeds together, and the highest memory of any."""
    mark = "< " if any(job.at_most for job in jobs) else ""
    return [
        name,
        f"{len(jobs)}",
        f"{mark}{sum(job.token_passes for job in jobs):,}",
        f"{mark}{duration(sum(job.fit_seconds for job in jobs))}",
        duration(sum(job.measure_seconds for job in jobs)),
        f"{max(job.peak_bytes for job in jobs) / 1e9:.2f} GB",
    ]


def show_mapping(content: Mapping[str, Any], indent: int = 0) -> None:
    """Nested facts, one a line."""
    for name, value in content.items():
        label = " " * indent + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            if value:
                _line(label)
                show_mapping(value, indent + 2)
        elif isinstance(value, (list, tuple)) and value:
            _line(label)
            for item in value:
                if isinstance(item, Mapping):
                    show_mapping(item, indent + 2)
                else:
                    _line(" " * (indent + 2) + str(item), indent=indent + 4)
        elif value not in (None, "", [], ()):
            _line(f"{label}: {_plain(value)}", indent=indent + 4)


def _plain(value: Any) -> str:
    """A fact as text; of a number that was computed as many digits as say something."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.1f}" if abs(value) >= _MANY else f"{value:.4g}"


def show_table(headers: list[str], rows: list[list[str]], below: list[list[str]]) -> None:
    """A plain table.

    Args:
        headers: titles of the columns.
        rows: cells.
        below: for each row, further lines that stand below it, indented to the second column.
    """
    first, *others = lines_of(headers, rows, left=frozenset(headers))
    indent = max(len(cell) for cell in [headers[0], *(row[0] for row in rows)]) + 2
    _raw(first, "bold")
    for line, more in zip(others, below, strict=True):
        _line(line, indent=indent)
        for each in more:
            _line(" " * indent + each, indent=indent + 2, style="dim")


def _raw(text: str, style: str = "") -> None:
    """A line as it is, whatever the width."""
    OUT.print(Text(text), style=style, soft_wrap=True)


def say(text: str, *, style: str = "", indent: int = 0) -> None:
    """A sentence on standard output; `indent` is that of its further lines."""
    _line(text, style=style, indent=indent)


def _line(text: str, *, style: str = "", indent: int = 0) -> None:
    """A sentence, wrapped at the terminal's width; what follows the first line is indented."""
    for line in hang(text, OUT.width, indent):
        _raw(line, style)
