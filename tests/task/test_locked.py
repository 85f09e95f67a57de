"""Fewer test rows: the same ones every time, in their order, and still locked."""

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


def test_more_rows_hold_the_fewer_and_say_how_many_are_left() -> None:
    test = LockedTest(rows_of(100))
    few, more = test.some(30), test.some(60)
    assert set(few.open()) < set(more.open())
    assert (test.left_out, few.left_out, more.left_out, more.some(20).left_out) == (0, 70, 40, 80)


def test_few_rows_of_many_groups_rather_than_a_few_whole_ones() -> None:
    kept = LockedTest(rows_of(840, group=21)).some(200).open()
    assert len(kept) == 200
    assert len({row.group for row in kept}) > 35


def test_a_row_is_as_likely_as_any_other() -> None:
    # Drawn from sets of many lengths, places of the first half come as often as of the second.
    first = total = 0
    for count in range(50, 150):
        rows = rows_of(count)
        kept = LockedTest(rows).some(20).open()
        first += sum(row in set(kept) for row in rows[: count // 2])
        total += len(kept)
    assert 0.45 < first / total < 0.55
