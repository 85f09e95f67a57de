"""Soft prompt: virtual tokens before the rows, learned with the base frozen.

Lester et al. 2021. By default they start as the embeddings of the prompt's own text and stand in
its place, so step 0 is that prompt exactly: at this size of model the start decides more than
anything else. With a number given they stand before the text, which stays; they then start from
the task's labels and instruction (section 3.2, "class label" initialisation) at the embeddings'
own norm.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import VirtualTokensPart, text_replaced
from tunewise.adaptation.trainables import FrozenPrefix, VirtualTokens
from tunewise.adaptation.training import Training
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientSettings, starting_renderer
from tunewise.model.base import Base
from tunewise.model.prefix import token_embeddings

# Embeddings are small numbers: they bear rates that would wreck weights.
LEARNING_RATES = (1e-2, 3e-2)
# Virtual tokens where neither a number nor a text says how many.
_WITHOUT_TEXT = 20


class SoftPromptSettings(GradientSettings):
    """Settings of `soft_prompt`."""

    virtual_tokens: int | None = Field(
        None,
        ge=1,
        description="virtual tokens before the text; unset: in place of the text, as long as it is",
    )
    start_from: Literal["text", "vocabulary"] = Field(
        "text", description="'text' of labels and instruction, or random 'vocabulary' rows"
    )
    residual_width: int = Field(
        0, ge=0, description="width of the residual network around the embeddings; 0: none"
    )


class SoftPrompt:
    """Virtual tokens."""

    name = "soft_prompt"
    summary = "learned embeddings in the prompt's place, base frozen (prompt tuning)"
    produces = ("virtual_tokens", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = SoftPromptSettings

    def fit(self, context: FitContext, settings: SoftPromptSettings) -> Adaptation:
        """See `Method.fit`."""
        renderer = starting_renderer(context)
        parts = context.starting_parts()
        others = tuple(part for part in parts if not isinstance(part, VirtualTokensPart))
        given = next((part for part in parts if isinstance(part, VirtualTokensPart)), None)
        in_place = (
            settings.virtual_tokens is None
            and settings.start_from == "text"
            and bool(renderer.shared_tokens)
            and not text_replaced(others)
        )
        with attached(context.base, others):
            if given is not None:
                initial, in_place = given.embeddings.clone(), given.replaces_shared_text
            elif in_place:
                initial = token_embeddings(context.base, renderer.shared_tokens)[0].float()
            else:
                initial = _initial(context, settings)
            trainable = VirtualTokens(
                FrozenPrefix(context.base, renderer, others),
                initial,
                hidden=settings.residual_width,
                seed=context.seed,
                replaces_shared_text=in_place,
            )
            training = Training(context, renderer, trainable, settings.plan(LEARNING_RATES))
            decoding, notes = training.run()
            part = trainable.part()
        return context.finish(self.name, settings, (*others, part), decoding, **notes)


def _initial(context: FitContext, settings: SoftPromptSettings) -> Tensor:
    """(k, D) float32: rows of the embedding table, all at the table's mean norm."""
    base, spec = context.base, context.view.spec
    count = settings.virtual_tokens or _WITHOUT_TEXT
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
