"""Soft prompt: virtual tokens before the text, learned with the base frozen.

Lester et al. 2021. They start from the text of the task (its labels and its instruction, section
3.2 "class label" initialisation) at the embeddings' own norm, not from random numbers: at this
size of model the start decides more than anything else.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import VirtualTokensPart
from tunewise.adaptation.trainables import FrozenPrefix, VirtualTokens
from tunewise.adaptation.training import Training
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientSettings, starting_renderer
from tunewise.model.base import Base

# Embeddings are small numbers: they bear rates that would wreck weights.
LEARNING_RATES = (3e-2, 1e-2)


class SoftPromptSettings(GradientSettings):
    """Settings of `soft_prompt`."""

    virtual_tokens: int = Field(20, ge=1, description="number of virtual tokens")
    start_from: Literal["text", "vocabulary"] = Field(
        "text", description="'text' of labels and instruction, or random 'vocabulary' rows"
    )
    residual_width: int = Field(
        0, ge=0, description="width of the residual network around the embeddings; 0: none"
    )


class SoftPrompt:
    """Virtual tokens."""

    name = "soft_prompt"
    summary = "a few learned embeddings before the text, base frozen (prompt tuning)"
    produces = ("virtual_tokens", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = SoftPromptSettings

    def fit(self, context: FitContext, settings: SoftPromptSettings) -> Adaptation:
        """See `Method.fit`."""
        renderer = starting_renderer(context)
        parts = context.starting_parts()
        others = tuple(part for part in parts if not isinstance(part, VirtualTokensPart))
        given = next((part for part in parts if isinstance(part, VirtualTokensPart)), None)
        with attached(context.base, others):
            initial = _initial(context, settings) if given is None else given.embeddings.clone()
            frozen = FrozenPrefix(context.base, renderer, others)
            trainable = VirtualTokens(
                frozen, initial, hidden=settings.residual_width, seed=context.seed
            )
            training = Training(context, renderer, trainable, settings.plan(LEARNING_RATES))
            decoding, notes = training.run()
            part = trainable.part()
        return context.finish(self.name, settings, (*others, part), decoding, **notes)


def _initial(context: FitContext, settings: SoftPromptSettings) -> Tensor:
    """(k, D) float32: rows of the embedding table, all at the table's mean norm."""
    base, spec, count = context.base, context.view.spec, settings.virtual_tokens
    table = base.model.get_input_embeddings().weight.detach().float()
    generator = torch.Generator().manual_seed(context.seed)
    tokens: list[int] = []
    if settings.start_from == "text":
        text = " ".join([*spec.labels, spec.instruction])
        tokens = base.tokenizer.encode(text, add_special_tokens=False)[:count]
    fill = torch.randint(_ordinary_tokens(base), (count - len(tokens),), generator=generator)
    chosen = torch.cat([torch.tensor(tokens, dtype=torch.long), fill])
    rows: Tensor = table[chosen.to(table.device)]
    norm = table.norm(dim=1).mean()
    scaled: Tensor = rows * (norm / rows.norm(dim=1, keepdim=True).clamp_min(1e-6))
    return scaled


def _ordinary_tokens(base: Base) -> int:
    # The most frequent tokens come first in a byte-pair vocabulary (Lester et al., 5,000 of them).
    return min(5000, base.vocabulary)


METHOD = SoftPrompt()
