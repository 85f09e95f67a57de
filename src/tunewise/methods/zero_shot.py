"""The untouched base with a plain instruction: what every adaptation has to beat."""

from __future__ import annotations

from tunewise.adaptation.attach import attached, computed_positions, lower_parts
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.judge import Judge
from tunewise.adaptation.parts import PromptTextPart
from tunewise.methods._contract import Needs
from tunewise.methods._settings.zero_shot import ZeroShotSettings
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer


class ZeroShot:
    """Instruction only."""

    name = "zero_shot"
    summary = "the untouched base with the task's instruction, label scores calibrated"
    produces = ("prompt_text",)
    needs = Needs(seeds=False)
    Settings = ZeroShotSettings

    def fit(self, context: FitContext, settings: ZeroShotSettings) -> Adaptation:
        """See `Method.fit`."""
        given = settings.instruction
        instruction = context.starting_prompt().instruction if given is None else given
        part = PromptTextPart(PromptText(instruction))
        renderer = Renderer(context.base.tokenizer, context.view.spec, part.prompt)
        others = context.starting_parts()[1:]
        judge = Judge(context, renderer, most_rows=settings.validation_rows)
        positions = computed_positions(renderer, others)
        if not context.ledger.covers(positions + judge.cost):
            # Nothing is affordable, and nothing is what the untouched base needs.
            return context.finish(
                self.name, settings, (part, *others), judge.decoding, calibrated=False
            )
        with attached(context.base, others):
            context.ledger.charge(forward=positions)
            verdict = judge.verdict(lower_parts(context.base, renderer, others))
        return context.finish(self.name, settings, (part, *others), verdict.decoding)


METHOD = ZeroShot()
