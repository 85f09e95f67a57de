"""Fragility: changes keep what matters, the format that breaks is named, chance is not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.questions.running import Run

from tunewise.adaptation.parts import PromptTextPart
from tunewise.measure.questions import fragility
from tunewise.measure.questions._formats import RowFormat, draw_formats
from tunewise.measure.questions._noise import NOISE, framed
from tunewise.measure.questions._variants import (
    FORMAT,
    ORDER,
    WORDING,
    Counts,
    changed_texts,
    variants,
)
from tunewise.measure.questions.fragility import INPUT, _findings, _of_entry, _Seen
from tunewise.measure.records import RowResult
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import Row

TEXTS = (
    "I don't think it's good, but the room cost 3.50 and we are happy.",
    "Is not this the U.S. office? They cannot help!",
    "",
    "ok",
    "Straße and naïve café, 東京 どうも。",
)


def random() -> np.random.Generator:
    """A generator."""
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize("text", TEXTS)
def test_changes_keep_digits_and_nearly_all_letters(name: str, text: str) -> None:
    changed = NOISE[name](text, random())
    assert re.findall(r"\d+", changed) == re.findall(r"\d+", text)
    assert abs(len(changed) - len(text)) <= 8
    assert (not changed.strip()) == (not text.strip())


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("lower case", "A Bad Day", "a bad day"),
        ("upper case", "A bad day", "A BAD DAY"),
        ("no punctuation", "Yes, at 3.5 p.m. today!", "Yes at 3.5 p.m today"),
        ("more punctuation", "Good.", "Good..."),
        ("more punctuation", "Good", "Good..."),
        ("more punctuation", "Why?", "Why???"),
        ("contracted", "I am sure it is not. Do not go", "I'm sure it's not. Don't go"),
        ("contracted", "This knot cannot", "This knot can't"),
        ("long forms", "I\u2019m sure. Don't! can't", "I am sure. Do not! cannot"),
        ("long forms", "the shell's isn't", "the shell's is not"),
        ("more spaces", "One, two. Three", "One,  two.  Three "),
    ],
)
def test_changes_by_hand(name: str, text: str, changed: str) -> None:
    assert NOISE[name](text, random()) == changed


def test_slips_are_few_seeded_and_leave_first_letters() -> None:
    text = "several ordinary words stand here together without any slips whatsoever inside them"
    changed = NOISE["typing slips"](text, random())
    assert changed == NOISE["typing slips"](text, random())
    pairs = list(zip(text.split(), changed.split(), strict=True))
    assert sum(a != b for a, b in pairs) == 1
    assert all(a[0] == b[0] for a, b in pairs)
    for seed in range(40):
        slipped = NOISE["typing slips"]("mississippi", np.random.default_rng(seed))
        assert slipped != "mississippi"
        assert abs(len(slipped) - 11) <= 1


def test_a_text_is_changed_alike_wherever_it_stands() -> None:
    slips = NOISE["typing slips"]
    one = changed_texts(slips, ["wonderful morning", "terrible evening"], 3)
    assert changed_texts(slips, ["terrible evening"], 3) == one[1:]
    assert changed_texts(framed, ["text"], 3) == changed_texts(framed, ["text"], 3)


def test_formats_hold_the_text_once_and_differ() -> None:
    formats = draw_formats(40, seed=1)
    assert formats == draw_formats(40, seed=1)
    written = [each.write("THE TEXT ITSELF") for each in formats]
    assert len(set(written)) == 40
    assert all(each.count("THE TEXT ITSELF") == 1 for each in written)
    assert all(each != "THE TEXT ITSELF" for each in written)
    assert "\n" not in "".join(each.shown for each in formats)
    assert {each.cue_first for each in formats} == {True, False}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (RowFormat("Text"), "Text: x"),
        (RowFormat("Text", casing="upper", separator=" || "), "TEXT || x"),
        (RowFormat("", "Answer", "lower", ":: ", " \n"), "x \nanswer::"),
        (RowFormat("Input", "Output", "title", "\n", "; ", cue_first=True), "Output; Input\nx"),
    ],
)
def test_formats_by_hand(given: RowFormat, written: str) -> None:
    assert given.write("x") == written


def test_what_each_adaptation_can_be_put_to(small_run: Run) -> None:
    view = small_run.jobs.ground.task.fit_view
    counts = Counts(3, 3, 2)
    families, reasons = {}, {}
    for name, adaptation in _adaptations(small_run).items():
        made, left_out = variants(adaptation, small_run.rows, view.train, counts, 0)
        families[name] = {each.family for each in made} - set(NOISE)
        reasons[name] = left_out
        assert all(len(each.inputs) == len(small_run.rows) for each in made)
    assert families["tfidf"] == set()
    assert "reads no prompt" in reasons["tfidf"][FORMAT]
    assert families["zero_shot"] == {FORMAT, WORDING}
    assert "fewer than two" in reasons["zero_shot"][ORDER]
    assert families["soft_prompt"] == {FORMAT}
    assert "in place of" in reasons["soft_prompt"][WORDING]
    assert families["lora"] == {FORMAT, WORDING}


def test_demonstrations_are_written_in_the_row_s_format_and_put_in_order(small_run: Run) -> None:
    view = small_run.jobs.ground.task.fit_view
    shown = tuple(Demonstration(f"text {n}", "positive") for n in range(4))
    prompt = PromptText("Say positive or negative.", shown)
    plain = _adaptations(small_run)["zero_shot"]
    adaptation = replace(plain, parts=(PromptTextPart(prompt),))
    made, left_out = variants(adaptation, small_run.rows, view.train, Counts(2, 2, 3), 0)
    assert not left_out
    by = {
        family: [each.prompt for each in made if each.family == family]
        for family in (FORMAT, ORDER, WORDING)
    }
    for each in by[FORMAT]:
        assert each is not None
        assert each.instruction == prompt.instruction
        assert [one.output for one in each.demonstrations] == ["positive"] * 4
        assert all(
            before.input in after.input
            for before, after in zip(shown, each.demonstrations, strict=True)
        )
        assert each.demonstrations != shown
    orders = [each.demonstrations for each in by[ORDER] if each is not None]
    assert len(set(orders)) == 3
    assert all(set(each) == set(shown) and each != shown for each in orders)
    for each in by[WORDING]:
        assert each is not None
        assert "negative" in each.instruction
        assert each.instruction != prompt.instruction


def _adaptations(run: Run) -> dict[str, Any]:
    from tunewise.adaptation.store import load

    return {
        record.method: load(run.jobs.out / record.adaptation)
        for record in run.records
        if record.seed == 0
    }


def _planted(broken: float) -> list[Any]:
    """Figures of an entry that a format breaks on a share of the rows, and slips do not."""
    random = np.random.default_rng(0)
    before = (random.random(200) < 0.9).astype(float)
    bad = before * (random.random(200) >= broken)
    seen = [
        _Seen(FORMAT, "Text: ...", before.copy(), ("x",) * 200, ("t",) * 200),
        _Seen(FORMAT, "TEXT || ...", bad, ("y",) * 200, ("t",) * 200),
        _Seen(INPUT, "lower case", before.copy(), ("x",) * 200, ("t",) * 200),
    ]
    plain = [RowResult(str(n), "x", score) for n, score in enumerate(before)]
    rows = [Row(str(n), "t", "x", ("x",)) for n in range(200)]
    subject: Any = SimpleNamespace(record=SimpleNamespace(seed=0))
    return _of_entry("few_shot", subject, rows, plain, seen, {WORDING: "no instruction"})


def test_a_format_that_breaks_the_prompt_is_found_and_named() -> None:
    found = _planted(0.3)
    by = {(each.name, each.part["change"]): each for each in found}
    worst = by["worst_change", FORMAT]
    assert worst.value < -0.2
    assert worst.high < -0.1
    assert by["spread", FORMAT].value == pytest.approx(-worst.value, abs=0.05)
    assert by["spread_by_chance", FORMAT].value < by["spread", FORMAT].value
    assert by["answers_kept", FORMAT].value == 0.5
    assert by["spread", INPUT].value == 0.0
    assert by["spread", WORDING].absent == "no instruction"
    assert by["spread", ORDER].value is None
    told = _findings(found)
    assert len(told) == 1
    assert told[0].startswith("few_shot is fragile to another format of the row")


def test_nothing_is_named_where_nothing_breaks() -> None:
    assert _findings(_planted(0.0)) == ("No entry is clearly hurt by any of the changes.",)


def test_on_a_run(small_run: Run, tmp_path: Path) -> None:
    settings = {"rows": 6, "formats": 2, "wordings": 2, "orders": 2, "share": 100.0}
    evidence = small_run.ask("fragility", tmp_path, **settings)
    assert not evidence.absent, evidence.absent
    work = evidence.work["forward_tokens"]
    assert 0.8 * evidence.planned_passes <= work <= 1.25 * evidence.planned_passes
    for name in ("tfidf", "zero_shot", "soft_prompt", "prefix", "lora", "full"):
        spread = evidence.find("spread", name, change="any")
        lowest = evidence.find("lowest", name, change="any")
        highest = evidence.find("highest", name, change="any")
        assert spread is not None
        assert lowest is not None
        assert highest is not None
        assert spread.value == pytest.approx(highest.number - lowest.number)
        assert spread.n == 6
    wording = evidence.find("worst_change", "soft_prompt", change=WORDING)
    assert wording is not None
    assert "in place of" in wording.absent
    (table,) = evidence.answered.tables
    assert len(table.lines) == len({record.method for record in small_run.records})


def test_answers_are_those_of_plain_predictions(small_run: Run, tmp_path: Path) -> None:
    # The slow twin: every changed row predicted by itself through the public door.
    from tunewise.adaptation.predict import predictor_for

    settings = {"rows": 4, "formats": 1, "wordings": 1, "orders": 0}
    evidence = small_run.ask("fragility", tmp_path, **settings)
    adaptation = _adaptations(small_run)["zero_shot"]
    rows = fragility.sampled(small_run.rows, 4, seed=0)
    view = small_run.jobs.ground.task.fit_view
    made, _ = variants(adaptation, rows, view.train, Counts(1, 1, 0), 0)
    means = []
    for each in made:
        changed = fragility._with_prompt(adaptation, each.prompt)
        with predictor_for(small_run.jobs.ground.base, changed) as predictor:
            answers = [predictor.answers([text])[0].text for text in each.inputs]
        right = [one == row.output for one, row in zip(answers, rows, strict=True)]
        means.append(np.mean(right))
    lowest = evidence.find("lowest", "zero_shot", change="any")
    plain = {one.id: one.score for one in small_run.records[1].test}
    assert small_run.records[1].method == "zero_shot"
    means.append(np.mean([plain[row.id] for row in rows]))
    assert lowest is not None
    assert lowest.value == pytest.approx(min(means))
