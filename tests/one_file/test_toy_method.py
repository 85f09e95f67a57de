"""One file is a method: the one printed in the documentation runs through the whole pipeline."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from tests.architecture.source import REPOSITORY

from tunewise.adaptation.predict import predictor_for
from tunewise.adaptation.store import load
from tunewise.config import RunConfig
from tunewise.errors import ConfigError
from tunewise.methods._registry import discover_methods
from tunewise.model.base import load_base
from tunewise.pipeline import compare
from tunewise.task.options import TaskOptions

PAGE = REPOSITORY / "docs" / "adding_a_method.md"
PRAISE = [
    "bright",
    "lovely",
    "crisp",
    "solid",
    "quick",
    "pleasant",
    "sturdy",
    "clean",
    "calm",
    "generous",
]
BLAME = ["dull", "broken", "slow", "flimsy", "noisy", "sour", "dirty", "cracked", "late", "stale"]
THINGS = [
    "lamp",
    "chair",
    "phone",
    "kettle",
    "jacket",
    "blender",
    "camera",
    "ticket",
    "garden",
    "bicycle",
]


class Silent:
    """A reporter that keeps nothing."""

    def say(self, text: str) -> None:
        """See `Reporter`."""

    def begin(self, text: str, number: int, of: int, unit: str = "tokens") -> None:
        """See `Reporter`."""

    def work(self, done: int, total: int | None, text: str) -> None:
        """See `Reporter`."""

    def whole(self, done: int, total: int, seconds_left: float) -> None:
        """See `Reporter`."""


def printed_file() -> str:
    """The one Python block of the page."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 1
    return str(blocks[0])


@pytest.fixture
def methods_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the package with the toy method in it, named in the environment."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "rephrase.py").write_text(printed_file(), encoding="utf-8")
    monkeypatch.setenv("TUNEWISE_METHODS", str(folder))
    return folder


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Sixty short rows with two labels."""
    draw = random.Random(5)
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            label, words = ("good", PRAISE) if number % 2 else ("bad", BLAME)
            first, second = draw.sample(words, 2)
            text = f"{draw.choice(THINGS)} number {number * 7919}: {first}, {second}"
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return path


def test_the_whole_pipeline_runs_with_one_more_file(
    methods_folder: Path, rows_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    config = RunConfig(
        source=str(rows_file),
        options=TaskOptions(input="text", output="label"),
        base=str(tiny_folder),
        methods=("majority", "rephrase", "zero_shot"),
        seeds=(0,),
        budget="40k",
        settings={"rephrase": {"wordings": 2}},
    )
    out = tmp_path / "run"
    compare(config, out, "a test", Silent())

    written = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    entries = {entry["method"]: entry for entry in written["entries"]}
    assert set(entries) == {"majority", "rephrase", "zero_shot"}
    toy = entries["rephrase"]
    assert toy["parts"] == ["prompt_text"]
    assert toy["settings"] == {"wordings": 2, "validation_rows": 64}
    assert toy["test"]["n"] == written["data"]["rows"]["test"] > 0
    # Its work was counted and kept within the budget that all others had.
    assert 0 < toy["fit"]["forward_tokens"] <= written["budget"]["per_method"]
    assert "rephrase" in (out / "report.html").read_text(encoding="utf-8")

    # What it found answers without the method: predicting knows parts alone.
    adaptation = load(out / toy["adaptation"])
    base = load_base(str(tiny_folder), dtype=adaptation.provenance.dtype)
    with predictor_for(base, adaptation) as predictor:
        answers = predictor.answers(["lamp number 1: dull, late", "phone number 2: crisp, calm"])
    assert {answer.text for answer in answers} <= {"good", "bad"}
    assert len(answers) == 2


def test_a_folder_given_by_hand_is_searched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNEWISE_METHODS", raising=False)
    assert "rephrase" not in discover_methods()
    (tmp_path / "rephrase.py").write_text(printed_file(), encoding="utf-8")
    assert "rephrase" in discover_methods(extra_folders=[tmp_path])
    assert "rephrase" not in discover_methods()


def test_a_folder_named_twice_is_one_folder(methods_folder: Path) -> None:
    found = discover_methods(extra_folders=[methods_folder])
    assert found["rephrase"] is discover_methods()["rephrase"]


def test_a_folder_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWISE_METHODS", str(tmp_path / "mehtods"))
    with pytest.raises(ConfigError, match="mehtods"):
        discover_methods()


def test_an_empty_variable_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWISE_METHODS", "")
    assert "lora" in discover_methods()


@pytest.mark.parametrize("text", ["def fit(:", "import no_such_package", "1 / 0"])
def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.py").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.py"):
        discover_methods(extra_folders=[tmp_path])
    # It is not taken for imported the next time.
    with pytest.raises(ConfigError, match=r"broken\.py"):
        discover_methods(extra_folders=[tmp_path])


def test_two_folders_may_hold_files_of_one_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = printed_file().replace('name = "rephrase"', f'name = "rephrase_{name}"')
        (tmp_path / name / "rephrase.py").write_text(text, encoding="utf-8")
    found = discover_methods(extra_folders=[tmp_path / "one", tmp_path / "two"])
    assert {"rephrase_one", "rephrase_two"} <= set(found)
