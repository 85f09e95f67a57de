"""What the terminal shows: progress, the table, the recommendation, the data check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tunewise.compare.contract import Comparison

ERR = Console(stderr=True)
OUT = Console(soft_wrap=False)


class _Rate(ProgressColumn):
    """Token passes a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} tokens/s", style="dim")


class Bars:
    """Two bars: the fits of the run, and the work of the present one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._all = progress.add_task("", total=None, visible=False)
        self._one = progress.add_task("", total=None, visible=False)

    def say(self, text: str) -> None:
        """One line that stays."""
        self._progress.console.print(text, style="dim", highlight=False)

    def begin(self, text: str, number: int, of: int) -> None:
        """A piece of long work begins."""
        if of > 1:
            self._progress.update(
                self._all,
                description=f"{number} of {of}",
                completed=number - 1,
                total=of,
                visible=True,
            )
        self._progress.reset(self._one, description=text, total=None, visible=True)
        if not self._progress.console.is_terminal:
            self.say(f"[{number}/{of}] {text}")

    def work(self, done: int, total: int | None, text: str) -> None:
        """How far that piece is."""
        self._progress.update(self._one, completed=done, total=total)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars on the error stream while the context lasts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, speed_estimate_period=120) as progress:
        yield Bars(progress)


def show_comparison(comparison: Comparison) -> None:
    """The table and the recommendation."""
    from tunewise.compare.terminal import table_rows

    headers, rows = table_rows(comparison)
    context = comparison.context
    sizes = ", ".join(f"{count} {name}" for name, count in context.data.rows.items())
    seeds = len(context.seeds)
    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left")
    for title in headers:
        numeric = title not in {"", "method", "parts"}
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row), style="bold" if row[0] == "*" else "")
    OUT.print()
    OUT.print(
        f"{comparison.task.name}: {comparison.task.metric}, rows {sizes}; {context.base.name} in "
        f"{context.base.dtype}; {context.budget.per_method:,} token passes per fit; "
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        highlight=False,
    )
    OUT.print(table)
    for skipped in comparison.skipped:
        OUT.print(Text(f"{skipped.method} left out: {skipped.reason}", style="dim"))
    advice = comparison.recommendation
    OUT.print()
    OUT.print(Text(advice.headline, style="bold"))
    for title, sentences in (
        ("why", advice.reasons),
        ("mind", advice.warnings),
        ("would change", advice.would_change),
    ):
        for sentence in sentences:
            OUT.print(Text(f"  {title}: {sentence}"))


def show_mapping(content: Mapping[str, Any], indent: int = 0) -> None:
    """Nested facts, one a line."""
    for name, value in content.items():
        label = " " * indent + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            OUT.print(Text(label))
            show_mapping(value, indent + 2)
        elif isinstance(value, (list, tuple)) and value:
            OUT.print(Text(label))
            for item in value:
                if isinstance(item, Mapping):
                    show_mapping(item, indent + 2)
                else:
                    OUT.print(Text(" " * (indent + 2) + str(item)))
        elif value not in (None, "", [], ()):
            OUT.print(Text(f"{label}: {value}"))


def show_table(headers: list[str], rows: list[list[str]]) -> None:
    """A plain table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in headers:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    OUT.print(table)
