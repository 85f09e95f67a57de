"""Progress while work goes on: bars on a terminal, lines where there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
from rich.text import Text

from tunewise.compare.wording import duration

ERR = Console(stderr=True)
# Between two lines that tell what is left.
_LINE_SECONDS = 60.0


class _Left(TimeRemainingColumn):
    """Time left: as it is told, else as the bar's own speed has it."""

    def render(self, task: Task) -> Text:
        told = task.fields.get("seconds_left")
        if told is None:
            return super().render(task)
        return Text(f"about {duration(told)}", style="progress.remaining")


class _Rate(ProgressColumn):
    """Token passes or rows a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "tokens")
        return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="dim")


class Bars:
    """Two bars: the fits of the run, and the work of the present one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._all = progress.add_task("", total=None, visible=False)
        self._one = progress.add_task("", total=None, visible=False)

    def say(self, text: str) -> None:
        """One line that stays."""
        self._progress.console.print(Text(text), style="dim", soft_wrap=True)

    def begin(self, text: str, number: int, of: int, unit: str = "tokens") -> None:
        """A piece of long work begins."""
        if of > 1:
            self._progress.update(
                self._all,
                description=f"{number} of {of}",
                completed=number - 1,
                total=of,
                visible=True,
            )
        self._progress.reset(self._one, description=text, total=None, visible=True, unit=unit)

    def work(self, done: int, total: int | None, text: str) -> None:
        """How far that piece is."""
        self._progress.update(self._one, completed=done, total=total)

    def whole(self, done: int, total: int, seconds_left: float) -> None:
        """How far everything is."""
        self._progress.update(self._all, completed=done, total=total, seconds_left=seconds_left)


class Lines:
    """One line per piece of work, where the error stream is no terminal.

    Args:
        clock: tells seconds; a minute at least lies between two lines that tell how far it is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: float | None = None
        self._piece, self._piece_at = "", math.inf

    def say(self, text: str) -> None:
        """One line that stays."""
        ERR.print(Text(text), soft_wrap=True)

    def begin(self, text: str, number: int, of: int, unit: str = "tokens") -> None:
        """A piece of long work begins."""
        self._piece, self._piece_at = text, self._clock()
        self.say(f"[{number}/{of}] {text}" if of > 1 else text)

    def work(self, done: int, total: int | None, text: str) -> None:
        """How far that piece is, once a minute, unless all pieces together are told."""
        now = self._clock()
        if total and self._told_at is None and now - self._piece_at >= _LINE_SECONDS:
            self._piece_at = now
            self.say(f"{self._piece}: {100 * done / total:.0f}%")

    def whole(self, done: int, total: int, seconds_left: float) -> None:
        """How far everything is, once a minute."""
        now = self._clock()
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at >= _LINE_SECONDS:
            self._told_at = now
            self.say(f"{100 * done / max(total, 1):.0f}% done, about {duration(seconds_left)} left")


def begin_loading(reporter: Bars | Lines, base: str) -> None:
    """Say what is waited for before the first number, which on a busy machine takes a minute.

    Args:
        reporter: who tells it.
        base: the base model as it was named.
    """
    reporter.begin(f"reading the data, loading {base}", 1, 1)


@contextmanager
def bars() -> Iterator[Bars | Lines]:
    """Progress bars on the error stream while the context lasts; lines where it is no terminal."""
    if not ERR.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        _Left(),
    )
    with Progress(*columns, console=ERR, transient=True, speed_estimate_period=120) as progress:
        yield Bars(progress)
