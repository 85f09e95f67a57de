"""`compare` on every kind of task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.planted import (
    SCHEMA,
    many_labels,
    objects,
    several_labels,
    short_answers,
    summaries,
    write_rows,
)
from tests.cli.terminal import tunewise


def compared(
    folder: Path, tiny: Path, rows: list[dict[str, Any]], methods: str, *flags: object
) -> dict[str, Any]:
    """comparison.json of a run on these rows."""
    data = write_rows(folder / "rows.jsonl", rows)
    done = tunewise(
        "compare", data, "--base", tiny, "--out", folder / "run", "--methods", methods,
        "--seeds", "1", "--budget", "60k", "--json", *flags,
    )  # fmt: skip
    assert done.code == 0, done.err
    told: dict[str, Any] = done.json
    assert {entry["method"] for entry in told["entries"]} == set(methods.split(","))
    assert not told["skipped"]
    return told


def answers_of(folder: Path, method: str) -> list[str]:
    """Test answers of a method."""
    record = json.loads((folder / "run" / "records" / f"{method}-seed0.json").read_text("utf-8"))
    return [result["answer"] for result in record["test"]]


def test_many_labels_are_decoded_through_a_trie(tmp_path: Path, tiny_folder: Path) -> None:
    told = compared(tmp_path, tiny_folder, many_labels(98), "tfidf,zero_shot,soft_prompt")
    assert told["task"]["kind"] == "classification"
    assert len(told["task"]["labels"]) == 14
    manifest = tmp_path / "run/adaptations/zero_shot-seed0/adaptation.json"
    assert json.loads(manifest.read_text("utf-8"))["decoding"]["mode"] == "trie"
    for method in ("zero_shot", "soft_prompt"):
        assert set(answers_of(tmp_path, method)) <= set(told["task"]["labels"])


def test_multi_label(tmp_path: Path, tiny_folder: Path) -> None:
    told = compared(tmp_path, tiny_folder, several_labels(80), "majority,few_shot,lora")
    assert told["task"]["kind"] == "multi_label"
    assert set(told["entries"][0]["by_label"]) <= set(told["task"]["labels"])


def test_short_answer(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ("--input", "question", "--output", "answer", "--kind", "short_answer")
    told = compared(tmp_path, tiny_folder, short_answers(60), "zero_shot,prefix", *flags)
    assert told["task"]["kind"] == "short_answer"
    assert told["task"]["labels"] == []


def test_generation_runs_the_lead_baseline(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ("--kind", "generation")
    told = compared(tmp_path, tiny_folder, summaries(60), "lead,zero_shot,full", *flags)
    assert told["task"]["kind"] == "generation"
    best = told["entries"][0]
    assert best["method"] == "lead"  # every summary is the beginning of its text
    assert best["test"]["value"] > 0.5


def test_json_is_measured_free_and_constrained(tmp_path: Path, tiny_folder: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    told = compared(tmp_path, tiny_folder, objects(60), "zero_shot,soft_prompt", "--schema", schema)
    assert told["task"]["kind"] == "json"
    for entry in told["entries"]:
        assert entry["extra"]["valid_json"] == 1.0
        assert {"free_score", "free_valid_json"} <= entry["extra"].keys()
        assert entry["extra"]["free_valid_json"] < 1.0  # a random model writes no JSON by itself
    for answer in answers_of(tmp_path, "soft_prompt"):
        assert set(json.loads(answer)) == {"item", "mood"}
