"""Reflective evolution through the `gepa` library (Agrawal et al. 2025).

GEPA evaluates, reflects and mutates by its own rules; it is handed training rows for both of its
sets, the base as the system and the configured model as the one that reflects. What it comes to
try is what is proposed: the race on validation rows is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunewise.errors import BudgetExceededError
from tunewise.propose._asking import Asker
from tunewise.propose._contract import Brief, Evaluate, Outcome
from tunewise.propose._words import each_once, instruction_in, told
from tunewise.task.types import Row

_COMPONENT = "instruction"
_MINIBATCH = 3
# Rows on which GEPA compares what it keeps; of the rows there are, at most half.
_MOST_COMPARED = 12


class Gepa:
    """GEPA."""

    name = "gepa"
    summary = "reflective evolution on training rows, through the gepa library"
    package = "gepa"

    def propose(
        self, brief: Brief, ask: Asker, evaluate: Evaluate, *, count: int, seed: int
    ) -> list[str]:
        """See `Proposer.propose`."""
        import gepa

        rows = [outcome.row for outcome in brief.outcomes]
        rows = [rows[int(place)] for place in np.random.default_rng(seed).permutation(len(rows))]
        compared = min(_MOST_COMPARED, len(rows) // 2)
        adapter = _Adapter(evaluate)

        def reflect(question: Any) -> str:
            # The library fences the instruction; a model that does not is read all the same.
            return f"```\n{instruction_in(ask(str(question)))}\n```"

        def enough(state: Any) -> bool:
            return adapter.ended or len(ask.calls) >= 2 * count or len(adapter.seen) > count

        if compared > 0:
            gepa.optimize(
                seed_candidate={_COMPONENT: brief.instruction},
                trainset=rows[compared:],
                valset=rows[:compared],
                adapter=adapter,
                reflection_lm=reflect,
                reflection_minibatch_size=min(_MINIBATCH, len(rows) - compared),
                max_metric_calls=4 * count * (2 * _MINIBATCH + compared),
                stop_callbacks=[enough],
                logger=_Silent(),
                seed=seed,
                # A model that answers nothing must end the search rather than circle in it.
                raise_on_exception=True,
            )
        return each_once(list(adapter.seen), brief, count)


class _Silent:
    """GEPA's diary goes nowhere."""

    def log(self, message: str) -> None:
        """Nothing."""


class _Adapter:
    """The base as the system that GEPA improves.

    Attributes:
        seen: every instruction that was tried, in order.
        ended: whether the share of the budget is used up.
    """

    propose_new_texts = None

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self.seen: dict[str, None] = {}
        self.ended = False

    def evaluate(
        self, batch: Sequence[Row], candidate: Mapping[str, str], capture_traces: bool = False
    ) -> Any:
        """How an instruction does on some rows; scores of 0 once the budget is used up."""
        from gepa.core.adapter import EvaluationBatch

        text = candidate[_COMPONENT].strip()
        outcomes = [Outcome(row, None, 0.0) for row in batch]
        if text:
            self.seen.setdefault(text)
            try:
                outcomes = outcomes if self.ended else self._evaluate(text, batch)
            except BudgetExceededError:
                self.ended = True
        scores = [outcome.score for outcome in outcomes]
        return EvaluationBatch(
            outputs=[outcome.answer for outcome in outcomes],
            scores=scores,
            trajectories=outcomes if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], eval_batch: Any, components_to_update: Sequence[str]
    ) -> dict[str, list[dict[str, str]]]:
        """What the reflecting model reads of a minibatch."""
        read = [told(outcome) for outcome in eval_batch.trajectories]
        return dict.fromkeys(components_to_update, read)


PROPOSER = Gepa()
