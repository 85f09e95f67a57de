"""LoRA: low-rank changes of the linear layers, base frozen; PEFT's layers and file format.

Hu et al. 2022. All linear layers by default: the MLP layers matter more than attention. rsLoRA
(Kalajdzievski 2023) and DoRA (Liu et al. 2024) are settings.
"""

from __future__ import annotations

from pydantic import Field

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import LowRankPart
from tunewise.adaptation.trainables import FrozenPrefix, LowRank, low_rank_layers
from tunewise.adaptation.training import Training
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientSettings, starting_renderer

LEARNING_RATES = (1e-3, 3e-4)


class LoraSettings(GradientSettings):
    """Settings of `lora`."""

    rank: int = Field(8, ge=1, description="rank R of the change of each layer")
    alpha: float | None = Field(
        None, gt=0, description="scale is alpha / rank; unset: twice the rank"
    )
    layers: str = Field(
        "all-linear",
        description="'all-linear', or layer names separated by commas, such as q_proj,v_proj",
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead (rsLoRA)")
    dora: bool = Field(False, description="train the layers' magnitudes as well (DoRA)")


class Lora:
    """Low-rank changes."""

    name = "lora"
    summary = "low-rank changes of the linear layers, base frozen"
    produces = ("low_rank", "prompt_text")
    needs = Needs(gradients=True, minimum_rows=4)
    Settings = LoraSettings

    def fit(self, context: FitContext, settings: LoraSettings) -> Adaptation:
        """See `Method.fit`."""
        renderer = starting_renderer(context)
        parts = context.starting_parts()
        given = next((part for part in parts if isinstance(part, LowRankPart)), None)
        others = tuple(part for part in parts if part is not given)
        names = settings.layers.split(",")
        config = {
            "r": settings.rank,
            "lora_alpha": 2 * settings.rank if settings.alpha is None else settings.alpha,
            "target_modules": names[0] if names == ["all-linear"] else names,
            "use_rslora": settings.rslora,
            "use_dora": settings.dora,
        }
        with (
            attached(context.base, others),
            low_rank_layers(context.base, config, given, seed=context.seed) as layers,
        ):
            trainable = LowRank(FrozenPrefix(context.base, renderer, others), layers)
            training = Training(context, renderer, trainable, settings.plan(LEARNING_RATES))
            decoding, notes = training.run()
            part = trainable.part()
        return context.finish(self.name, settings, (*others, part), decoding, **notes)


METHOD = Lora()
