"""The gate on rows that belong together: a group is one unit, and how often it errs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, select
from tests.serve.registry.samples import registered

from tunewise.errors import RegistryError
from tunewise.numerics.intervals import mean_interval
from tunewise.serve.registry import gate, tables
from tunewise.serve.registry.gate import MARGIN, Scores, Verdict
from tunewise.serve.registry.records import Version
from tunewise.serve.registry.registry import Registry

GROUPS, SIZE = 40, 5
ROWS = [f"row{number}" for number in range(GROUPS * SIZE)]
CLUSTERS = {row: f"text {number // SIZE}" for number, row in enumerate(ROWS)}


@pytest.fixture
def two(registry: Registry, tmp_path: Path) -> tuple[Version, Version]:
    """The version in place, and a candidate."""
    found = [registered(registry, tmp_path, "acme/x", answer) for answer in ("good", "bad")]
    return found[0], found[1]


def scores(values: np.ndarray, clusters: dict[str, str] | None = None) -> Scores:
    return Scores("r", "accuracy", dict(zip(ROWS, values.tolist(), strict=True)), clusters=clusters)


def alike(numbers: np.random.Generator, share: float) -> np.ndarray:
    """0 or 1 for every row, as often 1 as the share says, half of the variance between groups."""
    levels = numbers.beta(share, 1 - share, GROUPS)
    return (numbers.random(GROUPS * SIZE) < np.repeat(levels, SIZE)).astype(float)


def judged(
    connection: Connection,
    two: tuple[Version, Version],
    old: np.ndarray,
    new: np.ndarray,
    *clusters: dict[str, str] | None,
) -> Verdict:
    """The gate's verdict on these scores alone; groups of the one in place, and the candidate's."""
    connection.execute(tables.measurements.delete())
    for version, values, told in zip(two, (old, new), clusters, strict=True):
        gate.attach(connection, version, scores(values, told), 0.0)
    return gate.judge(connection, two[1], two[0])


def test_what_is_worse_by_the_margin_passes_as_seldom_as_is_said(
    registry: Registry, two: tuple[Version, Version]
) -> None:
    """2.5% may pass; with rows taken for independent ones 12% did."""
    numbers, worlds = np.random.default_rng(3), 160
    passed = {"groups": 0, "rows": 0}
    held = {"groups": 0, "rows": 0}
    with registry.database.write(changes=False) as connection:
        for _ in range(worlds):
            old, new = alike(numbers, 0.75), alike(numbers, 0.75 - MARGIN)
            for name, told in (("groups", CLUSTERS), ("rows", None)):
                verdict = judged(connection, two, old, new, told, told)
                passed[name] += verdict.passed
                assert verdict.low is not None
                assert verdict.high is not None
                held[name] += verdict.low <= -MARGIN <= verdict.high
    assert passed["groups"] / worlds <= 0.045
    assert passed["rows"] / worlds >= 0.08
    assert held["groups"] / worlds >= 0.93
    assert held["rows"] / worlds <= 0.85


def test_its_limits_are_those_of_drawing_groups_by_hand(
    registry: Registry, two: tuple[Version, Version]
) -> None:
    numbers = np.random.default_rng(4)
    old, new = alike(numbers, 0.7), alike(numbers, 0.7)
    with registry.database.write(changes=False) as connection:
        found = judged(connection, two, old, new, CLUSTERS, CLUSTERS)
        alone = judged(connection, two, old, new, None, None)
    drawn = []
    for _ in range(4000):
        total = 0.0
        for group in numbers.integers(0, GROUPS, GROUPS).tolist():
            at = slice(group * SIZE, (group + 1) * SIZE)
            total += float((new[at] - old[at]).sum())
        drawn.append(total / len(ROWS))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    assert found.difference == alone.difference == pytest.approx(float((new - old).mean()))
    assert found.low is not None
    assert alone.low is not None
    assert found.low < alone.low - 0.02
    assert "on 200 rows of 40 groups" in found.reason
    assert alone.reason.endswith("on 200 rows")
    assert (found.n, alone.n) == (200, 200)


def test_groups_that_one_of_the_two_knows_count_and_the_coarser_ones_do(
    registry: Registry, two: tuple[Version, Version]
) -> None:
    numbers = np.random.default_rng(5)
    old, new = alike(numbers, 0.7), alike(numbers, 0.7)
    books = {row: f"book {number // 20}" for number, row in enumerate(ROWS)}
    with registry.database.write(changes=False) as connection:

        def told(*clusters: dict[str, str] | None) -> Verdict:
            return judged(connection, two, old, new, *clusters)

        both = told(CLUSTERS, CLUSTERS)
        # As with what was measured before groups were kept.
        assert told(None, CLUSTERS) == told(CLUSTERS, None) == both
        assert told(None, None) != both
        assert told(books, CLUSTERS) == told(CLUSTERS, books) == told(books, books)
        assert "of 10 groups" in told(books, None).reason


def test_groups_are_stored_as_numbers_and_shape_the_stored_limits(
    registry: Registry, two: tuple[Version, Version]
) -> None:
    values = alike(np.random.default_rng(6), 0.7)
    registry.attach(two[0], scores(values, CLUSTERS), "ann")
    registry.attach(two[0], scores(values), "ann")
    with registry.database.read() as connection:
        table = tables.measurements
        chosen = select(table.c.clusters).order_by(table.c.id)
        kept, unknown = connection.execute(chosen).scalars()
        missing = select(table.c.id).where(table.c.clusters.is_(None))
        assert len(connection.execute(missing).all()) == 1
    assert kept == {row: number // SIZE for number, row in enumerate(ROWS)}
    assert unknown is None
    rows, groups = registry.measured(two[0])
    assert not {"scores", "clusters", "version"} & (set(rows) | set(groups))
    for found, clusters in ((rows, None), (groups, list(CLUSTERS.values()))):
        wanted = mean_interval(values, clusters=clusters)
        assert (found["value"], found["low"], found["high"]) == pytest.approx(
            (wanted.value, wanted.low, wanted.high)
        )


@pytest.mark.parametrize("other", [{}, {"row0": "text 0"}, {**CLUSTERS, "more": "text 1"}])
def test_groups_of_other_rows_are_refused(
    other: dict[str, Any], registry: Registry, two: tuple[Version, Version]
) -> None:
    with pytest.raises(RegistryError, match="cannot be stored") as caught:
        registry.attach(two[0], scores(np.ones(len(ROWS)), other), "ann")
    assert f"groups of {len(other)} rows" in caught.value.found
    assert registry.measured(two[0]) == []
