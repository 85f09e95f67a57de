"""What is refused at once: before torch is loaded, in little time, with nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.planted import two_labels, write_rows

from tunewise import early
from tunewise.errors import OutputFolderError, UnknownNameError
from tunewise.measure.questions._registry import QUESTIONS
from tunewise.methods._registry import discover_methods, find_method
from tunewise.methods._settings._find import declared

TASKS = {
    "TASK": "[priorities]\nminimum_qualty = 85\n[methods.lroa]\nrank = 4\n",
    "SETTING": "[methods.lora]\nrnk = 4\n",
    "CHAIN": "[methods.'prompt_search > lora']\nrank = 8\nlora_rnk = 4\n",
    "VALUE": "[methods.'soft_prompt+lora']\nrank = 0\n",
}
# Runs each command line of standard input in one process; says what it ended with and loaded.
SCRIPT = """
import json, sys, time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from tunewise.cli.main import main
told = []
for arguments in json.load(sys.stdin):
    sys.argv, err, code = ["tunewise", *arguments], StringIO(), None
    with redirect_stderr(err), redirect_stdout(StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
    heavy = [name for name in ("torch", "transformers", "sklearn") if name in sys.modules]
    told.append([arguments, code, heavy, err.getvalue()])
print(json.dumps([time.process_time(), told]))
"""
TYPOS: list[tuple[list[str], str]] = [
    (["compare", "DATA", "--methods", "lroa"], "'lora'"),
    (["compare", "DATA", "--methods", "prompt_search>lroa"], "'lora'"),
    (["compare", "DATA", "--budget", "3x"], "budget cannot be read"),
    (["compare", "DATA", "--seeds", "x"], "seeds cannot be read"),
    (["compare", "DATA", "--metric", "acuracy"], "'accuracy'"),
    (["compare", "DATA", "--questions", "fragilty"], "'fragility'"),
    (["compare", "DATA", "--minimum-quality", "850"], "minimum_quality"),
    (["compare", "DATA", "--task", "TASK"], "did you mean minimum_quality"),
    (["compare", "DATA", "--kind", "clasification"], "kind"),
    (["compare", "DATA", "--dtype", "float17"], "unknown dtype"),
    (["compare", "DATA", "--out", "DATA"], "--out is a file"),
    (["compare", "DATA", "--out", "DATA/run"], "cannot be written"),
    (["compare", "DATA", "--plan", "--methods", "lroa"], "'lora'"),
    (["compare", "nowhere.csv"], "no file or folder"),
    (["compare", "DATA", "--base", "smolm2-135m"], "'smollm2-135m'"),
    (["compare", "DATA", "--base", "./nowhere"], "no such model folder"),
    (["compare", "DATA", "--output", "lable"], "'label'"),
    (["advise", "DATA", "--methods", "lroa"], "'lora'"),
    (["advise", "DATA", "--budget", "3x"], "budget cannot be read"),
    (["data", "check", "DATA", "--dtype", "float17"], "unknown dtype"),
    (["advise", "DATA", "--input", "txt"], "'text'"),
    (["data", "check", "nowhere.csv"], "no file or folder"),
    (["data", "check", "DATA", "--input", "txt"], "'text'"),
    (["data", "check", "DATA", "--base", "smolm2-135m"], "'smollm2-135m'"),
    (["predict", "DATA", "some text", "--base", "smolm2-135m"], "'smollm2-135m'"),
    (["predict", "nowhere", "some text"], "nowhere does not exist"),
    (["measure", "DATA", "DATA"], "is a file"),
    (["export", "nowhere", "--as", "text", "--out", "x"], "nowhere does not exist"),
    (["registry", "add", "nowhere", "acme/x"], "nowhere does not exist"),
    (["fit", "lora", "DATA", "--out", "x", "--start", "nowhere"], "nowhere does not exist"),
    (["compare", "DATA", "--task", "SETTING"], "'rank'"),
    (["compare", "DATA", "--task", "CHAIN"], "'lora_rank'"),
    (["compare", "DATA", "--task", "VALUE"], "greater than or equal to 1"),
    (["fit", "lroa", "DATA", "--out", "x"], "'lora'"),
    (["fit", "lora", "DATA", "--out", "x", "--rnk", "4"], "'--rank'"),
    (["fit", "lora", "DATA", "--out", "x", "--rank", "0"], "greater than or equal to 1"),
    (["fit", "few_shot>lora", "DATA", "--out", "x", "--lora-rnk", "4"], "'--lora-rank'"),
    (["fit", "lora", "DATA", "--out", "x", "--task", "SETTING"], "'rank'"),
    (["fit", "lora", "DATA", "--out", "x", "--output", "lable"], "'label'"),
    (["fit", "lora", "DATA", "--out", "x", "--dtype", "float17"], "unknown dtype"),
    (["fit", "lora", "DATA", "--out", "x", "--budget", "3x"], "budget cannot be read"),
    (["fit", "lora", "nowhere.csv", "--out", "x"], "no file or folder"),
    (["fit", "lora", "DATA", "--out", "."], "--out is taken"),
]


def test_typos_are_told_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", two_labels(40))
    for name, text in TASKS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    lines = [[each.replace("DATA", str(data)) for each in arguments] for arguments, _ in TYPOS]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    seconds, told = json.loads(done.stdout)
    for (arguments, code, heavy, err), (_, words) in zip(told, TYPOS, strict=True):
        assert (code, heavy) == (2, []), (arguments, err)
        assert words in err, arguments
    assert seconds / len(TYPOS) < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*TASKS, "rows.jsonl"])


def test_models_are_listed_without_what_loads_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([["models"], ["models", "--json"]]),
        capture_output=True,
        text=True,
        check=True,
    )
    _, told = json.loads(done.stdout)
    assert [(code, heavy) for _, code, heavy, _ in told] == [(0, []), (0, [])]


def test_the_names_are_those_of_what_is_loaded() -> None:
    early.check_methods([*discover_methods(), "prompt_search>lora", "lora + soft_prompt"])
    early._check("question", QUESTIONS.discover(), early.QUESTIONS, QUESTIONS.group)
    with pytest.raises(UnknownNameError, match="unknown question 'fragilty'"):
        early._check("question", ["fragilty"], early.QUESTIONS, QUESTIONS.group)


def test_the_settings_are_those_of_what_is_loaded() -> None:
    made = (
        "few_shot>lora",
        "prompt_search > soft_prompt > lora",
        "lora + soft_prompt",
        "zero_shot",
    )
    for name in (*discover_methods(), *made):
        known, method = declared(name), find_method(name)
        assert known is not None
        told, wanted = known.Settings.model_fields, method.Settings.model_fields
        assert {each: str(field) for each, field in told.items()} == {
            each: str(field) for each, field in wanted.items()
        }
    for name in ("not_here", "_training", "not_here>lora", "few_shot>lora+soft_prompt"):
        assert declared(name) is None


def test_methods_of_other_folders_are_not_judged_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWISE_METHODS", str(tmp_path))
    early.check_methods(["anything"])


def test_a_place_that_is_tried_is_left_as_it_was(tmp_path: Path) -> None:
    early.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputFolderError, match="cannot be written"):
        early.check_writable(tmp_path / "file" / "run")
