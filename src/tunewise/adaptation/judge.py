"""Judges a fit on validation rows: one number to minimise, and the metric where it is cheap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.readout import (
    Readout,
    adjusted_scores,
    choose_decoding,
    default_decoding,
    label_sequences,
)
from tunewise.model.answers import Example, judged_positions, mean_answer_loss
from tunewise.model.prefix import SharedPrefix
from tunewise.model.score import scoring_positions
from tunewise.numerics.calibration import Floats, cross_entropy
from tunewise.task.render import Renderer
from tunewise.task.types import FitView, Row, clusters_of


@dataclass(frozen=True, slots=True)
class Verdict:
    """What validation rows say.

    Attributes:
        metric: share of right answers, where scoring labels gives it; else None.
        loss: cross-entropy over the labels, or per answer token.
        decoding: the readout chosen on these rows.
    """

    metric: float | None
    loss: float
    decoding: Decoding


class Judge:
    """Judges prefixes on a fixed, seeded part of the validation rows.

    Args:
        context: the fit; its ledger pays for judging.
        renderer: turns rows into tokens.
        most_rows: rows at most.
    """

    def __init__(self, context: FitContext, renderer: Renderer, *, most_rows: int) -> None:
        self.context, self.renderer = context, renderer
        self.rows = sample_rows(context.view.validation, most_rows, seed=context.seed)
        self.examples = tuple(example(renderer, row) for row in self.rows)
        self.decoding = default_decoding(context.view.spec, renderer, context.view.train)

    @property
    def cost(self) -> int:
        """Token passes of one judgement, the prefix left out."""
        if self.decoding.mode != "score":
            return judged_positions(self.context.base, self.examples)
        rows = [each.row for each in self.examples]
        return scoring_positions(self.context.base, rows, label_sequences(self.renderer))

    def verdict(self, prefix: SharedPrefix) -> Verdict:
        """Judge the base as it stands behind this prefix."""
        base, ledger = self.context.base, self.context.ledger
        if self.decoding.mode != "score":
            loss = mean_answer_loss(base, prefix, self.examples, ledger)
            return Verdict(None, loss, self.decoding)
        labels = self.context.view.spec.labels
        readout = Readout(base, self.renderer, prefix, ledger)
        scores = readout.label_scores([row.input for row in self.rows])
        gold = np.array([labels.index(row.output) for row in self.rows])
        frequencies = label_frequencies(self.context.view)
        return label_verdict(scores, gold, self.renderer, frequencies, clusters_of(self.rows))


def label_verdict(
    scores: Floats,
    gold: NDArray[np.int64],
    renderer: Renderer,
    frequencies: Sequence[float],
    clusters: Sequence[str] | None = None,
    content_free: Floats | None = None,
) -> Verdict:
    """The verdict of label scores (n, L), with the readout chosen on these rows."""
    decoding = choose_decoding(scores, gold.tolist(), renderer, frequencies, clusters, content_free)
    adjusted = adjusted_scores(scores, renderer, decoding)
    metric = float((adjusted.argmax(axis=1) == gold).mean())
    return Verdict(metric, cross_entropy(adjusted, gold), decoding)


def label_frequencies(view: FitView) -> list[float]:
    """Share of every label in the training rows."""
    train = [row.output for row in view.train]
    return [train.count(label) / len(train) for label in view.spec.labels]


def example(renderer: Renderer, row: Row) -> Example:
    """A row as the loop takes it."""
    return Example(renderer.row_tokens(row.input), renderer.answer_tokens(row.output))


def sample_rows(
    rows: Sequence[Row], most: int, *, seed: int, shuffled: bool = False
) -> tuple[Row, ...]:
    """At most so many rows, drawn by seed.

    Args:
        rows: to draw from.
        most: rows at most.
        seed: of the draw.
        shuffled: in random order, so that any beginning is a fair sample; else in their own.
    """
    if len(rows) <= most and not shuffled:
        return tuple(rows)
    size = min(most, len(rows))
    chosen = np.random.default_rng(seed).choice(len(rows), size=size, replace=False)
    return tuple(rows[int(index)] for index in (chosen if shuffled else sorted(chosen)))


def parted_rows(rows: Sequence[Row], share: float, *, seed: int) -> tuple[tuple[Row, ...], int]:
    """Rows in an order whose two parts share no group: what one part chose, the other confirms.

    Within a part the order stays, so that its beginnings hold rows of as many groups as ever.

    Args:
        rows: in random order.
        share: of the rows, in the first part; 1 for no second one.
        seed: of drawing the groups.

    Returns:
        The rows, and how many make up the first part: as near as whole groups allow. All of them
        where a part would have one group, or not half of its rows. Rows in no group stay as they
        are.
    """
    names, first = clusters_of(rows), round(share * len(rows))
    if names is None or first == len(rows):
        return tuple(rows), first
    sizes = list(Counter(names).items())
    drawn: set[str] = set()
    count = 0
    for place in np.random.default_rng([seed, 1]).permutation(len(sizes)):
        unit, size = sizes[int(place)]
        if abs(count + size - first) < abs(count - first):
            drawn.add(unit)
            count += size
    halves = 2 * count >= first and 2 * (len(rows) - count) >= len(rows) - first
    if not halves or not 2 <= len(drawn) <= len(sizes) - 2:
        return tuple(rows), len(rows)
    order = sorted(range(len(rows)), key=lambda at: names[at] not in drawn)
    return tuple(rows[at] for at in order), count
