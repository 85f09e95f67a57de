"""Truths planted in tasks, which recommendation and questions together must find and name.

Wrong labels and near-duplicates across splits are in `test_data_quality`, a held-out domain that
turns the words around in `test_out_of_domain`, a crossing of curves in `test_data_need`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.planted import write_rows
from tests.cli.terminal import tunewise
from tests.compare.planted import CONTEXT
from tests.laws.conftest import prompted_base
from tests.laws.fitting import base_of, planted_rows
from tests.questions.running import run_on

from tunewise.compare.table import build_comparison
from tunewise.model.base import Base

__all__ = ["prompted_base"]
INSTRUCTION = "Say yes or no."
TRAINED = ("prefix", "lora", "full")


@pytest.fixture(scope="session")
def prompted_folder(prompted_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base that solves the task behind demonstrations only, as a folder."""
    folder = tmp_path_factory.mktemp("prompted")
    prompted_base.model.save_pretrained(folder)
    prompted_base.tokenizer.save_pretrained(folder)
    return folder


def compared(
    rows: Sequence[dict[str, Any]], base: Path, out: Path, methods: Sequence[str], budget: str
) -> dict[str, Any]:
    """What `compare --json` says of rows."""
    out.mkdir(parents=True, exist_ok=True)
    data = write_rows(out / "rows.jsonl", rows)
    done = tunewise(
        "compare", data, "--base", base, "--out", out / "run", "--methods", ",".join(methods),
        "--instruction", INSTRUCTION, "--seeds", "1", "--budget", budget, "--dtype", "float32",
        "--questions", "none", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    told: dict[str, Any] = done.json
    return told


def marked(count: int) -> list[dict[str, Any]]:
    """Rows whose last character decides."""
    rows = planted_rows(count, seed=3, prefix="x", shortest=12)
    return [{"text": row.input, "label": row.output} for row in rows]


def scores(told: dict[str, Any]) -> dict[str, float]:
    """Test score by method."""
    return {entry["method"]: entry["test"]["value"] for entry in told["entries"]}


def test_only_demonstrations_help(prompted_folder: Path, tmp_path: Path) -> None:
    methods = ("majority", "zero_shot", "few_shot", *TRAINED)
    told = compared(marked(240), prompted_folder, tmp_path, methods, "10k")
    found = scores(told)
    assert found.pop("few_shot") > 0.95
    assert max(found.values()) < 0.7
    assert told["recommendation"]["method"] == "few_shot"
    assert told["recommendation"]["verdict"] == "adapt"
    assert "leave the weights alone" in told["recommendation"]["headline"]


def test_only_weights_help(tmp_path: Path) -> None:
    """A base that was never trained: no prompt brings it to look at the character that decides."""
    base = base_of("llama", scale=2.0)
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", marked(300))
    run = run_on(
        data, tmp_path / "run", tmp_path / "base", ("zero_shot", "few_shot", "full"),
        budget=220_000, instruction=INSTRUCTION,
        # The defaults are for models a thousand times as large, which need few passes.
        settings={"full": {"learning_rate": 3e-3, "epochs": 40}},
    )  # fmt: skip
    by_id = {row.id: row for row in run.rows}
    told = build_comparison(run.jobs.ground.task.spec, run.records, [], CONTEXT, by_id)
    found = {entry.method: entry.test.value for entry in told.entries}
    assert found.pop("full") > 0.9
    assert max(found.values()) < 0.75
    assert told.recommendation.method == "full"
    assert told.recommendation.verdict == "adapt"


def test_everything_ties(tiny_folder: Path, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    rows = [
        {
            "text": "".join(numbers.choice(list("abcdefgh"), size=14)),
            "label": ("no", "yes")[int(numbers.integers(2))],
        }
        for _ in range(400)
    ]
    methods = ("majority", "tfidf", "zero_shot", "few_shot", "lora")
    told = compared(rows, tiny_folder, tmp_path, methods, "20k")
    assert told["recommendation"]["method"] == "majority"
    assert told["recommendation"]["verdict"] in (
        "nothing beats a constant answer",
        "not enough data to tell",
    )
