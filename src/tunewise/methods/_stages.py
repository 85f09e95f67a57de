"""Which stage of a chain is kept: the best on the same validation rows, the last where they tie.

Every link keeps its own start where nothing it tried was better on the rows it looked at. Links
look at different rows, though, so a later stage may still be below an earlier one (a search of
prompts behind trained weights, say). What is kept is decided on the same rows for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.contestant import Contestant, fitting_rows
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.ensemble import Ensemble
from tunewise.adaptation.judge import Verdict, sample_rows
from tunewise.adaptation.parts import PromptTextPart

# Of a chain's budget, at most so much is set aside for judging its stages.
_SHARE = 0.06
_MOST_ROWS = 256
# On a smaller part of the rows a comparison would say nothing, and none is made.
_FEWEST_ROWS = 16
# What was found may cost more to judge than the plain instruction: demonstrations with every row.
_DEARER = 1.5


class Stages:
    """Judges what the links of a chain found.

    Args:
        context: the chain's fit.
        prompts: of all stages at most, more than stages where some answer through several.

    Attributes:
        rows: validation rows that every stage is judged on; none where the share of the budget
            does not pay for them.
        reserve: token passes to leave in the ledger for that.
    """

    def __init__(self, context: FitContext, prompts: int) -> None:
        self.context = context
        rows = sample_rows(fitting_rows(context), _MOST_ROWS, seed=context.seed, shuffled=True)
        remaining = context.ledger.remaining
        self.rows, self.reserve = tuple(rows), 0
        if remaining is None:
            return
        plain = Contestant(context, "plain", context.starting_prompt(), (), rows)
        room = _SHARE * remaining / (_DEARER * prompts)
        count, fewest = len(rows), min(_FEWEST_ROWS, len(rows))
        while count >= fewest and plain.cost(count) > room:
            count -= 1
        self.rows = tuple(rows[:count]) if count >= fewest else ()
        if self.rows:
            self.reserve = int(_DEARER * prompts * plain.cost(count))

    def best(self, found: Sequence[Adaptation]) -> tuple[Adaptation, dict[str, Any]]:
        """The stage that is kept, and notes for the record.

        The higher metric wins, then the lower loss; the later stage where both are the same.

        Args:
            found: what the links found, in their order.
        """
        last = found[-1]
        if not self.rows:
            return last, {"stages": "not compared: the budget does not pay for it"}
        verdicts = [self._verdict(each) for each in found]
        told = [
            {"method": each.provenance.method, **_told(verdict)}
            for each, verdict in zip(found, verdicts, strict=True)
        ]
        judged = [place for place, verdict in enumerate(verdicts) if verdict is not None]
        if verdicts[-1] is None:
            return last, {"stages": told}
        best = max(judged, key=lambda place: (*_rank(verdicts[place]), place))
        return found[best], {"stages": told, "kept_stage": best}

    def _verdict(self, found: Adaptation) -> Verdict | None:
        """What the rows say of a stage; None where it is too dear or does not fit."""
        others = tuple(part for part in found.parts if not isinstance(part, PromptTextPart))
        name, count = found.provenance.method, len(self.rows)
        with attached(self.context.base, others):
            stage = Ensemble(
                [
                    Contestant(self.context, name, prompt, others, self.rows)
                    for prompt in found.prompts
                ]
            )
            if not stage.fits or not self.context.ledger.covers(stage.cost(count)):
                return None
            stage.extend(count)
            return stage.verdict(count)


def _rank(verdict: Verdict | None) -> tuple[float, float]:
    if verdict is None:
        return (float("-inf"), float("-inf"))
    # Either all stages have a metric or none has: it comes with the kind of task.
    return (0.0 if verdict.metric is None else verdict.metric, -verdict.loss)


def _told(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {"left_out": "too dear, or longer than the context"}
    return {"metric": verdict.metric, "loss": verdict.loss}
