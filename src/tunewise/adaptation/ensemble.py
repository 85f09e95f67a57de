"""Several prompts that answer together, as a search or a chain judges them: as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.judge import Verdict
from tunewise.adaptation.readout import joined_scores
from tunewise.numerics.calibration import Floats

# Inputs that say nothing, of which contextual calibration takes the mean (Zhao et al. 2021).
CONTENT_FREE = ("N/A", "", "[MASK]")


class Ensemble:
    """Prompts whose label scores are averaged; a single one is what it is alone.

    Args:
        members: on the same rows, at least one; several only where labels are scored.
    """

    def __init__(self, members: Sequence[Contestant]) -> None:
        self.members = tuple(members)

    @property
    def fits(self) -> bool:
        """Whether all rows fit the context behind every prompt."""
        return all(one.fits for one in self.members)

    @property
    def price(self) -> float:
        """Of a request, in positions, as of `Contestant.price`."""
        return sum(one.price for one in self.members)

    def cost(self, until: int) -> int:
        """Token passes of scoring all on to so many rows."""
        return sum(one.cost(until) for one in self.members)

    def extend(self, until: int) -> None:
        """Score all on to so many rows."""
        for one in self.members:
            one.extend(until)

    def losses(self, until: int) -> Floats:
        """(n,) losses of the first rows; see `Contestant.losses`."""
        first = self.members[0]
        if len(self.members) == 1:
            return first.losses(until)
        return first.losses_of(self._scores(until))

    def verdict(self, until: int) -> Verdict:
        """What the first rows say, with the one readout of all chosen on them."""
        first = self.members[0]
        if len(self.members) == 1:
            return first.verdict(until)
        return first.verdict_of(self._scores(until))

    def readout(self, until: int) -> tuple[Decoding, bool | None]:
        """The readout chosen on the first rows, contextual calibration among the choices.

        Args:
            until: rows that all were scored on.

        Returns:
            The readout, and whether contextual calibration was taken; None where it was not tried,
            since no labels are scored, or context or ledger do not cover it.
        """
        first, plain = self.members[0], self.verdict(until).decoding
        if not first.by_label or not all(one.holds(CONTENT_FREE) for one in self.members):
            return plain, None
        if not first.context.ledger.covers(sum(x.label_cost(CONTENT_FREE) for x in self.members)):
            return plain, None
        nothing = joined_scores([one.label_scores(CONTENT_FREE) for one in self.members])
        found = first.verdict_of(self._scores(until), nothing).decoding
        return found, found != plain

    def _scores(self, until: int) -> Floats:
        return joined_scores([np.array(one.scores[:until]) for one in self.members])
