"""The first words of the input as its summary: for news a baseline that is hard to beat."""

from __future__ import annotations

from statistics import median_low

import numpy as np

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import ShallowModelPart
from tunewise.adaptation.shallow import first_words
from tunewise.methods._contract import MethodSettings, Needs
from tunewise.methods._settings.lead import LeadSettings
from tunewise.task.score import score_row
from tunewise.task.types import FitView, Kind

GRID = (1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 40, 50, 75, 100, 150, 200)


class Lead:
    """Answers with the first words of the input (Nenkova 2005: news summaries rarely beat it)."""

    name = "lead"
    summary = "the first words of the input; no model"
    produces: tuple[str, ...] = (ShallowModelPart.kind,)
    needs = Needs(kinds=frozenset({Kind.GENERATION}), base=False, seeds=False)
    Settings: type[MethodSettings] = LeadSettings

    def fit(self, context: FitContext, settings: LeadSettings) -> Adaptation:
        """Choose how many words, by the task's metric on validation rows."""
        view = context.view
        usual = max(1, median_low([len(row.output.split()) for row in view.train]))
        notes: dict[str, float] = {"usual_answer_words": usual}
        if settings.words is not None:
            words = settings.words
        elif not view.validation:
            words = usual
        else:
            scores = {count: _score(count, view) for count in sorted({*GRID, usual})}
            # Of equal scores the fewest words win: max keeps the first.
            words = max(scores, key=lambda count: scores[count])
            notes["validation_score"] = scores[words]
        part = ShallowModelPart("lead", {"words": words})
        return context.finish(self.name, settings, (part,), Decoding(mode="free"), **notes)


def _score(count: int, view: FitView) -> float:
    """Mean of the task's metric over validation rows with this many words."""
    spec = view.spec
    scores = [
        score_row(spec.metric, first_words(row.input, count), row, spec) for row in view.validation
    ]
    return float(np.mean(scores))


METHOD = Lead()
