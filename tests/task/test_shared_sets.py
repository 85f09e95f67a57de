"""Real data sets of every kind: columns and kind are detected right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunewise.task.options import TaskOptions
from tunewise.task.task import load_task
from tunewise.task.types import Kind

FOLDER = Path(__file__).parents[3] / "shared" / "data"
SETS = {
    "reviews3": (Kind.CLASSIFICATION, 2, {"domain"}),
    "financial_phrasebank": (Kind.CLASSIFICATION, 3, set()),
    "banking77": (Kind.CLASSIFICATION, 77, set()),
    "clinc150": (Kind.CLASSIFICATION, 151, {"domain"}),
    "tos_clause": (Kind.CLASSIFICATION, 10, {"domain"}),
    "snips_json": (Kind.JSON, 0, {"domain"}),
    "mams_aspects": (Kind.JSON, 0, set()),
    "mts_note": (Kind.GENERATION, 0, {"domain"}),
    "slogans": (Kind.GENERATION, 0, {"domain"}),
    "viggo": (Kind.GENERATION, 0, {"references"}),
    "xquad_en": (Kind.SHORT_ANSWER, 0, set()),
}


@pytest.mark.real
@pytest.mark.parametrize("name", SETS)
def test_detected_right(name: str) -> None:
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not at ../shared/data")
    kind, labels, side = SETS[name]
    task = load_task(str(folder), TaskOptions())
    assert (task.spec.kind, len(task.spec.labels)) == (kind, labels)
    said = " ".join(task.check.column_explanations)
    assert "input is 'input', output is 'output'" in said
    found = {role for role in ("references", "domain", "group") if f"{role} is" in said}
    assert found == side
    rows = task.test.open()
    assert all(row.id.startswith(f"{name}-test-") for row in rows)
    assert ("domain" in side) == all(row.domain is not None for row in rows)
    assert ("references" in side) == any(len(row.references) > 1 for row in rows)
    after, before = task.check.rows_after, task.check.rows_before
    # Official splits are kept; what goes are repeated rows and near-duplicates of later splits.
    assert all(0.9 * before[split] < after[split] <= before[split] for split in before)
