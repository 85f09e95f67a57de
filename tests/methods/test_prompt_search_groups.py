"""Searching prompts on rows that belong together: a group races or confirms, and is one unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.laws.fitting import base_of, context_of, fit, generation_view

from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.judge import sample_rows
from tunewise.methods._registry import find_method
from tunewise.methods.prompt_search import _Search
from tunewise.task.types import FitView

SMALL: dict[str, Any] = {"instructions": 3, "demonstrations": 0, "edits": 0, "kept": 1}
SETTINGS = find_method("prompt_search").Settings(**SMALL)
PLAIN = generation_view(validation=60)


def grouped(size: int) -> FitView:
    """The same rows in groups of so many, no two of one group beside each other."""
    count = len(PLAIN.validation) // size
    rows = (replace(row, group=f"text {at % count}") for at, row in enumerate(PLAIN.validation))
    return replace(PLAIN, validation=tuple(rows))


@pytest.mark.parametrize("seed", range(5))
def test_no_group_both_races_and_confirms(seed: int) -> None:
    search = _Search(context_of(base_of(), grouped(5), seed=seed), SETTINGS)
    races = {row.group for row in search.rows[: search.race_rows]}
    confirms = {row.group for row in search.rows[search.race_rows :]}
    assert (search.race_rows, len(races), len(confirms)) == (40, 8, 4)
    assert not races & confirms
    assert search.start.rows == search.rows


def test_rows_without_groups_are_parted_as_ever() -> None:
    search = _Search(context_of(base_of(), PLAIN), SETTINGS)
    assert search.rows == sample_rows(PLAIN.validation, 256, seed=0, shuffled=True)
    assert search.race_rows == 40


@pytest.mark.parametrize(("view", "kept"), [(grouped(5), True), (PLAIN, False)])
def test_falling_behind_is_told_by_groups(
    view: FitView, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows apart ten are worse by 5, two whole groups, and ten better by 3.

    That is worse by 1 in the mean: half an error of four groups, and more than one of twenty rows.
    """
    search = _Search(context_of(base_of(), view), SETTINGS)
    apart = search.rows[40:]
    names = sorted({row.group for row in apart if row.group is not None})
    worse = sorted(apart, key=lambda row: row.group not in names[:2])[:10]
    behind = [-9.0] * 40 + [5.0 if row in worse else -3.0 for row in apart]

    def planted(self: Contestant, until: int | None = None) -> Any:
        lost = np.zeros(60) if self.name == "start" else np.array(behind)
        return lost[: len(self.scores) if until is None else until]

    monkeypatch.setattr(Contestant, "losses", planted)
    notes = fit(base_of(), "prompt_search", view, **SMALL).provenance.notes
    confirmed = notes["confirmed"]
    assert confirmed["winner"] != "start"
    assert (confirmed["rows"], confirmed["loss"], confirmed["start_loss"]) == (20, 1.0, 0.0)
    assert (notes["kept"] != "start") == kept
