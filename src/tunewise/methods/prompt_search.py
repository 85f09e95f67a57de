"""Instruction and demonstrations searched together; no other model proposes anything.

Three races on shared validation rows, inside the one budget: instructions without demonstrations;
the best of them with demonstrations; edits of what won. The last winner is confirmed on rows that
no race used; where it falls behind there, the start is kept. The start takes part in every race,
and of prompts that tie the cheapest wins. Asked for an ensemble, it adds others that were raced to
what it kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation, Decoding
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.demonstrations import Sources, choices, random_rows, showable_rows
from tunewise.adaptation.judge import sample_rows
from tunewise.adaptation.parts import PromptTextPart, text_replaced
from tunewise.adaptation.race import Contestant, RaceOutcome, affordable, fitting_rows, race, told
from tunewise.methods._contract import Needs
from tunewise.methods._ensemble import gathered, set_aside
from tunewise.methods._proposals import proposals
from tunewise.methods._settings.prompt_search import PromptSearchSettings
from tunewise.numerics.racing import paired_error
from tunewise.task.edits import edits
from tunewise.task.prompt import SYSTEM_SLOT, USER_SLOT, PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row
from tunewise.task.wording import CopyCheck, Wording, compositions

# Share of the budget that is spent when each race has ended. Demonstrations change more than the
# words of an instruction and cost more to try; edits change least. The rest pays for confirming.
INSTRUCTIONS_UNTIL, DEMONSTRATIONS_UNTIL, EDITS_UNTIL = 0.40, 0.80, 0.92
# Of the validation rows, a third confirms. Below so many rows neither part would tell anything.
_RACE_SHARE = 2 / 3
_FEWEST_ROWS_TO_SPLIT = 48
_FEWEST_ROWS_TO_CONFIRM = 24
_HARD_SAMPLE = 48


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
        self.rows = sample_rows(
            fitting_rows(context), settings.validation_rows, seed=context.seed, shuffled=True
        )
        apart = len(self.rows) >= _FEWEST_ROWS_TO_SPLIT
        self.race_rows = round(_RACE_SHARE * len(self.rows)) if apart else len(self.rows)
        self.random = np.random.default_rng(context.seed)
        self.copies = CopyCheck(context.view.spec, context.view.train)
        self.start = self._contestant("start", context.starting_prompt())
        self.empty = PromptText("", slot=self.start.prompt.slot)
        self.names = {self.start.prompt.instruction: "start"}
        self.entered = {self.start.prompt}
        self.notes: dict[str, Any] = {}
        self.aside = set_aside(self.start, settings.ensemble, len(self.rows) - self.race_rows)

    def run(self) -> tuple[PromptTextPart, Decoding]:
        """What is kept, and how answers are read out behind it."""
        start, everything = self.start, len(self.rows)
        self.notes |= {"rounds": [], "instructions": {}}
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
        first = self._race("instructions", self._instructions(), INSTRUCTIONS_UNTIL)
        second = self._race(
            "demonstrations", self._with_demonstrations(first), DEMONSTRATIONS_UNTIL
        )
        third = self._race("edits", self._edited(second, first), EDITS_UNTIL)
        # An edit that won on few rows may be too dear to confirm; what it was made from is not.
        winners = [race.winner for race in (third, second, first) if race.winner is not None]
        winner = next((one for one in winners if one is not start and self._payable(one)), start)
        kept = winner if winner is not start and self._confirmed(winner) else start
        self.notes["kept"] = kept.name
        shown_rows = len(kept.prompt.demonstrations) + kept.prompt.nearest
        self.notes["demonstrations"] = shown_rows
        if self.settings.ensemble == 1:
            return PromptTextPart(kept.prompt), kept.verdict().decoding
        raced = [one for each in (third, second, first) for one in each.standing]
        part, decoding, told = gathered(kept, raced, self.settings.ensemble, self.race_rows)
        self.notes |= told
        return part, decoding

    def _contestant(self, name: str, prompt: PromptText) -> Contestant:
        return Contestant(self.context, name, prompt, self.others, self.rows)

    def _new(self, name: str, prompt: PromptText) -> list[Contestant]:
        """A contestant, or none where the prompt has entered already."""
        if prompt in self.entered:
            return []
        self.entered.add(prompt)
        return [self._contestant(name, prompt)]

    def _race(self, name: str, candidates: Iterable[Contestant], until: float) -> RaceOutcome:
        """A race of those whose race the round's share of the budget pays, in the order given."""
        limit, first, reserve = self.ledger.limit, self.settings.first_rows, 0
        left_out: list[Contestant] = []
        if limit is None:
            entrants = list(candidates)
        else:
            reserve = limit - int(until * (limit - self.aside))
            room = limit - reserve - self.ledger.spent
            payable = self._confirmable(candidates, (1 - EDITS_UNTIL) * limit, left_out)
            entrants, passed_over = affordable(payable, first=first, most=self.race_rows, room=room)
            left_out += passed_over
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
        self, candidates: Iterable[Contestant], room: float, left_out: list[Contestant]
    ) -> Iterator[Contestant]:
        """Those that what is left after the races pays to confirm, if they should win."""
        everything = len(self.rows)
        fewest = min(_FEWEST_ROWS_TO_CONFIRM, everything - self.race_rows)
        for one in candidates:
            if len(one.scores) == everything or one.row_cost * fewest <= room:
                yield one
            else:
                left_out.append(one)

    def _instructions(self) -> Iterator[Contestant]:
        """The start, the user's other wordings, then what the task itself gives."""
        yield self.start
        view, settings = self.context.view, self.settings
        texts = () if settings.wordings is None else settings.wordings
        instruction = self.start.prompt.instruction
        composed = compositions(
            view.spec, view.train, instruction, words=settings.label_words, seed=self.context.seed
        )
        proposed, notes = proposals(self.context, settings, self.start.prompt, self.others)
        self.notes |= notes
        candidates = [
            Wording("start alone", instruction),
            *(Wording(f"wording {number}", text) for number, text in enumerate(texts, start=1)),
            *(Wording(f"proposal {number}", text) for number, text in enumerate(proposed, start=1)),
            *composed,
        ]
        number = 1
        for place, each in enumerate(candidates):
            if number >= settings.instructions:
                return
            entrants = self._worded(each.name, replace(self.empty, instruction=each.text))
            if place == 0:
                entrants += self._in_other_slot(replace(self.empty, instruction=instruction))
            number += len(entrants)
            yield from entrants

    def _in_other_slot(self, prompt: PromptText) -> list[Contestant]:
        """The same prompt in the other slot of the chat template, where that makes a difference."""
        moved = replace(prompt, slot=USER_SLOT if prompt.slot == SYSTEM_SLOT else SYSTEM_SLOT)
        if not self.settings.slots or not prompt.instruction.strip():
            return []
        tokenizer, spec = self.context.base.tokenizer, self.context.view.spec
        renderers = [Renderer(tokenizer, spec, each) for each in (prompt, moved)]
        # Without a chat template, or in one that takes no system message, both are the same.
        if len({each.shared_text + each.row_text("") for each in renderers}) == 1:
            return []
        name = self.names.get(prompt.instruction, "start")
        return self._new(f"{name}, in the {moved.slot} slot", moved)

    def _worded(self, name: str, prompt: PromptText) -> list[Contestant]:
        """A new instruction, refused where it copies a training row; the start's own never is."""
        text = prompt.instruction
        if text != self.start.prompt.instruction and self.copies.copied(text):
            self.notes.setdefault("refused", []).append(f"{name}: it copies a training row")
            return []
        self.names.setdefault(text, name)
        self.notes["instructions"].setdefault(self.names[text], text)
        return self._new(name, prompt)

    def _with_demonstrations(self, first: RaceOutcome) -> Iterator[Contestant]:
        """The best instructions with every choice of demonstrations.

        In the first pass every choice meets one instruction, in the next another, and so on: a
        budget that ends early has still tried all choices.
        """
        best = [] if first.winner is None else [first.winner]
        best += [one for one in first.standing if one not in best]
        heads = [_head(one.prompt) for one in (*best[: self.settings.kept], self.start)]
        heads = list(dict.fromkeys(heads))
        picked = list(self._choices(best[0] if best else self.start))
        yield from dict.fromkeys([self.start, *best])
        for turn in range(len(heads)):
            for place, (name, choice) in enumerate(picked):
                text, slot = heads[(place + turn) % len(heads)]
                prompt = replace(choice, instruction=text, slot=slot)
                where = "" if slot == self.start.prompt.slot else f", in the {slot} slot"
                yield from self._new(f"{self.names[text]}{where} + {name}", prompt)

    def _choices(self, incumbent: Contestant) -> Iterator[tuple[str, PromptText]]:
        settings, start = self.settings, self.start.prompt
        if start.demonstrations or start.nearest:
            yield "the start's demonstrations", start
        if settings.demonstrations == 0:
            return
        rows = showable_rows(self.context, settings.longest_tokens)
        pool = random_rows(rows, settings.pool_rows, self.random)
        scored = self._hard_sample(incumbent, pool)
        yield from choices(
            Sources(
                rows,
                pool,
                pool[:_HARD_SAMPLE],
                None if scored is None else scored.losses(),
            ),
            self.random,
            count=settings.demonstrations,
            pick=settings.pick,
            balance=bool(self.context.view.spec.labels),
        )

    def _hard_sample(self, incumbent: Contestant, pool: Sequence[Row]) -> Contestant | None:
        """The incumbent on some training rows; None where they are not asked for or too dear."""
        if self.settings.pick not in (None, "hard"):
            return None
        sample, limit = pool[:_HARD_SAMPLE], self.ledger.limit
        scored = Contestant(self.context, "hard rows", incumbent.prompt, self.others, sample)
        cost = scored.cost(len(sample))
        # A tenth of what the race of demonstrations may cost.
        share = (DEMONSTRATIONS_UNTIL - INSTRUCTIONS_UNTIL) / 10
        dear = limit is not None and cost > share * limit
        if dear or not scored.fits or not self.ledger.covers(cost):
            return None
        scored.extend(len(sample))
        return scored

    def _edited(self, second: RaceOutcome, first: RaceOutcome) -> list[Contestant]:
        """The winner so far, the start, and prompts one step from the winner."""
        winner = self.start if second.winner is None else second.winner
        prompt = winner.prompt
        candidates = list(dict.fromkeys([winner, self.start]))
        if self.settings.edits == 0:
            return candidates
        steps = [
            (f"wording of {one.name}", replace(prompt, instruction=one.prompt.instruction))
            for one in first.standing
        ]
        shown_rows = prompt.demonstrations
        if len(shown_rows) > 1:
            half = (len(shown_rows) + 1) // 2
            steps.append(("other order", replace(prompt, demonstrations=shown_rows[::-1])))
            steps.append(("half of them", replace(prompt, demonstrations=shown_rows[-half:])))
        reworded = edits(prompt.instruction, self.context.view.spec.labels)
        for place in self.random.permutation(len(reworded)):
            name, text = reworded[int(place)]
            steps.append((name, replace(prompt, instruction=text)))
        fresh = self._in_other_slot(prompt)
        for name, each in steps:
            if len(fresh) < self.settings.edits:
                fresh += self._worded(f"{winner.name}; {name}", each)
        return candidates + fresh

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
        self.notes["confirmed"] = {
            "rows": len(ours),
            "apart_from_the_race": apart,
            "winner": winner.name,
            "loss": float(ours.mean()),
            "start_loss": float(theirs.mean()),
            "metric": metrics[0],
            "start_metric": metrics[1],
        }
        falls = float((ours - theirs).mean()) > paired_error(ours - theirs)
        better = float(behind.mean()) < 0.0 and not falls
        return better and (metrics[0] is None or metrics[1] is None or metrics[0] >= metrics[1])


def _head(prompt: PromptText) -> tuple[str, Any]:
    """Instruction and slot."""
    return prompt.instruction, prompt.slot


METHOD = PromptSearch()
