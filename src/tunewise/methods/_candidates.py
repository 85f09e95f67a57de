"""What `prompt_search` lets race: instructions, demonstrations, numbers of them, edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunewise.adaptation.contestant import Contestant
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.demonstrations import (
    Choice,
    Sources,
    choices,
    random_rows,
    showable_rows,
)
from tunewise.adaptation.parts import Part
from tunewise.adaptation.race import RaceOutcome
from tunewise.methods._proposals import proposals
from tunewise.methods._settings.prompt_search import PromptSearchSettings
from tunewise.task.edits import edits
from tunewise.task.prompt import SYSTEM_SLOT, USER_SLOT, PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Row
from tunewise.task.wording import CopyCheck, Wording, compositions

# Training rows whose loss is looked at for hard ones, and what that may cost of the budget.
_HARD_SAMPLE = 48
_HARD_SHARE = 0.04
# An instruction, and the slot of the chat template that it stands in.
_Head = tuple[str, Any]


class Candidates:
    """What may race, in the order in which a budget that ends early should have tried it.

    Every prompt enters once. What a round brought decides what the next one tries.

    Args:
        context: the fit.
        settings: of the search.
        others: parts that stand beside the prompt.
        rows: validation rows of the races, in the order they are scored.
        payable: whether a contestant could be confirmed, should it win.

    Attributes:
        start: the prompt that the search begins with.
        notes: for the record: the text of every instruction, what was refused, what was proposed.
    """

    def __init__(
        self,
        context: FitContext,
        settings: PromptSearchSettings,
        others: Sequence[Part],
        rows: Sequence[Row],
        payable: Callable[[Contestant], bool],
    ) -> None:
        self.context, self.settings = context, settings
        self._others, self._rows, self._payable = tuple(others), rows, payable
        self._random = np.random.default_rng(context.seed)
        self._copies = CopyCheck(context.view.spec, context.view.train)
        self.start = self._contestant("start", context.starting_prompt())
        self._empty = PromptText("", slot=self.start.prompt.slot)
        self._names = {self.start.prompt.instruction: "start"}
        self._entered = {self.start.prompt}
        # Which kind of demonstrations a contestant shows, by its name; and what is left to try.
        self._kinds: dict[str, str] = {}
        self._heads: list[_Head] = []
        self._numbers: list[Choice] = []
        self.notes: dict[str, Any] = {"instructions": {}}

    def instructions(self) -> Iterator[Contestant]:
        """The start, the user's other wordings, then what the task itself gives."""
        yield self.start
        view, settings = self.context.view, self.settings
        texts = () if settings.wordings is None else settings.wordings
        instruction = self.start.prompt.instruction
        composed = compositions(
            view.spec, view.train, instruction, words=settings.label_words, seed=self.context.seed
        )
        proposed, notes = proposals(self.context, settings, self.start.prompt, self._others)
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
            entrants = self._worded(each.name, replace(self._empty, instruction=each.text))
            if place == 0:
                alone = replace(self._empty, instruction=instruction)
                entrants += self._in_other_slot(self._names[instruction], alone)
            number += len(entrants)
            yield from entrants

    def demonstrations(self, raced: RaceOutcome) -> Iterator[Contestant]:
        """The best instructions with every kind of demonstrations, in the first number of each
        that is payable.

        In the first pass every kind meets one instruction, in the next another, and so on: a budget
        that ends early has still tried all kinds.

        Args:
            raced: the instructions.
        """
        best = _best(raced)
        heads = [_head(one.prompt) for one in (*best[: self.settings.kept], self.start)]
        self._heads = list(dict.fromkeys(heads))
        kinds: dict[str, list[Choice]] = {}
        for choice in self._choices(best[0] if best else self.start):
            kinds.setdefault(choice.kind, []).append(choice)
        first = [next(filter(self._is_payable, each), each[0]) for each in kinds.values()]
        self._numbers = [one for each in kinds.values() for one in each if one not in first]
        yield from dict.fromkeys([self.start, *best])
        for turn in range(len(self._heads)):
            for place, choice in enumerate(first):
                yield from self._showing(choice, self._heads[(place + turn) % len(self._heads)])

    def numbers(self, raced: RaceOutcome) -> Iterator[Contestant]:
        """More and fewer demonstrations of the kinds that stand, the best kind first, then of
        the others; each behind the instruction that its kind did best with, then behind the rest.

        Args:
            raced: every kind in one number.
        """
        best = _best(raced)
        if not self._numbers:
            return
        yield from dict.fromkeys([self.start, *best])
        ahead = _head(best[0].prompt if best else self.start.prompt)
        heads: dict[str, _Head] = {}
        for one in best:
            if one.name in self._kinds:
                heads.setdefault(self._kinds[one.name], _head(one.prompt))
        ranks = {kind: place for place, kind in enumerate(heads)}
        ordered = sorted(self._numbers, key=lambda each: ranks.get(each.kind, len(ranks)))
        for choice in ordered:
            yield from self._showing(choice, heads.get(choice.kind, ahead))
        for head in self._heads:
            for choice in ordered:
                yield from self._showing(choice, head)

    def edited(self, winner: Contestant, first: RaceOutcome) -> list[Contestant]:
        """The winner so far, the start, and prompts one step from the winner.

        Args:
            winner: so far.
            first: the race of instructions.
        """
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
        for place in self._random.permutation(len(reworded)):
            name, text = reworded[int(place)]
            steps.append((name, replace(prompt, instruction=text)))
        fresh = self._in_other_slot(winner.name, prompt)
        for name, each in steps:
            if len(fresh) < self.settings.edits:
                fresh += self._worded(f"{winner.name}; {name}", each)
        return candidates + fresh

    def _contestant(self, name: str, prompt: PromptText) -> Contestant:
        return Contestant(self.context, name, prompt, self._others, self._rows)

    def _new(self, name: str, prompt: PromptText) -> list[Contestant]:
        """A contestant, or none where the prompt has entered already."""
        if prompt in self._entered:
            return []
        self._entered.add(prompt)
        return [self._contestant(name, prompt)]

    def _in_other_slot(self, name: str, prompt: PromptText) -> list[Contestant]:
        """The same prompt in the other slot of the chat template, where that makes a difference."""
        moved = replace(prompt, slot=USER_SLOT if prompt.slot == SYSTEM_SLOT else SYSTEM_SLOT)
        if not self.settings.slots or not prompt.instruction.strip():
            return []
        tokenizer, spec = self.context.base.tokenizer, self.context.view.spec
        renderers = [Renderer(tokenizer, spec, each) for each in (prompt, moved)]
        # Without a chat template, or in one that takes no system message, both are the same.
        if len({each.shared_text + each.row_text("") for each in renderers}) == 1:
            return []
        return self._new(f"{name}, in the {moved.slot} slot", moved)

    def _worded(self, name: str, prompt: PromptText) -> list[Contestant]:
        """A new instruction, refused where it copies a training row; the start's own never is."""
        text = prompt.instruction
        if text != self.start.prompt.instruction and self._copies.copied(text):
            self.notes.setdefault("refused", []).append(f"{name}: it copies a training row")
            return []
        self._names.setdefault(text, name)
        self.notes["instructions"].setdefault(self._names[text], text)
        return self._new(name, prompt)

    def _is_payable(self, choice: Choice) -> bool:
        text, slot = self._heads[0]
        prompt = replace(choice.prompt, instruction=text, slot=slot)
        return self._payable(self._contestant(choice.name, prompt))

    def _showing(self, choice: Choice, head: _Head) -> list[Contestant]:
        """Demonstrations behind an instruction in its slot."""
        text, slot = head
        where = "" if slot == self.start.prompt.slot else f", in the {slot} slot"
        name = f"{self._names[text]}{where} + {choice.name}"
        self._kinds[name] = choice.kind
        return self._new(name, replace(choice.prompt, instruction=text, slot=slot))

    def _choices(self, incumbent: Contestant) -> Iterator[Choice]:
        settings, start = self.settings, self.start.prompt
        if start.demonstrations or start.nearest:
            own = "the start's demonstrations"
            yield Choice(own, own, start)
        if settings.demonstrations == 0:
            return
        rows = showable_rows(self.context, settings.longest_tokens)
        pool = random_rows(rows, settings.pool_rows, self._random)
        scored = self._hard_sample(incumbent, pool)
        yield from choices(
            Sources(
                rows,
                pool,
                pool[:_HARD_SAMPLE],
                None if scored is None else scored.losses(),
            ),
            self._random,
            count=settings.demonstrations,
            pick=settings.pick,
            balance=bool(self.context.view.spec.labels),
        )

    def _hard_sample(self, incumbent: Contestant, pool: Sequence[Row]) -> Contestant | None:
        """The incumbent on some training rows; None where they are not asked for or too dear."""
        if self.settings.pick not in (None, "hard"):
            return None
        ledger, sample = self.context.ledger, pool[:_HARD_SAMPLE]
        scored = Contestant(self.context, "hard rows", incumbent.prompt, self._others, sample)
        cost = scored.cost(len(sample))
        dear = ledger.limit is not None and cost > _HARD_SHARE * ledger.limit
        if dear or not scored.fits or not ledger.covers(cost):
            return None
        scored.extend(len(sample))
        return scored


def _head(prompt: PromptText) -> _Head:
    return prompt.instruction, prompt.slot


def _best(raced: RaceOutcome) -> list[Contestant]:
    """The winner of a race, then who stood at its end."""
    first = [] if raced.winner is None else [raced.winner]
    return first + [one for one in raced.standing if one not in first]
