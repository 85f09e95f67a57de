"""How surprised is the base by a text? Bits, with nothing attached to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewise.adaptation.attach import computed_positions, lower_parts
from tunewise.adaptation.readout import Readout, label_sequences
from tunewise.model.answers import Example, answer_losses, judged_positions
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import EMPTY_PREFIX
from tunewise.model.score import scoring_positions
from tunewise.numerics.calibration import batch_bias, row_cross_entropies
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row, TaskSpec


@dataclass(frozen=True, slots=True)
class Surprise:
    """Asks the base, with nothing attached, how surprised it is.

    Attributes:
        base: the base model.
        renderer: of the task's plain instruction.
    """

    base: Base
    renderer: Renderer

    @classmethod
    def of(cls, base: Base, spec: TaskSpec) -> Surprise:
        """For a task's plain instruction."""
        return cls(base, Renderer(base.tokenizer, spec, PromptText(spec.instruction)))

    def text(self, text: str) -> Example | None:
        """A text from its beginning; None where it is empty or does not fit the context."""
        return self._fitting(self._begin(), self._tokens(text), 0)

    def word(self, word: str, text: str, at: int) -> Example | None:
        """A word behind what stands before it in a text.

        Args:
            word: the word.
            text: that holds it.
            at: where it begins; 0 asks for the word alone.
        """
        lead = at > 0 and text[at - 1] == " "
        before = text[: at - 1] if lead else text[:at]
        tokens = self._tokens(f" {word}" if lead else word)
        return self._fitting((*self._begin(), *self._tokens(before)), tokens, 0)

    def answer(self, row: Row, *, with_row: bool) -> Example | None:
        """A row's answer behind instruction and row, or behind the instruction only."""
        text = row.input if with_row else ""
        tokens, answer = self.renderer.row_tokens(text), self.renderer.answer_tokens(row.output)
        return self._fitting(tokens, answer, len(self.renderer.shared_tokens))

    def label_bits(
        self, rows: Sequence[Row], frequencies: Sequence[float], ledger: Ledger
    ) -> list[float]:
        """Surprise at every row's label among the labels, in bits.

        The scores are calibrated to how often each label is given, without looking at answers:
        what the base likes or dislikes for its own sake is no knowledge of the rows.

        Args:
            rows: that fit the context.
            frequencies: (L,) of the labels, none of them 0.
            ledger: pays.
        """
        if not rows:
            return []
        ledger.charge(forward=computed_positions(self.renderer, ()))
        prefix = lower_parts(self.base, self.renderer, ())
        readout = Readout(self.base, self.renderer, prefix, ledger)
        scores = readout.label_scores([row.input for row in rows])
        labels = self.renderer.spec.labels
        gold = np.array([labels.index(row.output) for row in rows], dtype=np.int64)
        bias = batch_bias(scores, np.array(frequencies))
        return [float(nats) / math.log(2) for nats in row_cross_entropies(scores + bias, gold)]

    def label_positions(self, rows: Sequence[Row]) -> int:
        """Token passes of `label_bits`."""
        if not rows:
            return 0
        tokens = [self.renderer.row_tokens(row.input) for row in rows]
        before = computed_positions(self.renderer, ())
        return before + scoring_positions(self.base, tokens, label_sequences(self.renderer))

    def bits(self, examples: Sequence[Example], ledger: Ledger, *, prompted: bool) -> list[float]:
        """Surprise at every example's answer, in bits.

        Args:
            examples: from above.
            ledger: pays.
            prompted: whether the instruction stands before them.
        """
        if not examples:
            return []
        prefix = EMPTY_PREFIX
        if prompted:
            ledger.charge(forward=computed_positions(self.renderer, ()))
            prefix = lower_parts(self.base, self.renderer, ())
        losses = answer_losses(self.base, prefix, examples, ledger)
        return [loss / math.log(2) for loss in losses]

    def bits_where(
        self, examples: Sequence[Example | None], ledger: Ledger, *, prompted: bool
    ) -> list[float | None]:
        """`bits`, and None where there is no example."""
        kept = [each for each in examples if each is not None]
        told = iter(self.bits(kept, ledger, prompted=prompted))
        return [None if each is None else next(told) for each in examples]

    def positions(self, examples: Sequence[Example], *, prompted: bool) -> int:
        """Token passes of `bits`."""
        before = computed_positions(self.renderer, ()) if prompted else 0
        return before + judged_positions(self.base, examples) if examples else 0

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.base.tokenizer.encode(text, add_special_tokens=False))

    def _begin(self) -> tuple[int, ...]:
        """What a text begins behind: the tokenizer's own begin-of-text, else a line break.

        The token that opens a chat's turn would not do: behind it the name of a role is expected.
        """
        own = tuple(self.base.tokenizer.encode("", add_special_tokens=True))
        return own if own else self._tokens("\n")

    def _fitting(
        self, row: tuple[int, ...], answer: tuple[int, ...], before: int
    ) -> Example | None:
        room = self.base.context_length - before
        return Example(row, answer) if answer and len(row) + len(answer) <= room else None
