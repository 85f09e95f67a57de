"""The report: self-contained, escaped, whole on disk, and its numbers are the table's."""

from __future__ import annotations

import base64
import errno
import hashlib
import html.parser
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.compare.planted import CONTEXT, SPEC, make_record, make_rows, plant

from tunewise.compare.contract import Comparison, ReportDetails
from tunewise.compare.page import MOST_ROWS, bar_limits, disagreements, page_of
from tunewise.compare.priorities import Priorities
from tunewise.compare.report import escape_markdown, write_reports, write_text
from tunewise.compare.table import build_comparison, gather_details
from tunewise.compare.wording import p_text
from tunewise.errors import StorageError
from tunewise.measure.records import SkippedMethod

TRUTH = {"majority": 0.33, "tfidf": 0.7, "zero_shot": 0.6, "soft_prompt": 0.88, "lora": 0.9}
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>"\'`{{ 7 * 7 }}</textarea>'
ATTRIBUTES_THAT_LOAD = {"src", "srcset", "poster", "data", "action", "background", "xlink:href"}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open[-1:]):
            self.text.append(data)


def made(
    folder: Path, *, spoil: str = "", rows_count: int = 90
) -> tuple[Comparison, ReportDetails, Path]:
    """A written report; `spoil` stands in every text that is not ours."""
    records, rows = plant(TRUTH, rows_count, seeds=2, domains=("books", f"films{spoil}"))
    rows = {key: replace(row, input=row.input + spoil) for key, row in rows.items()}
    if spoil:
        records = [
            replace(
                record,
                settings={"note": spoil, spoil: [spoil, {spoil: spoil}]},
                notes={"why": spoil},
                test=tuple(replace(r, answer=f"{r.answer}{spoil}") for r in record.test),
                method=record.method + ("<b>" if record.method == "lora" else ""),
            )
            for record in records
        ]
    context = replace(CONTEXT, command=f"tunewise compare {spoil}", seeds=(0, 1))
    spec = replace(SPEC, name=f"reviews{spoil}", labels=(*SPEC.labels, spoil or "mixed"))
    skipped = [SkippedMethod("full", f"too large {spoil}")]
    comparison = build_comparison(spec, records, skipped, context, rows)
    check = {"warnings": [f"row 3 {spoil}"], "class_balance": {"train": {f"a_b{spoil}": 3}}}
    details = gather_details(comparison, records, list(rows.values()), check)
    write_reports(comparison, details, folder)
    return comparison, details, folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, ReportDetails, Path]:
    return made(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, ReportDetails, Path]:
    return made(tmp_path_factory.mktemp("evil"), spoil=EVIL)


def read(written: tuple[Comparison, ReportDetails, Path], name: str = "report.html") -> str:
    return (written[2] / name).read_text("utf-8")


def test_three_files_and_nothing_else(plain: tuple[Comparison, ReportDetails, Path]) -> None:
    names = sorted(path.name for path in plain[2].iterdir())
    assert names == ["comparison.json", "report.html", "report.md"]
    assert json.loads(read(plain, "comparison.json")) == plain[0].as_dict()


def test_loads_nothing(plain: tuple[Comparison, ReportDetails, Path]) -> None:
    text = read(plain)
    tags = Page(text).tags
    for tag, attributes in tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "video", "audio"}
        assert not ATTRIBUTES_THAT_LOAD & set(attributes), (tag, attributes)
        link = attributes.get("href")
        assert link is None or link.startswith("#")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_policy_admits_the_one_script(plain: tuple[Comparison, ReportDetails, Path]) -> None:
    text = read(plain)
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policies = [a["content"] for tag, a in Page(text).tags if tag == "meta" and "http-equiv" in a]
    assert len(policies) == 1
    assert f"script-src 'sha256-{digest}'" in str(policies[0])
    assert "default-src 'none'" in str(policies[0])


def test_texts_of_others_stay_text(
    plain: tuple[Comparison, ReportDetails, Path], evil: tuple[Comparison, ReportDetails, Path]
) -> None:
    """Spoiled texts add no tag, no attribute and no template value; a reader sees them whole."""
    clean, spoiled = Page(read(plain)), Page(read(evil))
    assert {tag for tag, _ in spoiled.tags} <= {tag for tag, _ in clean.tags}
    assert sum(tag == "script" for tag, _ in spoiled.tags) == 1
    for tag, attributes in spoiled.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    seen = "".join(spoiled.text)
    assert seen.count(EVIL) > 50
    assert "49" not in re.findall(r"\{\{.*?\}\}", seen)
    assert "lora<b>" in seen


def test_filter_finds_the_methods_by_name(evil: tuple[Comparison, ReportDetails, Path]) -> None:
    comparison, details, _ = evil
    articles = [a for tag, a in Page(read(evil)).tags if tag == "article"]
    expected = disagreements(comparison, details)[:MOST_ROWS]
    assert [json.loads(str(a["data-wrong"])) for a in articles] == [
        list(shown.wrong) for shown in expected
    ]
    assert {a["data-domain"] for a in articles} <= {"books", f"films{EVIL}"}


def test_works_without_its_script(plain: tuple[Comparison, ReportDetails, Path]) -> None:
    """Rows are shown as they are; only the filter, which needs the script, starts hidden."""
    tags = Page(read(plain)).tags
    assert all("hidden" not in attributes for tag, attributes in tags if tag == "article")
    assert [("hidden" in attributes) for tag, attributes in tags if tag == "form"] == [True]


def test_markdown_stays_markdown(evil: tuple[Comparison, ReportDetails, Path]) -> None:
    text = read(evil, "report.md")
    assert "<script" not in text
    assert "<img" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert widths == {11, 6, 2 + len(evil[0].entries)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"),
        ("a\n\nb", "a b"),
        ("<b>", "&lt;b&gt;"),
        ("[x](y)", "\\[x\\](y)"),
        ("# *_`~", "\\# \\*\\_\\`\\~"),
        ("a & b", "a &amp; b"),
        (3, "3"),
    ],
)
def test_escape_markdown(text: object, expected: str) -> None:
    assert escape_markdown(text) == expected


def test_both_reports_carry_the_tables_numbers(
    plain: tuple[Comparison, ReportDetails, Path],
) -> None:
    comparison, _, _ = plain
    page = "".join(Page(read(plain)).text)
    short = read(plain, "report.md").replace("\\", "")
    for entry in comparison.entries:
        value, low, high = (
            f"{100 * each:.1f}" for each in (entry.test.value, entry.test.low, entry.test.high)
        )
        assert f"{value} ({low} to {high})" in short
        assert f"{low} to {high}" in page
    advice = comparison.recommendation
    for sentence in (advice.headline, *advice.reasons, *advice.warnings, *advice.would_change):
        assert sentence in page
        assert sentence in short.replace("&lt;", "<")
    assert comparison.context.base.fingerprint in page
    assert "too large" in page
    assert "row 3" in page
    assert "a_b" in page  # a label keeps its underscore


def test_bars_stay_inside(plain: tuple[Comparison, ReportDetails, Path]) -> None:
    comparison, details, _ = plain
    low, high = bar_limits(comparison.entries)
    for line in page_of(comparison, details)["lines"]:
        assert 0 <= line.left <= line.at <= line.left + line.width <= 100.01
        assert line.entry.test.value == pytest.approx(low + line.at / 100 * (high - low), abs=1e-4)


def test_svgs_share_no_ids(plain: tuple[Comparison, ReportDetails, Path]) -> None:
    ids = [a["id"] for _, a in Page(read(plain)).tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_rows_on_which_methods_disagree_by_hand() -> None:
    rows = make_rows(4)
    a = make_record("tfidf", [1, 1, 0, 0], rows)
    b = make_record("lora", [1, 0, 1, 0], rows, answers=["negative", None, "positive", "neutral"])
    constant = make_record("majority", [0, 1, 0, 0], rows, answers=["neutral"] * 4)
    records = [a, b, constant]
    comparison = build_comparison(SPEC, records, [], CONTEXT, rows)
    found = disagreements(comparison, gather_details(comparison, records, list(rows.values()), {}))
    by_id = {shown.row.id: shown for shown in found}
    # r0: both right. r3: tfidf says "neutral" as well, both wrong. The constant takes no part.
    assert set(by_id) == {"r1", "r2"}
    first, second = by_id["r1"].answers
    assert (first.text, first.methods, first.failed) == ("neutral", ("tfidf",), False)
    assert (second.methods, second.failed) == (("lora",), True)
    assert "context" in second.text
    assert by_id["r1"].wrong == ("lora",)
    assert by_id["r2"].wrong == ("tfidf",)


def test_at_most_sixty_rows_and_long_texts_are_cut(tmp_path: Path) -> None:
    rows = {key: replace(row, input="word " * 2000) for key, row in make_rows(200).items()}
    records = [
        make_record("tfidf", [1.0] * 200, rows),
        make_record("lora", [0.0] * 200, rows),
    ]
    comparison = build_comparison(SPEC, records, [], CONTEXT, rows)
    details = gather_details(comparison, records, list(rows.values()), {})
    write_reports(comparison, details, tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count("<article") == MOST_ROWS == 60
    assert "200 of 200 test rows" in text
    assert "more characters" in text
    assert len(text) < 500_000


@pytest.mark.parametrize("scores", [[1.0] * 6, [0.0] * 6, [0.5] * 6])
def test_one_method_and_scores_at_the_ends(tmp_path: Path, scores: list[float]) -> None:
    rows = make_rows(6)
    record = replace(make_record("zero_shot", scores, rows), flops=0, validation=())
    comparison = build_comparison(SPEC, [record], [], CONTEXT, rows)
    write_reports(comparison, ReportDetails((), {}, {}), tmp_path)
    assert "Only zero_shot was measured" in (tmp_path / "report.html").read_text("utf-8")


def test_odd_characters_do_not_stop_the_report(tmp_path: Path) -> None:
    """An unpaired surrogate, a null and a right-to-left mark in a row."""
    rows = {key: replace(row, input="\ud800 \x00 \u202e 日本") for key, row in make_rows(6).items()}
    records = [make_record("tfidf", [1.0] * 6, rows), make_record("lora", [0.0] * 6, rows)]
    comparison = build_comparison(SPEC, records, [], CONTEXT, rows)
    write_reports(
        comparison, gather_details(comparison, records, list(rows.values()), {}), tmp_path
    )
    assert "日本" in (tmp_path / "report.html").read_text("utf-8")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"report\.md could not be written"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.md"]


def test_a_file_in_the_folders_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(StorageError):
        write_text(tmp_path / "out" / "report.md", "text")


def test_every_reason_leads_to_its_figure_and_its_rows(tmp_path: Path) -> None:
    """The best is not the recommended: what ties, and what lies below, was judged beside it."""
    records, rows = plant(TRUTH | {"soft_prompt": 0.9, "lora": 0.91}, 300)
    comparison = build_comparison(SPEC, records, [], CONTEXT, rows)
    details = gather_details(comparison, records, list(rows.values()), {})
    write_reports(comparison, details, tmp_path)
    advice = comparison.recommendation
    assert (advice.method, advice.best) == ("soft_prompt", "lora")
    page = page_of(comparison, details)
    tables = {each.method: each for each in page["differences"]}
    assert list(tables) == [advice.method, advice.best]
    assert [each.judged for each in tables.values()] == [False, True]
    anchors = dict(zip(tables, ("differences", "differences-best"), strict=True))
    paired = 0
    for reason, source in zip(page["reasons"], advice.reason_sources, strict=True):
        assert reason["rows_anchor"] == "rows"
        if source.measurement != "paired_difference":
            continue
        paired += 1
        (beside,) = [name for name, anchor in anchors.items() if anchor == reason["anchor"]]
        (other,) = [name for name in source.methods if name != beside]
        (line,) = [each for each in tables[beside].lines if each["method"] == other]
        shown = {line["difference"].lstrip("-"), line["holm"], line["p_value"]} - {""}
        assert any(each in reason["text"] for each in shown)
    assert paired > 2
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="differences"' in text
    assert 'id="differences-best"' in text
    for pair in comparison.pairs:
        if advice.best in (pair.a, pair.b) and pair.p_value_holm is not None:
            other = pair.a if pair.b == advice.best else pair.b
            (line,) = [each for each in tables[advice.best].lines if each["method"] == other]
            assert line["holm"] == p_text(pair.p_value_holm)


def test_a_correction_counts_those_that_meet_the_priorities(tmp_path: Path) -> None:
    records, rows = plant(TRUTH, 90)
    wanted = Priorities.model_validate({"domains": 1000, "most_gigabytes": 1.0})
    comparison = build_comparison(SPEC, records, [], CONTEXT, rows, wanted)
    advice = comparison.recommendation
    assert comparison.entries[0].method in advice.unmet
    page = page_of(comparison, gather_details(comparison, records, list(rows.values()), {}))
    judged = page["differences"][-1]
    assert (judged.method, judged.judged) == (advice.best, True)
    holms = {each["method"]: each["holm"] for each in judged.lines}
    assert {name for name, value in holms.items() if not value} == set(advice.unmet)


def test_priorities_and_contrasts_are_shown(tmp_path: Path) -> None:
    records, rows = plant(TRUTH, 90)
    wanted = Priorities.model_validate({"domains": 1000, "most_gigabytes": 1.0})
    comparison = build_comparison(SPEC, records, [], CONTEXT, rows, wanted)
    assert set(comparison.recommendation.unmet) == {"lora"}
    write_reports(
        comparison, gather_details(comparison, records, list(rows.values()), {}), tmp_path
    )
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.text).split())
    assert "most gigabytes: 1.0" in text
    assert "lora does not meet them: it takes 10 GB for 1,000 domains, above 1 GB" in text
    anchors = {attributes.get("id") for _, attributes in page.tags}
    links = {str(attributes["href"]) for tag, attributes in page.tags if tag == "a"}
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= anchors
    short = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in ("data requirement", "training cost", "maintenance", "lora does not meet them"):
        assert name in text
        assert name in short
