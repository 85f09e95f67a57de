"""A text prompt and what it has scored on validation rows so far.

Rows are shared by all that are compared, so that prompts are compared row by row. The shared part
of a prompt is computed once, and what it has scored stays with it: whoever goes on with it pays for
the new rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewise.adaptation.attach import computed_positions, lower_parts, standing_positions
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Verdict, example, label_frequencies, label_verdict
from tunewise.adaptation.parts import Part
from tunewise.adaptation.readout import Readout, default_decoding, label_sequences
from tunewise.model.answers import answer_losses, judged_positions
from tunewise.model.prefix import SharedPrefix
from tunewise.model.score import scoring_positions
from tunewise.numerics.calibration import Floats, batch_bias, row_cross_entropies
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row, clusters_of

# What a shared position costs with every request, in positions of the row. It is computed once, but
# kept, read and attended to by every row: steps with 20 and with 400 shared positions before rows
# of some 30 tokens differ by about a row's own cost (docs/log.md).
SHARED_PRICE = 0.05


class Contestant:
    """One prompt, and what it has scored so far.

    Args:
        context: the fit; its ledger pays.
        name: what to call the prompt.
        prompt: the prompt.
        others: the parts it stands with; those inside the model are attached already.
        rows: rows of the race, in the order they are scored.

    Attributes:
        rows: as given.
        row_cost: positions of a row in the mean, its answer left out.
        standing: positions that stand before every row.
        price: of a request, in positions: the row's own and a twentieth of the shared ones, to
            two digits, since a difference of a few tokens decides nothing.
        fits: whether all rows fit the context.
    """

    def __init__(
        self,
        context: FitContext,
        name: str,
        prompt: PromptText,
        others: Sequence[Part],
        rows: Sequence[Row],
    ) -> None:
        self.context, self.name, self.prompt = context, name, prompt
        self.renderer = Renderer(context.base.tokenizer, context.view.spec, prompt)
        self.examples = tuple(example(self.renderer, row) for row in rows)
        own = sum(len(each.row) for each in self.examples) / len(rows)
        self.row_cost = own
        self.standing = before = standing_positions(self.renderer, others)
        self.price = float(f"{own + SHARED_PRICE * before:.2g}")
        self.decoding = default_decoding(context.view.spec, self.renderer, context.view.train)
        self.scores: list[Any] = []
        self._others, self.rows = tuple(others), tuple(rows)
        self._prefix: SharedPrefix | None = None
        longest = before + max(len(e.inputs) for e in self.examples)
        self.fits = longest < context.base.context_length

    @property
    def by_label(self) -> bool:
        """Whether all labels are scored, rather than the right answer alone."""
        return self.decoding.mode == "score"

    def cost(self, until: int) -> int:
        """Token passes of scoring on to so many rows."""
        if until <= len(self.scores):
            return 0
        new = self.examples[len(self.scores) : until]
        if self.by_label:
            return self._label_cost([each.row for each in new])
        return self._prefix_cost() + judged_positions(self.context.base, new)

    def extend(self, until: int) -> None:
        """Score on to so many rows; nothing where they are scored already."""
        if until <= len(self.scores):
            return
        begin = len(self.scores)
        if self.by_label:
            self.scores += list(self.label_scores([row.input for row in self.rows[begin:until]]))
        else:
            base, ledger = self.context.base, self.context.ledger
            examples = self.examples[begin:until]
            self.scores += answer_losses(base, self._lowered(), examples, ledger)

    def label_scores(self, inputs: Sequence[str]) -> Floats:
        """(n, L) scores of all labels behind these inputs; the ledger pays."""
        base, ledger = self.context.base, self.context.ledger
        return Readout(base, self.renderer, self._lowered(), ledger).label_scores(inputs)

    def holds(self, inputs: Sequence[str]) -> bool:
        """Whether these inputs, with any label, fit the context behind the prompt."""
        longest = max(len(label) for label in label_sequences(self.renderer))
        room = self.context.base.context_length - self.standing - longest
        return all(len(self.renderer.row_tokens(text)) < room for text in inputs)

    def label_cost(self, inputs: Sequence[str]) -> int:
        """Token passes of `label_scores`."""
        return self._label_cost([self.renderer.row_tokens(text) for text in inputs])

    def reach(self, fewest: int) -> int | None:
        """Rows that it can be scored on with what the ledger has; None where below `fewest`."""
        for until in range(len(self.examples), fewest - 1, -1):
            if self.context.ledger.covers(self.cost(until)):
                return until
        return None

    def release(self) -> None:
        """Let go of the computed prefix; scoring on would compute it again."""
        self._prefix = None

    def losses(self, until: int | None = None) -> Floats:
        """(n,) loss of every row scored so far, or of the first `until` of them.

        Label scores are taken to the labels' training frequencies first: on a few rows a prompt's
        preference for a label, which calibration removes, would outweigh what it knows.
        """
        scores = np.array(self.scores[:until])
        return self.losses_of(scores) if self.by_label else scores

    def losses_of(self, scores: Floats) -> Floats:
        """`losses` of other label scores (n, L) than its own, on the first n rows."""
        frequencies = np.array(label_frequencies(self.context.view))
        gold = self._gold()[: len(scores)]
        return row_cross_entropies(scores + batch_bias(scores, frequencies), gold)

    def verdict(self, until: int | None = None) -> Verdict:
        """What the rows scored so far say (the first `until`), with the readout chosen on them."""
        scores = self.scores[:until]
        if not self.by_label:
            count = sum(len(each.answer) for each in self.examples[: len(scores)])
            return Verdict(None, sum(scores) / count, self.decoding)
        return self.verdict_of(np.array(scores))

    def verdict_of(self, scores: Floats, content_free: Floats | None = None) -> Verdict:
        """`verdict` of other label scores (n, L) than its own, on the first n rows.

        Args:
            scores: the scores.
            content_free: (m, L) of inputs without content, see `choose_decoding`.
        """
        frequencies, count = label_frequencies(self.context.view), len(scores)
        gold, clusters = self._gold()[:count], clusters_of(self.rows[:count])
        return label_verdict(scores, gold, self.renderer, frequencies, clusters, content_free)

    def _prefix_cost(self) -> int:
        return 0 if self._prefix is not None else computed_positions(self.renderer, self._others)

    def _label_cost(self, rows: Sequence[Sequence[int]]) -> int:
        labels = label_sequences(self.renderer)
        return self._prefix_cost() + scoring_positions(self.context.base, rows, labels)

    def _lowered(self) -> SharedPrefix:
        """What stands before the rows, computed once."""
        if self._prefix is None:
            self.context.ledger.charge(forward=self._prefix_cost())
            self._prefix = lower_parts(self.context.base, self.renderer, self._others)
        return self._prefix

    def _gold(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        labels = self.context.view.spec.labels
        return np.array([labels.index(row.output) for row in self.rows[: len(self.scores)]])


def fitting_rows(context: FitContext) -> Sequence[Row]:
    """The validation rows that fit the context behind the start; all of them where none does.

    One row that is too long would leave every prompt out.

    Args:
        context: the fit.
    """
    rows, prompt = context.view.validation, context.starting_prompt()
    renderer = Renderer(context.base.tokenizer, context.view.spec, prompt)
    room = context.base.context_length - standing_positions(renderer, context.starting_parts())
    fitting = [
        row
        for row in rows
        if len(renderer.row_tokens(row.input)) + len(renderer.answer_tokens(row.output)) <= room
    ]
    return fitting if fitting else rows
