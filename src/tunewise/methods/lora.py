"""LoRA: low-rank changes of the linear layers, base frozen; PEFT's layers and file format.

Hu et al. 2022. All linear layers by default: the MLP layers matter more than attention. rsLoRA
(Kalajdzievski 2023) and DoRA (Liu et al. 2024) are settings; so is a change of the input embeddings
instead, which beside a soft prompt is what DePT trains (Shi & Lipani 2024; docs/soft_prompts.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunewise.adaptation.attach import attached
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.inside import LowRank, low_rank_layers
from tunewise.adaptation.parts import LowRankPart, Part
from tunewise.adaptation.trainables import FrozenPrefix
from tunewise.errors import ConfigError
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientMethod, Opened
from tunewise.methods._settings.lora import LoraSettings
from tunewise.model.base import Base
from tunewise.model.layers import embedding_name, linear_names
from tunewise.task.render import Renderer

LEARNING_RATES = (1e-3, 3e-4)


class Lora(GradientMethod):
    """Low-rank changes."""

    name = "lora"
    summary = "low-rank changes of the linear layers, base frozen"
    produces = ("low_rank", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = LoraSettings
    learning_rates = LEARNING_RATES

    @contextmanager
    def opened(
        self,
        context: FitContext,
        settings: LoraSettings,
        renderer: Renderer,
        parts: tuple[Part, ...],
    ) -> Iterator[Opened]:
        """See `GradientMethod.opened`."""
        given = next((part for part in parts if isinstance(part, LowRankPart)), None)
        others = tuple(part for part in parts if part is not given)
        config = {
            "r": settings.rank,
            "lora_alpha": 2 * settings.rank if settings.alpha is None else settings.alpha,
            **_changed(context.base, settings),
            "use_rslora": settings.rslora,
            "use_dora": settings.dora,
        }
        with (
            attached(context.base, others),
            low_rank_layers(context.base, config, given, seed=context.seed) as layers,
        ):
            trainable = LowRank(FrozenPrefix(context.base, renderer, others), layers)
            yield Opened(trainable, others)


def _changed(base: Base, settings: LoraSettings) -> dict[str, Any]:
    """PEFT's fields for which layers are changed."""
    names = settings.layers.split(",")
    everywhere = names == ["all-linear"]
    last = settings.last_layers
    if names == ["embeddings"]:
        if last is not None or settings.dora:
            raise ConfigError(
                "the input embeddings stand below all layers and have no columns to divide by",
                found="--layers embeddings with --last-layers or --dora",
                expected="--layers embeddings alone",
                fix="leave the other out",
            )
        return {"target_modules": [embedding_name(base)]}
    if last is None:
        return {"target_modules": names[0] if everywhere else names}
    if last > base.layers:
        raise ConfigError(
            "so many last layers cannot be changed",
            found=f"--last-layers {last}",
            expected=f"at most {base.layers} in {base.name}",
        )
    # PEFT takes a choice of layers only beside a list of names.
    return {
        "target_modules": linear_names(base) if everywhere else names,
        "layers_to_transform": list(range(base.layers - last, base.layers)),
    }


METHOD = Lora()
