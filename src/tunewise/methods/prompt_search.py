"""Instruction and demonstrations searched together; no other model proposes anything.

Four races on shared validation rows, inside the one budget: instructions without demonstrations;
the best of them with every kind of demonstrations; other numbers of them, of the kinds that did
best first; edits of what won. The last winner is confirmed on rows that no race used; where it
falls behind there, the start is kept. The start takes part in every race, and of prompts that tie
the cheapest wins. Asked for an ensemble, it adds others that were raced to what it kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.contestant import Contestant, fitting_rows
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.ensemble import Ensemble
from tunewise.adaptation.judge import parted_rows, sample_rows
from tunewise.adaptation.parts import PromptTextPart, text_replaced
from tunewise.adaptation.race import RaceOutcome, affordable, race, told
from tunewise.methods._candidates import Candidates
from tunewise.methods._contract import Needs
from tunewise.methods._ensemble import gathered, set_aside
from tunewise.methods._settings.prompt_search import PromptSearchSettings
from tunewise.numerics.racing import paired_error
from tunewise.task.types import Row, clusters_of

# Share of the budget that is spent when each race has ended. Demonstrations change more than the
# words of an instruction and cost more to try; edits change least. The rest pays for confirming,
# which four demonstrations that stand with the row need most of.
INSTRUCTIONS_UNTIL, DEMONSTRATIONS_UNTIL, NUMBERS_UNTIL, EDITS_UNTIL = 0.22, 0.60, 0.80, 0.88
# Of the validation rows, a third confirms. Below so many rows neither part would tell anything.
_RACE_SHARE = 2 / 3
_FEWEST_ROWS_TO_SPLIT = 48
_FEWEST_ROWS_TO_CONFIRM = 24
# Of the budget, what scoring the start may take: on a small one, fewer validation rows are looked
# at, or nothing but the start could be.
_START_SHARE = 0.1


class PromptSearch:
    """Instruction and demonstrations, searched."""

    name = "prompt_search"
    summary = "instruction and demonstrations searched together in races on validation rows"
    produces = ("prompt_text",)
    needs = Needs(minimum_rows=2)
    Settings = PromptSearchSettings

    def fit(self, context: FitContext, settings: PromptSearchSettings) -> Adaptation:
        """See `Method.fit`."""
        search = _Search(context, settings)
        with attached(context.base, search.others):
            text, decoding = search.run()
        parts = (text, *search.others)
        return context.finish(self.name, settings, parts, decoding, **search.notes)


class _Search:
    """One search: the rounds, and what they told."""

    def __init__(self, context: FitContext, settings: PromptSearchSettings) -> None:
        self.context, self.settings, self.ledger = context, settings, context.ledger
        self.others = context.starting_parts()[1:]
        rows = sample_rows(
            fitting_rows(context), settings.validation_rows, seed=context.seed, shuffled=True
        )
        rows = rows[: self._paid(rows)]
        share = _RACE_SHARE if len(rows) >= _FEWEST_ROWS_TO_SPLIT else 1.0
        self.rows, self.race_rows = parted_rows(rows, share, seed=context.seed)
        self.candidates = Candidates(
            context, settings, self.others, self.rows, self._is_confirmable
        )
        self.start = self.candidates.start
        self.notes = self.candidates.notes
        self.notes["rounds"] = []
        self.aside = set_aside(self.start, settings.ensemble, len(self.rows) - self.race_rows)

    def _paid(self, rows: Sequence[Row]) -> int:
        """How many validation rows the start's share of the budget pays for; 24 at the least."""
        limit = self.ledger.limit
        start = Contestant(self.context, "start", self.context.starting_prompt(), self.others, rows)
        cost = start.cost(len(rows))
        if limit is None or cost <= _START_SHARE * limit:
            return len(rows)
        return max(_FEWEST_ROWS_TO_CONFIRM, int(len(rows) * _START_SHARE * limit / cost))

    def run(self) -> tuple[PromptTextPart, Decoding]:
        """What is kept, and how answers are read out behind it."""
        start, everything = self.start, len(self.rows)
        if self.settings.ensemble > 1:
            self.notes["ensemble"] = "not made: nothing was raced"
        if not start.fits or not self.ledger.covers(start.cost(everything)):
            given = self.context.starting_decoding()
            self.notes["kept"] = "start, uncalibrated: the budget or the context allows no more"
            return PromptTextPart(start.prompt), start.decoding if given is None else given
        start.extend(everything)
        if text_replaced(self.others):
            self.notes["kept"] = "start: what was trained stands in place of the prompt"
            return PromptTextPart(start.prompt), start.verdict().decoding
        races = self._races()
        # An edit that won on few rows may be too dear to confirm; what it was made from is not.
        winners = [each.winner for each in races if each.winner is not None]
        winner = next((one for one in winners if one is not start and self._payable(one)), start)
        kept = winner if winner is not start and self._confirmed(winner) else start
        self.notes["kept"] = kept.name
        shown_rows = len(kept.prompt.demonstrations) + kept.prompt.nearest
        self.notes["demonstrations"] = shown_rows
        if self.settings.ensemble == 1:
            decoding, contextual = Ensemble([kept]).readout(len(kept.scores))
            self.notes["contextual_calibration"] = contextual
            return PromptTextPart(kept.prompt), decoding
        raced = [one for each in races for one in each.standing]
        part, decoding, told = gathered(kept, raced, self.settings.ensemble, self.race_rows)
        self.notes |= told
        return part, decoding

    def _races(self) -> list[RaceOutcome]:
        """The rounds, the last first."""
        candidates = self.candidates
        first = self._race("instructions", candidates.instructions(), INSTRUCTIONS_UNTIL)
        shown = candidates.demonstrations(first)
        second = self._race("demonstrations", shown, DEMONSTRATIONS_UNTIL)
        third = self._race("numbers", candidates.numbers(second), NUMBERS_UNTIL)
        winners = [each.winner for each in (third, second) if each.winner is not None]
        winner = winners[0] if winners else self.start
        fourth = self._race("edits", candidates.edited(winner, first), EDITS_UNTIL)
        return [fourth, third, second, first]

    def _race(self, name: str, candidates: Iterable[Contestant], until: float) -> RaceOutcome:
        """A race of those whose race the round's share of the budget pays, in the order given."""
        limit, first, reserve = self.ledger.limit, self.settings.first_rows, 0
        left_out: list[Contestant] = []
        if limit is None:
            entrants = list(candidates)
        else:
            reserve = limit - int(until * (limit - self.aside))
            room = limit - reserve - self.ledger.spent
            payable = self._confirmable(candidates, left_out)
            entrants, passed_over = affordable(payable, first=first, most=self.race_rows, room=room)
            left_out += passed_over
        if not entrants and not left_out:
            return RaceOutcome(None, ())
        outcome = race(
            entrants,
            first=first,
            ledger=self.ledger,
            most=self.race_rows,
            enough=self.settings.kept if name == "instructions" else 0,
            reserve=reserve,
        )
        record = {
            "round": name,
            "winner": None if outcome.winner is None else outcome.winner.name,
            "token_passes": self.ledger.spent,
            "tried": [*outcome.tried, *(told(one, "budget") for one in left_out)],
        }
        self.notes["rounds"].append(record)
        return outcome

    def _confirmable(
        self, candidates: Iterable[Contestant], left_out: list[Contestant]
    ) -> Iterator[Contestant]:
        """Those that can be confirmed; the others are noted."""
        for one in candidates:
            if self._is_confirmable(one):
                yield one
            else:
                left_out.append(one)

    def _is_confirmable(self, one: Contestant) -> bool:
        """Whether what is left after the races pays to confirm it, if it should win."""
        limit, everything = self.ledger.limit, len(self.rows)
        if limit is None or len(one.scores) == everything:
            return True
        fewest = min(_FEWEST_ROWS_TO_CONFIRM, everything - self.race_rows)
        return one.row_cost * fewest <= (1 - EDITS_UNTIL) * limit

    def _payable(self, winner: Contestant) -> bool:
        """Score a winner on rows that no race used, where there are any; whether that is paid."""
        begin, everything = self.race_rows, len(self.rows)
        if begin == everything:
            return True
        until = winner.reach(min(everything, begin + _FEWEST_ROWS_TO_CONFIRM))
        if until is None:
            self.notes.setdefault("not_confirmed", []).append(f"{winner.name}: budget")
            return False
        winner.extend(until)
        return True

    def _confirmed(self, winner: Contestant) -> bool:
        """Whether the winner beats the start, and does not fall behind it where no race has looked.

        On the few rows apart it must not be behind by more than the noise; on all rows its loss
        must be lower, and its metric, where there is one, not below the start's.
        """
        start, begin = self.start, self.race_rows
        apart = begin < len(self.rows)
        count = len(winner.scores)
        behind = winner.losses(count) - start.losses(count)
        ours = winner.losses(count)[begin if apart else 0 :]
        theirs = start.losses(count)[begin if apart else 0 :]
        metrics = winner.verdict(count).metric, start.verdict(count).metric
        error = paired_error(ours - theirs, clusters_of(self.rows[begin if apart else 0 : count]))
        self.notes["confirmed"] = {
            "rows": len(ours),
            "apart_from_the_race": apart,
            "winner": winner.name,
            "loss": float(ours.mean()),
            "start_loss": float(theirs.mean()),
            "error_of_difference": error if math.isfinite(error) else None,
            "all_rows": count,
            "loss_on_all": float(winner.losses(count).mean()),
            "start_loss_on_all": float(start.losses(count).mean()),
            "metric": metrics[0],
            "start_metric": metrics[1],
        }
        falls = float((ours - theirs).mean()) > error
        better = float(behind.mean()) < 0.0 and not falls
        return better and (metrics[0] is None or metrics[1] is None or metrics[0] >= metrics[1])


METHOD = PromptSearch()
