"""Drawing validation rows: in two parts that share no group."""

from __future__ import annotations

import numpy as np
import pytest

from tunewise.adaptation.judge import parted_rows
from tunewise.task.types import Row


def rows_of(groups: list[str | None]) -> list[Row]:
    return [
        Row(f"r{at}", f"text {at}", "yes", ("yes",), group=name) for at, name in enumerate(groups)
    ]


def drawn(seed: int) -> list[Row]:
    """Groups of one to eight rows, and some rows in none, mixed."""
    random = np.random.default_rng(seed)
    groups: list[str | None] = [None] * 12
    for number in range(25):
        groups += [f"g{number}"] * int(random.integers(1, 9))
    return rows_of([groups[int(at)] for at in random.permutation(len(groups))])


@pytest.mark.parametrize("seed", range(12))
def test_no_group_stands_on_both_sides(seed: int) -> None:
    rows = drawn(seed)
    wanted = round(len(rows) * 2 / 3)
    # As they are, most groups are cut.
    cut = {row.group for row in rows[:wanted]} & {row.group for row in rows[wanted:]} - {None}
    assert len(cut) > 5
    order, count = parted_rows(rows, 2 / 3, seed=seed)
    first, last = order[:count], order[count:]
    assert {row.group for row in first} & {row.group for row in last} <= {None}
    assert sorted(row.id for row in order) == sorted(row.id for row in rows)
    assert abs(count - wanted) <= 4
    # Either part keeps its random order.
    for part in (first, last):
        places = [rows.index(row) for row in part]
        assert places == sorted(places)
    assert parted_rows(rows, 2 / 3, seed=seed) == (order, count)
    assert parted_rows(rows, 2 / 3, seed=seed + 1)[0] != order


def test_groups_are_drawn_alike_whatever_their_place() -> None:
    """Each of 30 groups confirms in a third of the drawings, the first as often as the last."""
    rows = rows_of([f"g{at % 30}" for at in range(120)])
    confirms = dict.fromkeys({row.group for row in rows}, 0)
    for seed in range(300):
        order, count = parted_rows(rows, 2 / 3, seed=seed)
        assert count == 80
        for name in {row.group for row in order[count:]}:
            confirms[name] += 1
    shares = np.array(list(confirms.values())) / 300
    assert shares.mean() == pytest.approx(1 / 3)
    # Four standard deviations of a share of 300.
    assert np.abs(shares - 1 / 3).max() < 4 * (2 / 9 / 300) ** 0.5


def test_rows_without_groups_stay_as_they_are() -> None:
    for groups in ([None] * 60, [f"g{at}" for at in range(60)]):
        rows = rows_of(groups)
        assert parted_rows(rows, 2 / 3, seed=0) == (tuple(rows), 40)


@pytest.mark.parametrize("sizes", [(60,), (30, 30), (20, 20, 20), (57, 1, 1, 1)])
def test_too_few_groups_make_no_two_parts(sizes: tuple[int, ...]) -> None:
    rows = rows_of([f"g{number}" for number, size in enumerate(sizes) for _ in range(size)])
    assert parted_rows(rows, 2 / 3, seed=0) == (tuple(rows), 60)


def test_all_rows_in_one_part_are_left_alone() -> None:
    rows = drawn(0)
    assert parted_rows(rows, 1.0, seed=0) == (tuple(rows), len(rows))
