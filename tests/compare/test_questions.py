"""Questions in the report: drawn, escaped, and their figures as they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.compare.planted import compare
from tests.compare.test_report import EVIL, Page

from tunewise.compare.asked import MOST_FIGURES, asked_questions, figure_text
from tunewise.compare.contract import Comparison, ReportDetails
from tunewise.compare.pictures import picture_chart
from tunewise.compare.report import write_reports
from tunewise.measure.evidence import (
    Answered,
    Evidence,
    Measurement,
    Picture,
    Point,
    TextTable,
    absent,
)

TRUTH = {"tfidf": 0.7, "zero_shot": 0.6, "few_shot": 0.62, "lora": 0.9}


def evidence(word: str = "") -> Evidence:
    """One question with everything a question can leave behind."""
    series = [f"{name}{word if name == 'lora' else ''}" for name in TRUTH]
    dots = tuple(
        Point(name, 0.5 + 0.1 * number, 0.4, None if number else 0.9, None, group)
        for number, name in enumerate(series)
        for group in (f"train{word}", "test")
    )
    lines = tuple(
        Point(name, 0.1 * at, 0.05 * at, 0.2 * at, at) for name in series for at in (1.0, 10.0)
    )
    return Evidence(
        "fragility",
        f"Fragility{word}",
        f"does it break{word}?",
        Answered(
            (
                Measurement("spread", "lora", "score", 0.125, 30, f"how{word}", 0.1, 0.2, False),
                Measurement("ms", "lora", "milliseconds_per_row", 12.5, 3, "timed"),
                Measurement(
                    "gap", "lora", "score", -0.02, 9, "x", n_failed=2, seeds=(0, 1),
                    part={"label": f"no{word}"}, beside="zero_shot",
                ),
                absent("cost", "lora", "currency", f"no price{word}"),
            ),
            (f"It does{word}.",),
            (
                Picture(f"Dots{word}", "dots", f"score{word}", "", dots),
                Picture("Plain", "dots", "bytes", "", dots[::2], log_x=True),
                Picture("Lines", "lines", f"rows{word}", "score", lines, log_x=True),
                Picture("Nothing", "lines", "x", "y", ()),
            ),
            (TextTable(f"Worst{word}", (f"text{word}", "answer"), ((f"a{word}", "b"),)),),
        ),
        work={"forward_tokens": 1_000, "backward_tokens": 24},
        seconds=63.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def asked() -> Comparison:
    whole = compare(TRUTH, 60)
    left_out = Evidence("other", "Another", "what?", Answered(()), absent="not asked: too dear")
    return replace(whole, evidence=(left_out, evidence()))


def test_the_page_shows_findings_figures_and_texts(asked: Comparison, tmp_path: Path) -> None:
    write_reports(asked, ReportDetails((), {}), tmp_path)
    text = " ".join(" ".join(Page((tmp_path / "report.html").read_text("utf-8")).text).split())
    for words in (
        "It does.", "Does it break?", "12.5", "10.0 to 20.0", "n = 30", "n = 9, 2 failed, 2 seeds",
        "gap (label no)", "lora and zero_shot", "no price", "not asked: too dear", "Worst",
        "1,024 token passes, 1 min 03 s",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("Fragility") < text.index("Another")
    short = (tmp_path / "report.md").read_text("utf-8")
    assert "## Fragility\n\nDoes it break?\n\n- It does." in short
    assert "not asked: too dear" in short


def test_texts_of_questions_are_escaped(tmp_path: Path) -> None:
    whole = replace(compare(TRUTH, 60), evidence=(evidence(EVIL),))
    write_reports(whole, ReportDetails((), {}), tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "<img" not in text
    assert text.count("<script>") == 1
    assert "49" not in Page(text).text
    short = (tmp_path / "report.md").read_text("utf-8")
    assert "<script>" not in short


def test_pictures_name_their_series_and_groups(asked: Comparison) -> None:
    dots, plain, lines, nothing = evidence().answered.pictures
    for picture in (dots, plain, lines):
        svg = picture_chart(asked, picture)
        assert "currentColor" in svg
        for method in TRUTH:
            assert f">{method}<" in svg
    assert ">train<" in picture_chart(asked, dots)
    assert picture_chart(asked, nothing) == ""


def test_pictures_share_no_ids(asked: Comparison, tmp_path: Path) -> None:
    write_reports(asked, ReportDetails((), {}), tmp_path)
    tags = Page((tmp_path / "report.html").read_text("utf-8")).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_long_list_of_figures_is_cut_and_says_so(asked: Comparison, tmp_path: Path) -> None:
    many = Answered(tuple(Measurement(f"m{n}", "", "", float(n), 1, "x") for n in range(400)))
    (shown,) = asked_questions([replace(evidence(), answered=many)])
    assert (len(shown.figures), shown.figures_in_all) == (MOST_FIGURES, 400)
    write_reports(
        replace(asked, evidence=(replace(evidence(), answered=many),)),
        ReportDetails((), {}),
        tmp_path,
    )
    assert "300 of 400 are shown" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.921, "score", "92.1"),
        (-0.02, "score", "-2.0"),
        (0.043, "share", "4.3"),
        (46_080, "bytes", "46 kB"),
        (200.0, "seconds", "3 min 20 s"),
        (-5.0, "seconds", "-5.0 s"),
        (2_400_000, "token_passes", "2.4 million"),
        (12.5, "milliseconds_per_row", "12.5 milliseconds per row"),
        (0.25, "", "0.25"),
    ],
)
def test_figures_are_read_in_their_units(value: float, unit: str, text: str) -> None:
    assert figure_text(value, unit) == text
