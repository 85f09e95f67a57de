"""Soft prompt: virtual tokens before the rows, learned with the base frozen.

Lester et al. 2021. By default they start as the embeddings of the prompt's own text and stand in
its place, so step 0 is that prompt exactly: at this size of model the start decides more than
anything else. With a number given they stand before the text, which stays, and start from the
task's labels and instruction (section 3.2, "class label" initialisation) at the embeddings' own
norm; or in its place, as its embeddings brought to so many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tunewise.adaptation.attach import attached
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import Part, VirtualTokensPart, text_replaced
from tunewise.adaptation.plan import Candidate
from tunewise.adaptation.snapshot import Snapshot
from tunewise.adaptation.trainables import FrozenPrefix, VirtualTokens
from tunewise.errors import ConfigError
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientMethod, Opened
from tunewise.methods._settings.soft_prompt import SoftPromptSettings
from tunewise.model.base import Base
from tunewise.model.prefix import token_embeddings
from tunewise.task.render import Renderer

# Embeddings are small numbers: they bear rates that would wreck weights.
LEARNING_RATES = (1e-2, 3e-2)
# Virtual tokens where neither a number nor a text says how many.
_WITHOUT_TEXT = 20
# Noise of a further start, in the embeddings' own mean size.
_RESTART_NOISE = 0.3


class SoftPrompt(GradientMethod):
    """Virtual tokens."""

    name = "soft_prompt"
    summary = "learned embeddings in the prompt's place, base frozen (prompt tuning)"
    produces = ("virtual_tokens", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = SoftPromptSettings
    learning_rates = LEARNING_RATES

    def candidates(self, settings: SoftPromptSettings) -> tuple[Candidate, ...]:
        """See `GradientMethod.candidates`: the other starts first, they are asked for."""
        default, *rates = super().candidates(settings)
        starts = [
            Candidate(default.learning_rate, start=number) for number in range(settings.restarts)
        ]
        return (*starts, *rates)

    @contextmanager
    def opened(
        self,
        context: FitContext,
        settings: SoftPromptSettings,
        renderer: Renderer,
        parts: tuple[Part, ...],
    ) -> Iterator[Opened]:
        """See `GradientMethod.opened`."""
        others = tuple(part for part in parts if not isinstance(part, VirtualTokensPart))
        given = next((part for part in parts if isinstance(part, VirtualTokensPart)), None)
        with attached(context.base, others):
            if given is not None:
                initial, in_place = given.embeddings.clone(), given.replaces_shared_text
            else:
                replaced = text_replaced(others)
                initial, in_place = _initial(
                    context, settings, () if replaced else renderer.shared_tokens
                )
            if settings.frozen_positions >= len(initial):
                raise ConfigError(
                    "no virtual token would be trained",
                    found=f"--frozen-positions {settings.frozen_positions}",
                    expected=f"fewer than the {len(initial)} there are",
                )
            trainable = VirtualTokens(
                FrozenPrefix(context.base, renderer, others),
                initial,
                hidden=settings.residual_width,
                seed=context.seed,
                kept=settings.frozen_positions,
                replaces_shared_text=in_place,
            )
            starts = _noisy_starts(trainable, settings.restarts, context.seed)
            yield Opened(trainable, others, starts)


def _noisy_starts(trainable: VirtualTokens, restarts: int, seed: int) -> tuple[Snapshot, ...]:
    begun = {name: leaf.detach() for name, leaf in trainable.parameters.items()}
    plain = begun["embeddings"]
    noise = _RESTART_NOISE * plain.pow(2).mean().sqrt()
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        begun
        | {"embeddings": plain + noise * torch.randn(plain.shape, generator=generator).to(plain)}
        for _ in range(1, restarts)
    )


def _initial(
    context: FitContext, settings: SoftPromptSettings, text: tuple[int, ...]
) -> tuple[Tensor, bool]:
    """(k, D) float32 to start from, and whether they stand in place of the text.

    Args:
        context: the fit.
        settings: its settings.
        text: tokens of the prompt's shared text; none where something stands in its place already.
    """
    count = settings.virtual_tokens
    if settings.start_from == "vocabulary" or not text or (count and settings.placed == "before"):
        if settings.placed == "instead":
            raise ConfigError(
                "there is no text that virtual tokens could stand instead of",
                found=f"--placed instead --start-from {settings.start_from}",
                expected="--start-from text, and a start whose text is still read",
                fix="--placed before",
            )
        return _drawn(context, settings), False
    embedded = token_embeddings(context.base, text)[0].detach().float()
    if count is None:
        return embedded, True
    if count > len(text):
        raise ConfigError(
            "more virtual tokens than the text has",
            found=f"--virtual-tokens {count} --placed instead",
            expected=f"at most {len(text)}",
        )
    return averaged(embedded, count), True


def averaged(embedded: Tensor, count: int) -> Tensor:
    """(count, D): the first embedding as it is, the others (T, D) averaged over neighbours.

    The first position serves the base as attention sink and must be one it knows.
    """
    if count == 1:
        return embedded[:1]
    pieces = torch.tensor_split(embedded[1:], count - 1)
    return torch.stack([embedded[0], *(piece.mean(dim=0) for piece in pieces)])


def _drawn(context: FitContext, settings: SoftPromptSettings) -> Tensor:
    """(k, D) float32: rows of the embedding table, all at the table's mean norm."""
    base, spec = context.base, context.view.spec
    count = _WITHOUT_TEXT if settings.virtual_tokens is None else settings.virtual_tokens
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
