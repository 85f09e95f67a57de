"""A race of text prompts on ever more validation rows, inside the budget of one fit.

All prompts are scored on a few rows, the better half on twice as many, and so on; rows are shared,
so that prompts are compared row by row. The shared part of a prompt is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewise.adaptation.attach import computed_positions, lower_parts
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Verdict, example, label_frequencies, label_verdict
from tunewise.adaptation.parts import Part
from tunewise.adaptation.readout import Readout, default_decoding, label_sequences
from tunewise.model.ledger import Ledger
from tunewise.model.loop import answer_losses, judged_positions
from tunewise.model.prefix import SharedPrefix
from tunewise.model.score import scoring_positions
from tunewise.numerics.calibration import Floats, batch_bias, row_cross_entropies
from tunewise.numerics.racing import cheapest_within_noise, survivors
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row


class Contestant:
    """One prompt, and what it has scored so far.

    Args:
        context: the fit; its ledger pays.
        name: what to call the prompt.
        prompt: the prompt.
        others: the parts it stands with; those inside the model are attached already.
        rows: rows of the race, in the order they are scored.
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
        self.price = sum(len(each.row) for each in self.examples) / len(rows)
        self.decoding = default_decoding(context.view.spec, self.renderer, context.view.train)
        self.scores: list[Any] = []
        self._others, self._rows = tuple(others), tuple(rows)
        self._prefix: SharedPrefix | None = None
        longest = len(self.renderer.shared_tokens) + max(len(e.inputs) for e in self.examples)
        self.fits = longest < context.base.context_length

    @property
    def by_label(self) -> bool:
        """Whether all labels are scored, rather than the right answer alone."""
        return self.decoding.mode == "score"

    def cost(self, until: int) -> int:
        """Token passes of scoring on to so many rows."""
        new = self.examples[len(self.scores) : until]
        first = 0 if self._prefix is not None else computed_positions(self.renderer, self._others)
        if not self.by_label:
            return first + judged_positions(self.context.base, new)
        labels = label_sequences(self.renderer)
        return first + scoring_positions(self.context.base, [each.row for each in new], labels)

    def extend(self, until: int) -> None:
        """Score on to so many rows."""
        base, ledger = self.context.base, self.context.ledger
        if self._prefix is None:
            ledger.charge(forward=computed_positions(self.renderer, self._others))
            self._prefix = lower_parts(base, self.renderer, self._others)
        begin = len(self.scores)
        if self.by_label:
            readout = Readout(base, self.renderer, self._prefix, ledger)
            inputs = [row.input for row in self._rows[begin:until]]
            self.scores += list(readout.label_scores(inputs))
        else:
            self.scores += answer_losses(base, self._prefix, self.examples[begin:until], ledger)

    def losses(self) -> Floats:
        """(n,) loss of every row scored so far.

        Label scores are taken to the labels' training frequencies first: on a few rows a prompt's
        preference for a label, which calibration removes, would outweigh what it knows.
        """
        if not self.by_label:
            return np.array(self.scores)
        scores = np.array(self.scores)
        frequencies = np.array(label_frequencies(self.context.view))
        return row_cross_entropies(scores + batch_bias(scores, frequencies), self._gold())

    def verdict(self) -> Verdict:
        """What the rows scored so far say, with the readout chosen on them."""
        if not self.by_label:
            count = sum(len(each.answer) for each in self.examples[: len(self.scores)])
            return Verdict(None, sum(self.scores) / count, self.decoding)
        return label_verdict(
            np.array(self.scores),
            self._gold(),
            self.renderer,
            label_frequencies(self.context.view),
        )

    def _gold(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        labels = self.context.view.spec.labels
        return np.array([labels.index(row.output) for row in self._rows[: len(self.scores)]])


@dataclass(frozen=True, slots=True)
class RaceOutcome:
    """How a race ended.

    Attributes:
        winner: the cheapest prompt within the noise of the best; None where none was affordable.
        tried: for every prompt its name, the rows it was scored on, its loss on them, and why it
            was left out if it was; JSON values.
    """

    winner: Contestant | None
    tried: tuple[dict[str, Any], ...]


def race(contestants: Sequence[Contestant], *, first: int, ledger: Ledger) -> RaceOutcome:
    """Run the race.

    Args:
        contestants: all on the same rows. Where the budget ends, the dearer ones are left out.
        first: rows that all are scored on; at every turn half of them go on, to twice the rows.
        ledger: says what is affordable.
    """
    left_out = {one.name: "longer than the context" for one in contestants if not one.fits}
    alive = sorted((one for one in contestants if one.fits), key=lambda one: one.price)
    standing: list[Contestant] = []
    most = max((len(one.examples) for one in alive), default=0)
    until = min(first, most)
    while alive:
        scored = [one for one in alive if _extended(one, until, ledger)]
        left_out |= {one.name: "budget" for one in alive if one not in scored}
        if not scored:
            break
        standing = scored
        if until == most:
            break
        losses = np.array([one.losses() for one in scored])
        kept = survivors(losses, math.ceil(len(scored) / 2))
        alive = [one for index, one in enumerate(scored) if index in kept]
        until = min(2 * until, most)
    winner = _winner(standing)
    return RaceOutcome(winner, tuple(_told(one, left_out.get(one.name)) for one in contestants))


def _extended(one: Contestant, until: int, ledger: Ledger) -> bool:
    if not ledger.covers(one.cost(until)):
        return False
    one.extend(until)
    one.context.log.progress(ledger.spent, ledger.limit, f"{one.name}: {until} rows")
    return True


def _winner(standing: Sequence[Contestant]) -> Contestant | None:
    if not standing:
        return None
    losses = np.array([one.losses() for one in standing])
    prices = np.array([one.price for one in standing])
    return standing[cheapest_within_noise(losses, prices)]


def _told(one: Contestant, left_out: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"candidate": one.name, "rows": len(one.scores)}
    if one.scores:
        told["loss"] = float(one.losses().mean())
    if left_out is not None:
        told["left_out"] = left_out
    return told
