"""A race of text prompts on ever more validation rows, inside the budget of one fit.

All prompts are scored on a few rows, the better half on twice as many, and so on; rows are shared,
so that prompts are compared row by row. The shared part of a prompt is computed once. What a prompt
has scored stays with it, so it enters a later race on the same rows for nothing. The rows that no
race used are left to confirm the winner on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewise.adaptation.attach import computed_positions, lower_parts, standing_positions
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Verdict, example, label_frequencies, label_verdict
from tunewise.adaptation.parts import Part
from tunewise.adaptation.readout import Readout, default_decoding, label_sequences
from tunewise.model.answers import answer_losses, judged_positions
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import SharedPrefix
from tunewise.model.score import scoring_positions
from tunewise.numerics.calibration import Floats, batch_bias, row_cross_entropies
from tunewise.numerics.racing import cheapest_within_noise, survivors
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row, clusters_of

# What a shared position costs with every request, in positions of the row. It is computed once, but
# kept, read and attended to by every row: steps with 20 and with 400 shared positions before rows
# of some 30 tokens differ by about a row's own cost (docs/log.md).
SHARED_PRICE = 0.05
# Closer than so many standard errors, two prompts tie and the cheaper one is taken. On the rows
# that a race has a whole one is some five points: it hid what demonstrations bring (docs/log.md).
TIE_ERRORS = 0.25
# After so many in a row that are too dear, no further one is built to be asked.
_PATIENCE = 6


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
        first = 0 if self._prefix is not None else computed_positions(self.renderer, self._others)
        if not self.by_label:
            return first + judged_positions(self.context.base, new)
        labels = label_sequences(self.renderer)
        return first + scoring_positions(self.context.base, [each.row for each in new], labels)

    def extend(self, until: int) -> None:
        """Score on to so many rows; nothing where they are scored already."""
        if until <= len(self.scores):
            return
        base, ledger = self.context.base, self.context.ledger
        if self._prefix is None:
            ledger.charge(forward=computed_positions(self.renderer, self._others))
            self._prefix = lower_parts(base, self.renderer, self._others)
        begin = len(self.scores)
        if self.by_label:
            readout = Readout(base, self.renderer, self._prefix, ledger)
            inputs = [row.input for row in self.rows[begin:until]]
            self.scores += list(readout.label_scores(inputs))
        else:
            self.scores += answer_losses(base, self._prefix, self.examples[begin:until], ledger)

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

    def verdict_of(self, scores: Floats) -> Verdict:
        """`verdict` of other label scores (n, L) than its own, on the first n rows."""
        frequencies, count = label_frequencies(self.context.view), len(scores)
        gold, clusters = self._gold()[:count], clusters_of(self.rows[:count])
        return label_verdict(scores, gold, self.renderer, frequencies, clusters)

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


@dataclass(frozen=True, slots=True)
class RaceOutcome:
    """How a race ended.

    Attributes:
        winner: the cheapest prompt that ties with the best; None where none was affordable.
        tried: for every prompt its name, the rows it was scored on, its loss on them, and why it
            was left out if it was; JSON values.
        standing: those that were left at the end, lowest loss first.
    """

    winner: Contestant | None
    tried: tuple[dict[str, Any], ...]
    standing: tuple[Contestant, ...] = ()


def race(
    contestants: Sequence[Contestant],
    *,
    first: int,
    ledger: Ledger,
    most: int | None = None,
    enough: int = 0,
    reserve: int = 0,
) -> RaceOutcome:
    """Run the race.

    Args:
        contestants: all on the same rows. Where the budget ends, the dearer ones are left out at
            the first turn and the worse ones later.
        first: rows that all are scored on; at every turn half of them go on, to twice the rows.
        ledger: says what is affordable.
        most: rows of the race, the first of the contestants' own; all of them unless given.
        enough: where no more than so many are left besides those that cost nothing, the race
            ends before all rows are scored.
        reserve: token passes to leave in the ledger.
    """
    left_out = {one.name: "longer than the context" for one in contestants if not one.fits}
    alive = sorted((one for one in contestants if one.fits), key=lambda one: one.price)
    standing: list[Contestant] = []
    last = max((len(one.examples) for one in alive), default=0) if most is None else most
    until = seen = min(first, last)
    while alive:
        scored = _scored(alive, until, ledger, reserve, ranked=bool(standing))
        left_out |= {one.name: "budget" for one in alive if len(one.scores) < until}
        if not scored:
            break
        standing, seen = scored, until
        then = min(2 * until, last)
        paying = sum(len(one.scores) < then for one in scored)
        if until == last or paying <= enough:
            break
        alive = _going_on(scored, until, then)
        until = then
    for one in contestants:
        if one not in standing:
            one.release()
    standing.sort(key=lambda one: float(one.losses(seen).mean()))
    return RaceOutcome(
        _winner(standing, seen),
        tuple(told(one, left_out.get(one.name)) for one in contestants),
        tuple(standing),
    )


def affordable(
    contestants: Iterable[Contestant], *, first: int, most: int, room: int
) -> tuple[list[Contestant], list[Contestant]]:
    """Those whose race can be paid to its end, so that no leader is left out half-way.

    Half of the contestants go on at every turn, to twice the rows, so in the mean every turn after
    the first costs each half of the first.

    Args:
        contestants: in the order they are admitted; one too dear is passed over, and after some
            such in a row no more are asked for.
        first: rows that all are scored on.
        most: rows of the race.
        room: token passes there are.

    Returns:
        Those admitted, and those passed over.
    """
    first = min(first, most)
    turns = max(0, math.ceil(math.log2(most / first)))
    admitted: list[Contestant] = []
    passed_over: list[Contestant] = []
    in_a_row = 0
    for one in contestants:
        cost = math.ceil(one.cost(first) * (1 + turns / 2))
        if cost <= max(room, 0):
            room -= cost
            admitted.append(one)
            in_a_row = 0
            continue
        passed_over.append(one)
        in_a_row += 1
        if in_a_row == _PATIENCE:
            break
    return admitted, passed_over


def _scored(
    alive: Sequence[Contestant], until: int, ledger: Ledger, reserve: int, *, ranked: bool
) -> list[Contestant]:
    """Score those that the budget pays, in their order.

    Args:
        alive: the contestants.
        until: rows.
        ledger: says what is affordable.
        reserve: token passes to leave in it.
        ranked: whether the best stand first. Then nobody is scored behind one that is too dear,
            and nobody at all where that is the leader: the race would go to the others.
    """
    scored: list[Contestant] = []
    ended = False
    for one in alive:
        cost = one.cost(until)
        if cost == 0 or (not ended and ledger.covers(cost + reserve)):
            one.extend(until)
            one.context.log.progress(ledger.spent, ledger.limit, f"{one.name}: {until} rows")
            scored.append(one)
        elif ranked:
            ended = True
            if one is alive[0]:
                return []
    return scored


def _going_on(scored: Sequence[Contestant], until: int, then: int) -> list[Contestant]:
    """The better half, best first, and whoever an earlier race has scored that far: it is free."""
    free = [one for one in scored if len(one.scores) >= then]
    losses = np.array([one.losses(until) for one in scored])
    clusters = clusters_of(scored[0].rows[:until])
    half = math.ceil((len(scored) - len(free)) / 2)
    kept = [scored[index] for index in survivors(losses, half + len(free), clusters)]
    paying = [one for one in kept if one not in free][:half]
    going = [one for one in kept if one in free or one in paying]
    return [*going, *(one for one in free if one not in going)]


def _winner(standing: Sequence[Contestant], seen: int) -> Contestant | None:
    if not standing:
        return None
    losses = np.array([one.losses(seen) for one in standing])
    prices = np.array([one.price for one in standing])
    clusters = clusters_of(standing[0].rows[:seen])
    return standing[cheapest_within_noise(losses, prices, errors=TIE_ERRORS, clusters=clusters)]


def told(one: Contestant, left_out: str | None = None) -> dict[str, Any]:
    """What a record says of a contestant: JSON values.

    Args:
        one: the contestant.
        left_out: why it was left out, if it was.
    """
    record: dict[str, Any] = {"candidate": one.name, "rows": len(one.scores)}
    if one.scores:
        record["loss"] = float(one.losses().mean())
    if left_out is not None:
        record["left_out"] = left_out
    return record
