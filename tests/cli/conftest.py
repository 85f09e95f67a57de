"""What the tests of the command line share: one thread, one finished run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cli.planted import two_labels, write_rows
from tests.cli.terminal import Done, tunewise

RUN = ("--all", "--seeds", "2", "--budget", "20k")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Other tests run beside these, and sums in another order give other bytes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Finished:
    """A finished run: its data, its folder, what the command said, and the flags it was given."""

    data: Path
    out: Path
    done: Done
    flags: tuple[str, ...]

    def adaptation(self, method: str) -> Path:
        """The folder of a method's first seed."""
        return self.out / "adaptations" / f"{method}-seed0"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Finished:
    """`compare` with every method on sixty tiny rows. Tests read it and change nothing."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_rows(folder / "rows.jsonl", two_labels(60))
    flags = (*RUN, "--base", str(tiny_folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWISE_HOME", str(folder / "home"))
        done = tunewise("compare", data, "--out", folder / "run", *flags, "--json")
    assert done.code == 0, done.err
    return Finished(data, folder / "run", done, flags)
