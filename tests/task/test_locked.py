"""Fewer test rows: the same ones every time, groups whole, in their order, and still locked."""

from __future__ import annotations

from tunewise.task.types import LockedTest, Row


def rows_of(count: int, *, group: int | None = None) -> tuple[Row, ...]:
    return tuple(
        Row(f"r{n}", f"text {n}", "a", ("a",), group=None if group is None else f"g{n // group}")
        for n in range(count)
    )


def test_so_many_rows_are_drawn_in_their_order() -> None:
    rows = rows_of(100)
    some = LockedTest(rows).some(30)
    kept = some.open()
    assert len(some) == len(kept) == 30
    assert kept != rows[:30]
    assert [row for row in rows if row in set(kept)] == list(kept)
    assert LockedTest(rows).some(30).open() == kept


def test_all_rows_are_the_test_itself() -> None:
    test = LockedTest(rows_of(10))
    assert test.some(10) is test
    assert test.some(11) is test
    assert test.times_opened == 0


def test_rows_of_a_group_stay_together() -> None:
    rows = rows_of(100, group=7)
    kept = LockedTest(rows).some(30).open()
    assert 30 <= len(kept) < 37
    groups = {row.group for row in kept}
    assert len(kept) == sum(row.group in groups for row in rows)


def test_a_row_is_as_likely_as_any_other() -> None:
    # Drawn from sets of many lengths, places of the first half come as often as of the second.
    first = total = 0
    for count in range(50, 150):
        rows = rows_of(count)
        kept = LockedTest(rows).some(20).open()
        first += sum(row in set(kept) for row in rows[: count // 2])
        total += len(kept)
    assert 0.45 < first / total < 0.55
