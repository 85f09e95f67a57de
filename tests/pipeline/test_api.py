"""The door for scripts and notebooks: the same runs as the command line makes."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise

from tunewise.api import Model, Run, compare, load
from tunewise.errors import InputError

ROWS = two_labels(60)
ASKED: dict[str, Any] = {"methods": ("zero_shot", "tfidf", "soft_prompt"), "seeds": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """One run of a file; tests read it and change nothing."""
    folder = tmp_path_factory.mktemp("api")
    data = write_rows(folder / "tickets.jsonl", ROWS)
    return compare(
        data, out=folder / "run", progress=False, base=str(tiny_folder), budget=6000, **ASKED
    )


def test_a_line_for_every_method(run: Run) -> None:
    table = run.table()
    assert {line["method"] for line in table} == {"zero_shot", "tfidf", "soft_prompt"}
    assert [line["accuracy"] for line in table] == sorted(
        (line["accuracy"] for line in table), reverse=True
    )
    assert all(line["low"] <= line["accuracy"] <= line["high"] for line in table)
    marked = [line["method"] for line in table if line["mark"] == "*"]
    assert marked == [run.comparison.recommendation.method]
    assert len(pd.DataFrame(table)) == 3
    assert run.report.is_file()
    told = str(run)
    assert told.startswith(run.comparison.recommendation.headline)
    assert all(reason in told for reason in run.comparison.recommendation.reasons)


def test_a_notebook_shows_the_table_and_escapes_what_is_in_it(run: Run) -> None:
    shown = run._repr_html_()
    assert shown.count("<tr>") == 1 + len(run.table())
    assert escape(run.comparison.recommendation.headline) in shown
    foreign = replace(run.comparison.recommendation, headline="<script>x</script>")
    odd = Run(replace(run.comparison, recommendation=foreign), run.folder)
    assert "<script>" not in odd._repr_html_()


def test_the_command_goes_on_with_a_run_of_a_script(run: Run, tiny_folder: Path) -> None:
    before = {
        path: path.read_bytes()
        for path in (run.folder / "adaptations").rglob("*")
        if path.is_file()
    }
    assert before
    done = tunewise(
        "compare",
        run.folder.parent / "tickets.jsonl",
        *("--out", run.folder, "--base", tiny_folder, "--budget", "6000", "--seeds", "1"),
        *("--methods", "zero_shot,tfidf,soft_prompt"),
    )
    assert done.code == 0, done.err
    assert "going on with the run" in done.err
    assert {path: path.read_bytes() for path in before} == before


def test_answers_are_those_of_predict(run: Run) -> None:
    texts = [row["text"] for row in ROWS[:5]]
    folder = run.folder / run.comparison.entry("soft_prompt").adaptation
    done = tunewise("predict", folder, *texts, "--json")
    wanted = json.loads(done.out)
    for model in (run.model("soft_prompt"), load(folder)):
        got = model.answers(texts)
        assert [each.text for each in got] == [each["answer"] for each in wanted]
        assert [each.probability for each in got] == [
            pytest.approx(each["probability"]) for each in wanted
        ]
        assert model.answer(texts[0]) == wanted[0]["answer"]


def test_what_needs_no_base_loads_none(run: Run) -> None:
    model = run.model("tfidf")
    assert model.base is None
    assert model.answer(ROWS[0]["text"]) in {"positive", "negative"}


def test_a_model_is_measured(run: Run, tmp_path: Path) -> None:
    model = run.model("tfidf")
    got = model.measure(ROWS[:20], input="text", output="label")
    answers = [each.text for each in model.answers([row["text"] for row in ROWS[:20]])]
    right = [a == row["label"] for a, row in zip(answers, ROWS[:20], strict=True)]
    assert got["value"] == pytest.approx(sum(right) / 20)
    assert got["n"] == 20
    file = write_rows(tmp_path / "more.jsonl", ROWS[:20])
    again = model.measure(file)
    assert {**again, "milliseconds_per_row": 0} == {**got, "milliseconds_per_row": 0}
    # A row without an answer is left out, and said to be.
    with pytest.warns(UserWarning, match="1 row has no answer and is left out: rows.jsonl line 21"):
        fewer = model.measure([*ROWS[:20], {"text": "nobody knows", "label": None}])
    assert {**fewer, "milliseconds_per_row": 0} == {**got, "milliseconds_per_row": 0}


@pytest.mark.parametrize("kind", ["list", "tuple", "frame", "arrow"])
def test_rows_in_memory_are_the_rows_of_a_file(
    kind: str, tmp_path: Path, tiny_folder: Path
) -> None:
    frame = pd.DataFrame(ROWS)
    data: Any = {"list": ROWS, "tuple": tuple(ROWS), "frame": frame}.get(kind)
    if kind == "arrow":
        import pyarrow

        data = pyarrow.Table.from_pandas(frame)
    quick: dict[str, Any] = {"base": str(tiny_folder), "progress": False, "methods": "tfidf"}
    got = compare(data, out=tmp_path / "memory", questions="none", seeds=(0,), **quick)
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    wanted = compare(file, out=tmp_path / "file", questions="none", seeds=(0,), **quick)
    assert got.comparison.context.data == wanted.comparison.context.data
    assert [e.test for e in got.comparison.entries] == [e.test for e in wanted.comparison.entries]


def test_splits_in_memory(tmp_path: Path, tiny_folder: Path) -> None:
    splits = {"train": ROWS[:40], "validation": ROWS[40:50], "test": pd.DataFrame(ROWS[50:])}
    got = compare(
        splits,
        out=tmp_path / "run",
        base=str(tiny_folder),
        progress=False,
        methods="tfidf",
        priorities={"minimum_quality": 50},
        name="tickets",
    )
    assert dict(got.comparison.context.data.rows) == {"train": 40, "validation": 10, "test": 10}
    assert got.comparison.task.name == "tickets"
    assert "name='tickets'" in got.comparison.context.command


def test_without_a_folder_it_lies_where_the_command_puts_it(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick: dict[str, Any] = {"base": str(tiny_folder), "progress": False, "methods": "tfidf"}
    assert compare(ROWS, **quick).folder == Path("runs/rows")
    file = write_rows(tmp_path / "tickets.jsonl", ROWS)
    assert compare(str(file), **quick).folder == Path("runs/tickets")


@pytest.mark.parametrize(
    ("data", "told", "say"),
    [
        ("nowhere.csv", {}, "nowhere.csv"),
        (ROWS, {"metods": "lora"}, "did you mean methods"),
        (ROWS, {"inptu": "text"}, "did you mean input"),
        (ROWS, {"input": "txet"}, "txet"),
        (ROWS, {"methods": "lorra"}, "lora"),
        (ROWS, {"seeds": ()}, "seeds"),
        (ROWS, {"seeds": "three"}, "seeds"),
        (ROWS, {"seeds": 0}, "seeds"),
        (ROWS, {"budget": "much"}, "budget"),
        (ROWS, {"budget": -3}, "budget"),
        (ROWS, {"dtype": "float64"}, "float64"),
        (ROWS, {"base": "no-such-model"}, "no-such-model"),
        (ROWS, {"kind": "classifying"}, "kind"),
        (ROWS, {"source": "other.csv"}, "source"),
        (ROWS, {"priorities": {"minimum_qality": 80}}, "did you mean minimum_quality"),
        (ROWS, {"priorities": {"minimum_quality": 800}}, "minimum_quality"),
        ([], {}, "row"),
        ([1, 2, 3], {}, "rows cannot be read"),
        (7, {}, "rows cannot be read"),
        (None, {}, "rows cannot be read"),
        ([{"text": object(), "label": "a"}], {}, "rows cannot be read"),
        (pd.DataFrame([["x", "y"]], columns=["text", "text"]), {}, "rows cannot be read"),
        ({"train": ROWS, "exam": ROWS}, {}, "exam"),
    ],
)
def test_bad_input_is_told_and_nothing_is_left(
    data: Any, told: dict[str, Any], say: str, tmp_path: Path, tiny_folder: Path
) -> None:
    given = {"base": str(tiny_folder), "methods": "tfidf"} | told
    with pytest.raises(InputError) as caught:
        compare(data, out=tmp_path / "run", progress=False, **given)
    assert say in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_single_text_is_not_taken_for_several(run: Run) -> None:
    with pytest.raises(InputError, match="several texts"):
        run.model("tfidf").answers("one text")
    with pytest.raises(InputError, match="no such method"):
        run.model("lora")


def test_a_folder_without_an_adaptation(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load(tmp_path)


def test_importing_it_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import tunewise.api, sys; print(*[n for n in ('torch', 'peft') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert Model.__doc__
