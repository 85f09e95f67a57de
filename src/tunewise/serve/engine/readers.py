"""What is read from a row's logits: an answer token by token, the labels at once, an embedding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.nn import functional

from tunewise.adaptation.readout import adjusted_scores
from tunewise.errors import RunError
from tunewise.model.decode import Constraint, LabelState
from tunewise.model.score import LabelTree
from tunewise.numerics.calibration import Floats, softmax
from tunewise.serve.contract import Finished, Piece, Reason, TokenChoice, Usage
from tunewise.serve.engine.choose import Chooser, Chosen, Likeliest
from tunewise.serve.engine.residents import Resident
from tunewise.serve.engine.text import GrowingText


@dataclass(frozen=True, slots=True)
class Told:
    """What a reader says after a pass.

    Attributes:
        pieces: new parts of the answer.
        feed: the token to run next; None where the row has ended.
        reason: why it ended.
    """

    pieces: tuple[Piece, ...] = ()
    feed: int | None = None
    reason: Reason = "stop"


class Reader(Protocol):
    """Reads one row.

    Attributes:
        tree: labels that run behind the row's last token, or None.
        pooled: whether hidden states are read instead of logits.
        generated: tokens generated so far.
        open: tokens of a free answer that may still come; 0 where nothing is free.
    """

    tree: LabelTree | None
    pooled: bool
    generated: int

    @property
    def open(self) -> int:
        """See above."""
        ...

    def take(self, outcome: Tensor, best: Sequence[Likeliest]) -> Told:
        """Read what a pass gave.

        Args:
            outcome: (wanted, V) logits, or the (1, D) sum of hidden states.
            best: the likeliest token of each of the wanted places.
        """
        ...

    def finished(self, reason: Reason, usage: Usage) -> Finished:
        """The end of the request."""
        ...


@dataclass(slots=True)
class Generation:
    """An answer, token by token.

    Attributes:
        chooser: chooses the tokens.
        text: the text so far.
        ends: tokens that end an answer.
        limit: tokens at most.
        token_text: text of one token; None where no log-probabilities are asked.
        constraint: what may come next, or None.
        labels: the task's labels, where the constraint walks through their trie.
        rated: whether the answer's probability is told, as for the adaptation's own readout.
    """

    chooser: Chooser
    text: GrowingText
    ends: frozenset[int]
    limit: int
    token_text: Callable[[int], str] | None = None
    constraint: Constraint | None = None
    labels: tuple[str, ...] = ()
    rated: bool = False
    tree: LabelTree | None = None
    pooled: bool = False
    generated: int = 0
    log_probability: float = 0.0
    _label: str = field(default="", init=False)

    @property
    def open(self) -> int:
        """See `Reader`."""
        return 0 if self.labels else self.limit - self.generated

    def take(self, outcome: Tensor, best: Sequence[Likeliest]) -> Told:
        """See `Reader.take`."""
        allowed = None if self.constraint is None else self.constraint.allowed()
        return self.took(self.chooser.choose(outcome[-1], best[-1], allowed))

    def took(self, chosen: Chosen) -> Told:
        """Go on with a token, whoever chose it.

        Args:
            chosen: the token; one that the constraint allows.
        """
        token = chosen.token
        self.generated += 1
        self.log_probability += chosen.log_probability
        if self.constraint is not None:
            self.constraint.advance(token)
        if token in self.ends:
            return self._ended("stop", ())
        fresh = self.text.push(token)
        choices: tuple[TokenChoice, ...] = ()
        if self.token_text is not None:
            say = self.token_text
            top = tuple((each, say(each), value) for each, value in chosen.top)
            choices = (TokenChoice(token, say(token), chosen.log_probability, top),)
        if self.text.stopped or (self.constraint is not None and self.constraint.finished):
            return self._ended("stop", choices, fresh)
        if self.generated >= self.limit:
            return self._ended("length", choices, fresh)
        shown = bool(fresh or choices) and not self.labels
        return Told((Piece(fresh, choices),) if shown else (), token)

    def finished(self, reason: Reason, usage: Usage) -> Finished:
        """See `Reader.finished`."""
        text = self._label if self.labels else self.text.text
        whole = self.rated and reason in {"stop", "length"}
        return Finished(reason, text, usage, math.exp(self.log_probability) if whole else None)

    def _ended(self, reason: Reason, choices: tuple[TokenChoice, ...], fresh: str = "") -> Told:
        rest = fresh + self.text.rest()
        if self.labels and isinstance(self.constraint, LabelState):
            rest = self._label = self.labels[self.constraint.label]
            reason = "stop"
        shown = bool(rest or choices)
        return Told((Piece(rest, choices),) if shown else (), None, reason)


@dataclass(slots=True)
class Scoring:
    """All labels at once.

    Attributes:
        resident: the adaptation; it has labels.
        answered: whether the likeliest label is the answer, as for the adaptation's own readout.
        scores: (1, L) once they are there, before any calibration.
    """

    resident: Resident
    answered: bool
    tree: LabelTree | None = None
    pooled: bool = False
    generated: int = 0
    open: int = 0
    scores: Floats | None = field(default=None, init=False)
    _probabilities: Any = field(default=None, init=False)

    def take(self, outcome: Tensor, best: Sequence[Likeliest]) -> Told:
        """See `Reader.take`."""
        if self.tree is None:
            return Told()
        summed = self.tree.sums(outcome.log_softmax(dim=-1)[None])
        return self.scored(np.asarray(summed.double().cpu().numpy()))

    def scored(self, scores: Floats) -> Told:
        """Go on with the labels' log-probabilities, whoever found them.

        Args:
            scores: (1, L) sums over each label's tokens, before any calibration.

        Raises:
            RunError: they are not finite numbers.
        """
        resident = self.resident
        if resident.renderer is None or resident.decoding is None:
            return Told()
        if not np.isfinite(scores).all():
            raise RunError("the model gave no finite numbers for this request")
        self.scores = scores
        self._probabilities = softmax(adjusted_scores(scores, resident.renderer, resident.decoding))
        return Told((Piece(self._best[0]),) if self.answered else ())

    def finished(self, reason: Reason, usage: Usage) -> Finished:
        """See `Reader.finished`."""
        if self._probabilities is None or self.resident.spec is None:
            return Finished(reason, "", usage)
        labels = self.resident.spec.labels
        pairs = zip(labels, self._probabilities[0].tolist(), strict=True)
        text, probability = self._best if self.answered else ("", None)
        return Finished(reason, text, usage, probability, labels=tuple(pairs))

    @property
    def _best(self) -> tuple[str, float | None]:
        row = self._probabilities[0]
        index = int(row.argmax())
        spec = self.resident.spec
        return ("" if spec is None else spec.labels[index]), float(row[index])


@dataclass(slots=True)
class Embedding:
    """The mean of the last hidden states over the row's own tokens, of length one."""

    tree: LabelTree | None = None
    pooled: bool = True
    generated: int = 0
    open: int = 0
    _sum: Tensor | None = field(default=None, init=False)

    def take(self, outcome: Tensor, best: Sequence[Likeliest]) -> Told:
        """See `Reader.take`; called for every piece of the row."""
        if not outcome.isfinite().all():
            raise RunError("the model gave no finite numbers for this request")
        self._sum = outcome if self._sum is None else self._sum + outcome
        return Told()

    def finished(self, reason: Reason, usage: Usage) -> Finished:
        """See `Reader.finished`."""
        if self._sum is None or reason != "stop":
            return Finished(reason, "", usage)
        # The direction of the sum is that of the mean.
        unit = functional.normalize(self._sum[0].double(), dim=0)
        return Finished(reason, "", usage, embedding=tuple(unit.tolist()))
