"""Flags, names, folders and adaptations that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.cli.conftest import Finished
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import tunewise
from tests.cli.test_bad_data import refused
from tests.cli.test_commands import bytes_of
from tests.conftest import build_model, build_tokenizer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty good rows."""
    return write_rows(tmp_path / "rows.jsonl", two_labels(40))


@pytest.fixture
def no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the base model fails the test: what is refused is refused before it."""
    monkeypatch.setattr("tunewise.steps.load_base", lambda *a, **k: pytest.fail("slow work began"))


@pytest.mark.usefixtures("no_base")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--methods", "lroa"], ("lroa", "lora")),
        (["--methods", "lora,softprompt"], ("soft_prompt",)),
        (["--methods", ","], ("--methods",)),
        (["--seeds", "0"], ("--seeds 0",)),
        (["--seeds", "x"], ("--seeds x",)),
        (["--seeds", "-1"], ("--seeds -1",)),
        (["--seeds", "1,1"], ("twice", "1,1")),
        (["--seeds", ""], ("--seeds",)),
        (["--seeds", "1.5"], ("1.5",)),
        (["--budget", "-5"], ("--budget -5",)),
        (["--budget", "0"], ("--budget 0",)),
        (["--budget", "much"], ("much", "default")),
        (["--budget", "1.5"], ("1.5",)),
        (["--budget", "nan"], ("nan",)),
        (["--budget", "inf"], ("inf",)),
        (["--budgt", "5"], ("--budgt", "--budget")),
        (["--al"], ("--al", "did you mean '--all'")),
        (["--learning-rate", "1"], ("--learning-rate",)),
        (["--out"], ("--out",)),
        (["--methods", "lead"], ("lead", "classification", "generation")),
        (["extra"], ("extra", "in quotes")),
    ],
)
def test_flags_of_compare(flags: list[str], words: tuple[str, ...], data: Path) -> None:
    out = data.parent / "run"
    named = [] if "--out" in flags else ["--out", out]
    refused(tunewise("compare", data, *named, "--json", *flags), out, *words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dtype", "float17"], ("float17", "float32")),
        (["--base", "smolm2-135m"], ("smollm2-135m",)),
        (["--base", "./no/such/folder"], ("no/such/folder",)),
    ],
)
def test_bases_that_are_not_there(flags: list[str], words: tuple[str, ...], data: Path) -> None:
    out = data.parent / "run"
    refused(tunewise("compare", data, "--out", out, "--json", *flags), out, *words)
    refused(tunewise("data", "check", data, "--json", *flags), out, *words)


@pytest.mark.usefixtures("no_base")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "lroa"], ("lroa", "lora")),
        (["fit", "lora", "--rnak", "3"], ("--rnak", "--rank")),
        (["fit", "lora", "--rank", "0"], ("--rank 0",)),
        (["fit", "lora", "--rank", "many"], ("--rank many",)),
        (["fit", "lora", "--steps", "0", "--batch-size", "-1"], ("--steps 0", "--batch-size -1")),
        (["fit", "soft_prompt", "--start-from", "nowhere"], ("nowhere", "vocabulary")),
        (["fit", "soft_prompt", "--row-order", "random"], ("shuffled",)),
        (["fit", "lora", "--seed", "-1"], ("seed",)),
        (["fit", "lora", "--budget", "none"], ("none",)),
        (["fit", "lora", "--start", "no/where"], ("no/where",)),
    ],
)
def test_flags_of_fit(arguments: list[str], words: tuple[str, ...], data: Path) -> None:
    out = data.parent / "ada"
    done = tunewise(*arguments, data, "--out", out, "--json")
    refused(done, out, *words)


def test_fit_asks_for_an_out_folder(data: Path) -> None:
    refused(tunewise("fit", "lora", data, "--json"), data.parent / "none", "--out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compar"], ("compar", "compare")),
        (["data", "chek"], ("chek", "check")),
        (["methods", "--jsn"], ("--jsn", "--json")),
        (["models", "--fetch", "smolm2-135m"], ("smollm2-135m",)),
        (["predict"], ("adaptation",)),
        (["predict", "no/ada", "text"], ("no/ada",)),
        (["measure", "no/ada", "rows.jsonl"], ("no/ada",)),
        (["measure", "no/ada"], ("no data",)),
    ],
)
def test_commands_and_paths(arguments: list[str], words: tuple[str, ...], tmp_path: Path) -> None:
    refused(tunewise(*arguments, "--json"), tmp_path / "run", *words)


def test_a_budget_too_small_for_one_step(data: Path, tiny_folder: Path) -> None:
    out = data.parent / "run"
    base = ("--base", tiny_folder, "--out", out, "--budget", "100", "--json")
    refused(tunewise("fit", "lora", data, *base), out, "100 token passes", "--budget")
    none = tunewise("compare", data, *base, "--methods", "lora,prefix", "--seeds", "2")
    refused(none, out, "lora", "prefix", "--budget")
    out.mkdir()
    assert tunewise("compare", data, *base, "--methods", "lora").code == 2
    assert list(out.iterdir()) == []  # it was there before, so it stays, as it was
    done = tunewise("compare", data, *base, "--methods", "lora,majority", "--seeds", "2")
    assert done.code == 0, done.err
    assert [each["method"] for each in done.json["skipped"]] == ["lora"]
    assert [each["method"] for each in done.json["entries"]] == ["majority"]


@pytest.mark.usefixtures("no_base")
@pytest.mark.parametrize("command", [["compare"], ["fit", "majority"]])
def test_an_out_folder_that_is_taken(command: list[str], data: Path) -> None:
    folder, file = data.parent / "taken", data.parent / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work", encoding="utf-8")
    file.write_text("x", encoding="utf-8")
    for out in (folder, file):
        before = bytes_of(data.parent)
        done = tunewise(*command, data, "--out", out, "--json")
        assert done.code == 2
        assert done.json["error"] == "OutputFolderError"
        assert done.json["fix"]
        assert bytes_of(data.parent) == before


@pytest.mark.usefixtures("no_base")
@pytest.mark.parametrize(
    "flags",
    [["--seeds", "1"], ["--budget", "21k"], ["--methods", "lora"], ["--instruction", "Do."]],
)
def test_a_folder_of_another_run(flags: list[str], finished: Finished) -> None:
    before = bytes_of(finished.out)
    done = tunewise(
        "compare", finished.data, "--out", finished.out, *finished.flags, *flags, "--json"
    )
    assert done.code == 2
    assert done.json["what"] == "the output folder holds another run"
    assert "tunewise compare" in done.json["found"]
    assert bytes_of(finished.out) == before


def test_a_run_on_another_base_or_dtype(finished: Finished, tmp_path: Path) -> None:
    before = bytes_of(finished.out)
    used = finished.done.json["base"]["dtype"]
    other = "bfloat16" if used == "float32" else "float32"
    for flags in (["--dtype", other], ["--base", _other_base(tmp_path)]):
        given = (*finished.flags, *flags, "--json")
        done = tunewise("compare", finished.data, "--out", finished.out, *given)
        assert done.code == 2, done.err
        assert done.json["error"] == "OutputFolderError"
    assert bytes_of(finished.out) == before


def _other_base(folder: Path) -> str:
    build_model("llama", seed=1).save_pretrained(folder / "other")
    build_tokenizer().save_pretrained(folder / "other")
    return str(folder / "other")


def test_an_adaptation_for_another_base(finished: Finished, tmp_path: Path) -> None:
    other, out = _other_base(tmp_path), tmp_path / "ada"
    ada = finished.adaptation("soft_prompt")
    for arguments in (
        ["predict", ada, "some text"],
        ["measure", ada, finished.data],
        ["fit", "lora", finished.data, "--start", ada, "--out", out],
    ):
        done = tunewise(*arguments, "--base", other, "--json")
        refused(done, out, "another base model")
        assert done.json["error"] == "WrongBaseError"
    # A shallow model calls no base, so any will do.
    assert tunewise("predict", finished.adaptation("tfidf"), "good", "--base", other).code == 0


def test_an_adaptation_with_a_flipped_byte(finished: Finished, tmp_path: Path) -> None:
    for method in ("lora", "zero_shot", "tfidf"):
        names = sorted(path.name for path in finished.adaptation(method).iterdir())
        for name in names:
            ada = tmp_path / f"{method}-{name}"
            shutil.copytree(finished.adaptation(method), ada)
            content = bytearray((ada / name).read_bytes())
            content[len(content) // 2] ^= 1
            (ada / name).write_bytes(content)
            done = tunewise("predict", ada, "some text", "--json")
            refused(done, tmp_path / "none", name)
            assert done.json["error"] == "CorruptAdaptationError"


def test_rows_that_an_adaptation_cannot_be_measured_on(finished: Finished, tmp_path: Path) -> None:
    ada = finished.adaptation("tfidf")
    unknown = write_rows(tmp_path / "a.jsonl", [{"text": "x", "label": "neutral"}])
    refused(tunewise("measure", ada, unknown, "--json"), tmp_path / "none", "neutral", "line 1")
    missing = write_rows(tmp_path / "b.jsonl", [{"text": "x", "label": None}])
    refused(tunewise("measure", ada, missing, "--json"), tmp_path / "none", "line 1")
    flags = ("--input", "txt", "--json")
    refused(tunewise("measure", ada, finished.data, *flags), tmp_path / "none", "txt", "text")


def test_nothing_to_predict(finished: Finished) -> None:
    for arguments in ((), ("-",), ("", "  ")):
        done = tunewise("predict", finished.adaptation("tfidf"), *arguments, "--json")
        refused(done, finished.data.parent / "none", "nothing to answer")


def test_a_budget_is_read_before_the_data(tmp_path: Path) -> None:
    done = tunewise("compare", tmp_path / "nowhere.csv", "--budget", "3kk")
    assert done.code == 2
    assert "the budget cannot be read" in done.err
