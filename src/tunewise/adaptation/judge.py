"""Judges a fit on validation rows: one number to minimise, and the metric where it is cheap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.readout import (
    Readout,
    adjusted_scores,
    choose_decoding,
    default_decoding,
    label_sequences,
)
from tunewise.model.loop import Example, judged_positions, mean_answer_loss
from tunewise.model.prefix import SharedPrefix
from tunewise.model.score import scoring_positions
from tunewise.numerics.calibration import cross_entropy
from tunewise.task.render import Renderer
from tunewise.task.types import Row


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

    def better_than(self, other: Verdict) -> bool:
        """Higher metric; where it ties or is not known, lower loss.

        What has no finite loss has blown up and is never better, whatever its answers hit.
        """
        if not (math.isfinite(self.loss) and math.isfinite(other.loss)):
            return math.isfinite(self.loss)
        if self.metric is not None and other.metric is not None and self.metric != other.metric:
            return self.metric > other.metric
        return self.loss < other.loss


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
        """Token passes of one judgement, padding included and the prefix left out."""
        if self.decoding.mode != "score":
            return judged_positions(self.examples)
        rows = [each.row for each in self.examples]
        return scoring_positions(rows, label_sequences(self.renderer))

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
        train = [row.output for row in self.context.view.train]
        frequencies = [train.count(label) / len(train) for label in labels]
        decoding = choose_decoding(scores, gold.tolist(), self.renderer, frequencies)
        adjusted = adjusted_scores(scores, self.renderer, decoding)
        metric = float((adjusted.argmax(axis=1) == gold).mean())
        return Verdict(metric, cross_entropy(adjusted, gold), decoding)


def example(renderer: Renderer, row: Row) -> Example:
    """A row as the loop takes it."""
    return Example(renderer.row_tokens(row.input), renderer.answer_tokens(row.output))


def sample_rows(rows: Sequence[Row], most: int, *, seed: int) -> tuple[Row, ...]:
    """At most so many rows, drawn by seed, in their own order."""
    if len(rows) <= most:
        return tuple(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size=most, replace=False)
    return tuple(rows[int(index)] for index in sorted(chosen))
