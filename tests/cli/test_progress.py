"""What is told while work goes on, where there is a terminal and where there is none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from tunewise.cli import progress as told_progress
from tunewise.cli.progress import Bars, Lines, begin_loading


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the error stream is given."""
    text = io.StringIO()
    monkeypatch.setattr(told_progress, "ERR", Console(file=text, width=200))
    return text


def test_a_log_is_told_once_a_minute_what_is_left(told: io.StringIO) -> None:
    now = 0.0
    lines = Lines(lambda: now)
    lines.begin("asking: Fragility", 2, 9)
    for second in range(0, 200, 5):
        now = float(second)
        lines.work(second, 200, "a piece")
        lines.whole(second, 200, 10.0 * (200 - second))
    assert told.getvalue().splitlines() == [
        "[2/9] asking: Fragility",
        "30% done, about 23 min left",
        "60% done, about 13 min left",
        "90% done, about 3 min left",
    ]


def test_a_log_is_told_once_a_minute_how_far_a_long_piece_is(told: io.StringIO) -> None:
    now = 0.0
    lines = Lines(lambda: now)
    for name in ("fitting lora, seed 0", "fitting lora, seed 1"):
        lines.begin(name, 1, 2)
        for second in range(0, 150, 5):
            now += 5.0
            lines.work(second, None if second < 20 else 200, "step")
    lines.begin("fitting full, seed 0", 2, 2)
    now += 30.0
    lines.work(1, 2, "step")
    assert told.getvalue().splitlines() == [
        "[1/2] fitting lora, seed 0",
        "fitting lora, seed 0: 28%",
        "fitting lora, seed 0: 58%",
        "[1/2] fitting lora, seed 1",
        "fitting lora, seed 1: 28%",
        "fitting lora, seed 1: 58%",
        "[2/2] fitting full, seed 0",
    ]


def test_a_single_piece_has_no_number(told: io.StringIO) -> None:
    lines = Lines()
    begin_loading(lines, "smollm2-135m")
    lines.begin("timing this machine", 1, 1)
    assert told.getvalue().splitlines() == [
        "reading the data, loading smollm2-135m",
        "timing this machine",
    ]


def test_nothing_planned_is_no_division(told: io.StringIO) -> None:
    now = [0.0, 61.0]
    lines = Lines(lambda: now.pop(0))
    lines.whole(0, 0, 0.0)
    lines.whole(0, 0, 0.0)
    assert told.getvalue() == "0% done, about 0.0 s left\n"


def test_the_bar_of_all_work_shows_the_time_that_is_told() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    columns = (
        TextColumn("{task.description}"),
        TextColumn("{task.percentage:.0f}%"),
        told_progress._Left(),
    )
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = Bars(progress)
        bars.begin("asking: Fragility", 2, 9)
        bars.work(5, 10, "a piece")
        bars.whole(300, 1000, 1500.0)
        progress.refresh()
    shown = text.getvalue()
    assert "30%" in shown
    assert "about 25 min" in shown
