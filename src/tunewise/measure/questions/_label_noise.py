"""Candidates for wrong labels: found by confident learning, listed for a person to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewise.measure.evidence import TextTable
from tunewise.task.types import Row

_EXCERPT = 160


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row whose label looks wrong.

    Attributes:
        row: the row.
        split: "train", "validation" or "test".
        confidence: probability of its label.
        better: the likeliest label.
        better_confidence: its probability.
    """

    row: Row
    split: str
    confidence: float
    better: str
    better_confidence: float


def label_issues(
    rows: Sequence[Row],
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    splits: Mapping[str, str],
) -> list[Candidate]:
    """The rows whose label is contradicted with confidence.

    Args:
        rows: n of them.
        probabilities: (n, L) of models that have not seen the row.
        labels: of the columns.
        splits: the split of every row by its id.
    """
    # It takes seconds to import, and most questions do without.
    from cleanlab.filter import find_label_issues

    given = np.array([labels.index(row.output) for row in rows])
    found = find_label_issues(
        given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    candidates = []
    for index in found:
        own, best = int(given[index]), int(probabilities[index].argmax())
        candidates.append(
            Candidate(
                rows[index],
                splits[rows[index].id],
                float(probabilities[index][own]),
                labels[best],
                float(probabilities[index][best]),
            )
        )
    return candidates


def candidate_table(candidates: Sequence[Candidate], shown: int) -> TextTable:
    """Candidates for a person to read.

    Args:
        candidates: the surest first.
        shown: lines at most.
    """
    lines = tuple(
        (
            each.row.origin if each.row.origin else each.row.id,
            each.split,
            _excerpt(each.row.input),
            f"{each.row.output} ({100 * each.confidence:.0f}%)",
            f"{each.better} ({100 * each.better_confidence:.0f}%)",
        )
        for each in candidates[:shown]
    )
    title = "Labels that look wrong, the surest first"
    if len(candidates) > shown:
        title += f" ({shown} of {len(candidates)})"
    return TextTable(title, ("row", "split", "text", "label", "looks like"), lines)


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"
