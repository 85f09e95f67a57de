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
from tunewise.methods._registry import discover_methods

TASK = "[priorities]\nminimum_qualty = 85\n[methods.lroa]\nrank = 4\n[questions.fragilty]\nn = 1\n"
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
    (["fit", "lroa", "DATA", "--out", "x"], "'lora'"),
]


def test_typos_are_told_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    data, task = write_rows(tmp_path / "rows.jsonl", two_labels(40)), tmp_path / "task.toml"
    task.write_text(TASK, encoding="utf-8")
    lines = [
        [each.replace("DATA", str(data)).replace("TASK", str(task)) for each in arguments]
        for arguments, _ in TYPOS
    ]
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "task.toml"]


def test_the_names_are_those_of_what_is_loaded() -> None:
    early.check_methods([*discover_methods(), "prompt_search>lora", "lora + soft_prompt"])
    early._check("question", QUESTIONS.discover(), early.QUESTIONS, QUESTIONS.group)
    with pytest.raises(UnknownNameError, match="unknown question 'fragilty'"):
        early._check("question", ["fragilty"], early.QUESTIONS, QUESTIONS.group)


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
