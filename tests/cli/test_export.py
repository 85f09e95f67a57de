"""`tunewise export`: files that other tools take, or a refusal with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Finished
from tests.cli.terminal import tunewise
from tests.cli.test_bad_data import refused

from tunewise.adaptation.store import fingerprint_of_folder


def test_a_prompt_is_exported_as_text_and_messages(finished: Finished, tmp_path: Path) -> None:
    ada = finished.adaptation("zero_shot")
    done = tunewise("export", ada, "--as", "text", "--out", tmp_path / "text", "--json")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "text" / "export.json").read_text("utf-8"))
    assert done.json["record"] == record
    assert record["adaptation"] == fingerprint_of_folder(ada)
    text = (tmp_path / "text" / "prompt.txt").read_text("utf-8")
    assert text.count(record["placeholder"]) == 1
    plain = tunewise("export", ada, "--as", "messages", "--out", tmp_path / "messages")
    assert plain.code == 0, plain.err
    assert "messages.json" in plain.out
    messages = json.loads((tmp_path / "messages" / "messages.json").read_text("utf-8"))
    assert messages[-1]["role"] == "user"
    assert all(each["content"] in text for each in messages)


def test_the_same_export_has_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    for place in ("a", "b"):
        ada, out = finished.adaptation("zero_shot"), tmp_path / place
        assert tunewise("export", ada, "--as", "text", "--out", out).code == 0
    for name in ("prompt.txt", "export.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("method", ["lora", "soft_prompt", "prefix"])
def test_trained_parts_are_exported_with_a_proof(
    method: str, finished: Finished, tmp_path: Path
) -> None:
    ada = finished.adaptation(method)
    done = tunewise("export", ada, "--as", "peft", "--out", tmp_path / "peft", "--json")
    assert done.code == 0, done.err
    parity = done.json["record"]["parity"]
    assert parity["largest_difference"] <= parity["tolerance"]
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("method", "flags", "words"),
    [
        ("zero_shot", ["--as", "txt"], ("txt", "text")),
        ("zero_shot", ["--as", "peft"], ("prompt_text", "--as text")),
        ("lora", ["--as", "text"], ("low_rank", "--as peft")),
        ("full", ["--as", "peft"], ("weights",)),
        ("majority", ["--as", "text"], ("shallow_model", "never call")),
        ("majority", ["--as", "peft"], ("shallow_model",)),
        ("zero_shot", [], ("--as",)),
        ("zero_shot", ["--as", "text", "--base", "./nowhere"], ("nowhere",)),
        ("nothing", ["--as", "text"], ("no adaptation",)),
    ],
)
def test_what_cannot_be_exported_is_refused(
    method: str, flags: list[str], words: tuple[str, ...], finished: Finished, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = tunewise("export", finished.adaptation(method), *flags, "--out", out, "--json")
    refused(done, out, *words)


def test_a_folder_that_is_taken_and_another_base_are_refused(
    finished: Finished, tmp_path: Path, tiny_folder: Path
) -> None:
    ada = finished.adaptation("zero_shot")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("kept")
    done = tunewise("export", ada, "--as", "text", "--out", tmp_path / "taken", "--json")
    assert done.code == 2
    assert done.json["error"] == "OutputFolderError"
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine"]
    unnamed = tunewise("export", ada, "--out", tmp_path / "none", "--json")
    refused(unnamed, tmp_path / "none", "one of", "text", "peft")
    refused(tunewise("export", ada, "--as", "text", "--json"), tmp_path / "none", "--out")
    import shutil

    from tests.conftest import build_model

    shutil.copytree(tiny_folder, tmp_path / "other")
    build_model("llama", seed=7).save_pretrained(tmp_path / "other")
    flags = ("--as", "text", "--base", tmp_path / "other", "--json")
    refused(tunewise("export", ada, *flags, "--out", tmp_path / "out"), tmp_path / "out", "other")


def test_help_names_the_formats() -> None:
    done = tunewise("export", "--help")
    for name in ("text", "messages", "dspy", "peft"):
        assert f"\n  {name} " in done.out
