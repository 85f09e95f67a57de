"""What is told while work goes on, where there is a terminal and where there is none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from tunewise.cli import show
from tunewise.cli.show import Bars, Lines
from tunewise.measure.evidence import NOT_ASKED, Answered, Evidence


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the error stream is given."""
    text = io.StringIO()
    monkeypatch.setattr(show, "ERR", Console(file=text, width=200))
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


def test_nothing_planned_is_no_division(told: io.StringIO) -> None:
    now = [0.0, 61.0]
    lines = Lines(lambda: now.pop(0))
    lines.whole(0, 0, 0.0)
    lines.whole(0, 0, 0.0)
    assert told.getvalue() == "0% done, about 0.0 s left\n"


def test_the_bar_of_all_work_shows_the_time_that_is_told() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    columns = (TextColumn("{task.description}"), TextColumn("{task.percentage:.0f}%"), show._Left())
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = Bars(progress)
        bars.begin("asking: Fragility", 2, 9)
        bars.work(5, 10, "a piece")
        bars.whole(300, 1000, 1500.0)
        progress.refresh()
    shown = text.getvalue()
    assert "30%" in shown
    assert "about 25 min" in shown


def test_questions_left_out_for_their_cost_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(show, "OUT", Console(file=text, width=80))
    nothing = Answered(())
    show._show_evidence(
        (
            Evidence("accuracy", "Where it is right", "?", Answered((), ("It is right.", "More."))),
            Evidence("structure", "Structure", "?", nothing, absent="the answers are no JSON"),
            Evidence("update", "Update", "?", nothing, f"{NOT_ASKED}too dear", {}, 18_660),
            Evidence("fragility", "Fragility", "?", nothing, f"{NOT_ASKED}too dear", {}, 57_657),
        )
    )
    told = " ".join(text.getvalue().split())
    assert "Where it is right: It is right. (and 1 more) Structure: not answered: the" in told
    assert "are kept for questions: fragility 57,657, update 18,660;" in told
    assert "too dear" not in told
