"""The most frequent training answer, always: what any method must beat."""

from __future__ import annotations

from collections import Counter

from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import ShallowModelPart
from tunewise.methods._contract import MethodSettings, Needs
from tunewise.methods._settings.majority import MajoritySettings


class Majority:
    """Answers every row with the answer that most training rows have."""

    name = "majority"
    summary = "always the most frequent training answer; no model"
    produces: tuple[str, ...] = (ShallowModelPart.kind,)
    needs = Needs(base=False, seeds=False)
    Settings: type[MethodSettings] = MajoritySettings

    def fit(self, context: FitContext, settings: MajoritySettings) -> Adaptation:
        """Count the answers; of equally frequent ones the first in the training rows wins."""
        rows = context.view.train
        # Counter keeps first-seen order among equal counts.
        answer, count = Counter(row.output for row in rows).most_common(1)[0]
        part = ShallowModelPart("constant", {"answer": answer, "share": count / len(rows)})
        return context.finish(
            self.name, settings, (part,), Decoding(mode="free"), count=count, rows=len(rows)
        )


METHOD = Majority()
