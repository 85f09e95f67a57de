"""Judges a fit on validation rows: one number to minimise, and the metric where it is cheap."""

from __future__ import annotations

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
from tunewise.task.types import FitView, Row


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
        return label_verdict(scores, gold, self.renderer, label_frequencies(self.context.view))


def label_verdict(
    scores: Floats, gold: NDArray[np.int64], renderer: Renderer, frequencies: Sequence[float]
) -> Verdict:
    """The verdict of label scores (n, L), with the readout chosen on these rows."""
    decoding = choose_decoding(scores, gold.tolist(), renderer, frequencies)
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
