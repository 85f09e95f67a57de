"""Which of the prompts that a search has raced answer together, and what that is worth.

Prompts are added one by one, each time the one whose addition lowers the loss most (Caruana et al.
2004, section 2.1): the best few alone would be edits of one another that make the same mistakes.
What the races scored decides, so choosing costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewise.adaptation.bundle import Decoding
from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.ensemble import Ensemble
from tunewise.adaptation.parts import PromptTextPart
from tunewise.adaptation.race import TIE_ERRORS
from tunewise.adaptation.readout import MOST_SCORED_LABELS
from tunewise.errors import ConfigError
from tunewise.numerics.racing import cheapest_within_noise, paired_error
from tunewise.task.types import clusters_of

# Of the budget, at most so much is kept from the races for scoring further prompts on other rows.
_SHARE = 0.15
# What wins a race may be dearer than the start: demonstrations with every row.
_DEARER = 2.0


def set_aside(start: Contestant, prompts: int, rows: int) -> int:
    """Token passes that the races leave for scoring further prompts on rows that no race used.

    Args:
        start: of the search; it tells what a row costs.
        prompts: that are to answer together.
        rows: that no race uses.

    Raises:
        ConfigError: there are several, and not all labels are scored.
    """
    spec, limit = start.context.view.spec, start.context.ledger.limit
    if prompts > 1 and not start.by_label:
        raise ConfigError(
            "several prompts cannot answer this task together",
            found=f"--ensemble {prompts} on a task of kind {spec.kind.value}"
            + (f" with {len(spec.labels)} labels" if spec.labels else ""),
            expected=f"a task with up to {MOST_SCORED_LABELS} labels: they are all scored, and "
            "only scores have a mean",
            fix="leave --ensemble out",
        )
    if limit is None:
        return 0
    return int(min(_SHARE * limit, (prompts - 1) * _DEARER * start.row_cost * rows))


def gathered(
    kept: Contestant, raced: Sequence[Contestant], prompts: int, race_rows: int
) -> tuple[PromptTextPart, Decoding, dict[str, Any]]:
    """The prompts that answer together, scored on as many rows as are paid.

    Args:
        kept: what the search found, the first of them.
        raced: those that were left at the end of a race.
        prompts: how many are wanted; fewer come where fewer were raced.
        race_rows: validation rows that the races may have used; those behind confirm.

    Returns:
        They, the readout of all, and notes for the record: the loss and the metric of all together
        beside those of the first alone, on rows that no race used where that was paid.
    """
    ensemble = Ensemble(_chosen(kept, raced, prompts, race_rows))
    scored = min(len(one.scores) for one in ensemble.members)
    until, ledger = len(kept.scores), kept.context.ledger
    while until > scored and not ledger.covers(ensemble.cost(until)):
        until -= 1
    ensemble.extend(until)
    texts = [one.prompt for one in ensemble.members]
    told = {
        "ensemble": _told(ensemble, prompts, until, race_rows),
        "demonstrations": sum(len(text.demonstrations) + text.nearest for text in texts),
    }
    decoding, contextual = ensemble.readout(until)
    part = PromptTextPart(texts[0], tuple(texts[1:]))
    return part, decoding, told | {"contextual_calibration": contextual}


def _chosen(
    kept: Contestant, raced: Sequence[Contestant], prompts: int, race_rows: int
) -> list[Contestant]:
    others = [one for one in dict.fromkeys(raced) if one is not kept and one.prompt != kept.prompt]
    # As many rows as enough of them were scored on.
    counts = sorted((len(one.scores) for one in others), reverse=True)[: prompts - 1]
    rows = min([race_rows, len(kept.scores), *counts])
    left = [one for one in others if one.fits and len(one.scores) >= rows]
    chosen = [kept]
    while left and len(chosen) < prompts:
        losses = np.array([Ensemble([*chosen, one]).losses(rows) for one in left])
        # The rule of the races: of those that tie the cheapest, since every request pays for it.
        prices = np.array([one.price for one in left])
        best = cheapest_within_noise(
            losses, prices, errors=TIE_ERRORS, clusters=clusters_of(kept.rows[:rows])
        )
        chosen.append(left.pop(best))
    return chosen


def _told(ensemble: Ensemble, wanted: int, until: int, race_rows: int) -> dict[str, Any]:
    first = ensemble.members[0]
    apart = until > race_rows
    rows = slice(race_rows if apart else 0, until)
    ours, single = ensemble.losses(until)[rows], first.losses(until)[rows]
    metrics = ensemble.verdict(until).metric, first.verdict(until).metric
    gain = single - ours
    return {
        "prompts": [one.name for one in ensemble.members],
        "wanted": wanted,
        "rows": len(ours),
        "apart_from_the_races": apart,
        "readout_rows": until,
        "loss": float(ours.mean()),
        "single_loss": float(single.mean()),
        "metric": metrics[0],
        "single_metric": metrics[1],
        "loss_lower_by_more_than_noise": bool(
            gain.mean() > paired_error(gain, clusters_of(first.rows[rows]))
        ),
        "positions_per_request": ensemble.price,
        "single_positions_per_request": first.price,
    }
