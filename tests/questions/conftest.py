"""What the tests of the questions share: one thread, and one small run that is measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.questions.running import Run, run_on


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Other tests run beside these, and sums in another order give other bytes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """Every rung of the ladder on eighty rows, two seeds. Tests change nothing in its folder."""
    folder = tmp_path_factory.mktemp("small-run")
    data = write_rows(folder / "rows.jsonl", two_labels(80))
    methods = ("tfidf", "zero_shot", "few_shot", "soft_prompt", "prefix", "lora", "full")
    return run_on(data, folder / "run", tiny_folder, methods, seeds=(0, 1))
