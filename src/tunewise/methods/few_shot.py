"""Demonstrations in the prompt: which kind and how many is chosen on validation rows.

Brown et al. 2020, section 2. Three ways to pick: at random, at random with every label alike, and
the nearest to the row at hand (Liu et al. 2022). The first two are the same for all rows and are
computed once; the nearest differ by row and cost their length every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.demonstrations import balanced_rows, random_rows, showable_rows, shown
from tunewise.adaptation.judge import sample_rows
from tunewise.adaptation.parts import Part, PromptTextPart, text_replaced
from tunewise.adaptation.race import RaceOutcome, affordable, race, told
from tunewise.adaptation.readout import default_decoding
from tunewise.errors import ConfigError
from tunewise.methods._contract import Needs
from tunewise.methods._settings.few_shot import FewShotSettings
from tunewise.model.ledger import Ledger
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

# All that a budget pays is scored on so many rows at the least.
_FEWEST_FIRST_ROWS = 16
# Whoever enters can be paid for so many times the first rows.
_TIMES_FIRST = 4


class FewShot:
    """Instruction and demonstrations."""

    name = "few_shot"
    summary = "demonstrations in the prompt; kind and count chosen on validation rows"
    produces = ("prompt_text",)
    needs = Needs(minimum_rows=2)
    Settings = FewShotSettings

    def fit(self, context: FitContext, settings: FewShotSettings) -> Adaptation:
        """See `Method.fit`."""
        others = context.starting_parts()[1:]
        with attached(context.base, others):
            contestants, outcome = self._raced(context, settings, others)
        winner = outcome.winner
        if winner is not None and context.start is not None:
            winner = _not_below_start(contestants[0], winner, context.ledger)
        if winner is None:
            # Nothing was affordable: the start, or the bare instruction, always is.
            prompt = context.starting_prompt()
            decoding = self._untried(context, prompt)
        else:
            prompt, decoding = winner.prompt, winner.verdict().decoding
        count = len(prompt.demonstrations) + prompt.nearest
        parts = (PromptTextPart(prompt), *others)
        return context.finish(
            self.name, settings, parts, decoding, demonstrations=count, tried=list(outcome.tried)
        )

    def _raced(
        self, context: FitContext, settings: FewShotSettings, others: Sequence[Part]
    ) -> tuple[list[Contestant], RaceOutcome]:
        """All candidates, the start first where there is one, and how their race ended."""
        rows = sample_rows(
            context.view.validation, settings.validation_rows, seed=context.seed, shuffled=True
        )
        made = [
            (draw, Contestant(context, name, prompt, others, rows))
            for draw, name, prompt in self._candidates(context, settings)
        ]
        contestants = [one for _, one in made]
        started = context.start is not None
        entrants, first = _entrants(made, settings.first_rows, context.ledger, started=started)
        outcome = race(entrants, first=first, ledger=context.ledger)
        left_out = [told(one, "budget") for one in contestants if one not in entrants]
        return contestants, replace(outcome, tried=(*outcome.tried, *left_out))

    def _untried(self, context: FitContext, prompt: PromptText) -> Decoding:
        given = context.starting_decoding()
        if given is not None:
            return given
        renderer = Renderer(context.base.tokenizer, context.view.spec, prompt)
        return default_decoding(context.view.spec, renderer, context.view.train)

    def _candidates(
        self, context: FitContext, settings: FewShotSettings
    ) -> Iterator[tuple[int, str, PromptText]]:
        """Number of the draw, name and prompt, from few demonstrations to many."""
        start = context.starting_prompt()
        if context.start is not None:
            yield 0, "start", start
        rows = showable_rows(context, settings.longest_tokens)
        counts = (2, 4, 8, 16) if settings.demonstrations is None else (settings.demonstrations,)
        all_picks = ("balanced", "random", "nearest")
        picks: tuple[str, ...] = all_picks if settings.pick is None else (settings.pick,)
        random = np.random.default_rng(context.seed)
        if not context.view.spec.labels:
            picks = tuple(pick for pick in picks if pick != "balanced") or ("random",)
        if text_replaced(context.starting_parts()):
            # Shared demonstrations would stand where nothing is read any more.
            picks = tuple(pick for pick in picks if pick == "nearest")
            if not picks:
                raise ConfigError(
                    "demonstrations that are the same for all rows would not be read",
                    found=f"--pick {settings.pick}, and a start whose trained part stands in place "
                    "of the prompt",
                    expected="demonstrations that stand with the row",
                    fix="--pick nearest, or another --start",
                )
        for count in [number for number in counts if number <= len(rows)]:
            for pick in picks:
                if pick == "nearest":
                    pool = random_rows(rows, settings.pool_rows, random)
                    yield (
                        0,
                        f"nearest {count}",
                        PromptText(start.instruction, pool=shown(pool), nearest=count),
                    )
                    continue
                for draw in range(settings.draws):
                    chosen = (
                        balanced_rows(rows, count, random)
                        if pick == "balanced"
                        else random_rows(rows, count, random)
                    )
                    yield (
                        draw,
                        f"{pick} {count}, draw {draw}",
                        PromptText(start.instruction, demonstrations=shown(chosen)),
                    )


def _entrants(
    made: Sequence[tuple[int, Contestant]], first: int, ledger: Ledger, *, started: bool
) -> tuple[list[Contestant], int]:
    """Those whose race the budget pays, and on how many rows it begins.

    A small budget begins on fewer rows before it leaves out a way to pick or a count: two
    demonstrations on 32 rows say less of sixteen than sixteen on 16. Further draws come last.

    Args:
        made: number of the draw, and the candidate.
        first: rows that all are scored on where the budget allows.
        ledger: says what there is.
        started: whether the first of them is the start; where its race is too dear, nothing could
            be held against it, and nobody enters.
    """
    room = ledger.remaining
    if room is None:
        return [one for _, one in made], first
    ordered = [one for _, one in sorted(made, key=lambda each: each[0]) if one.fits]
    once = [one for draw, one in made if draw == 0 and one.fits]
    begins = [first]
    while begins[-1] > _FEWEST_FIRST_ROWS:
        begins.append(max(begins[-1] // 2, _FEWEST_FIRST_ROWS))
    rows = max((len(one.rows) for one in once), default=1)

    def admitted(of: Sequence[Contestant], begin: int) -> list[Contestant]:
        most = min(_TIMES_FIRST * begin, rows)
        return affordable(of, first=begin, most=most, room=room)[0]

    # The first of the largest: as many rows as do not leave anything out.
    first = max(begins, key=lambda begin: len(admitted(once, begin)))
    entering = admitted(ordered, first)
    if started and made[0][1].fits and made[0][1] not in entering:
        return [], first
    return [one for _, one in made if one in entering or not one.fits], first


def _not_below_start(start: Contestant, winner: Contestant, ledger: Ledger) -> Contestant:
    """The winner, or the start where that does better on the rows both were scored on.

    A race takes the cheapest within the noise, and who is behind on its first rows is scored on no
    others; a rung must not end below its start.
    """
    if ledger.covers(start.cost(len(winner.scores))):
        start.extend(len(winner.scores))
    count = min(len(winner.scores), len(start.scores))
    if not count:
        return winner
    ours, theirs = winner.verdict(count), start.verdict(count)
    lower = theirs.metric is not None and ours.metric is not None and ours.metric < theirs.metric
    return start if lower or ours.loss > theirs.loss else winner


METHOD = FewShot()
