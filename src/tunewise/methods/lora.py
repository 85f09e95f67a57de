"""LoRA: low-rank changes of the linear layers, base frozen; PEFT's layers and file format.

Hu et al. 2022. All linear layers by default: the MLP layers matter more than attention. rsLoRA
(Kalajdzievski 2023) and DoRA (Liu et al. 2024) are settings.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunewise.adaptation.attach import attached
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.context import FitContext
from tunewise.adaptation.parts import LowRankPart
from tunewise.adaptation.trainables import FrozenPrefix, LowRank, low_rank_layers
from tunewise.adaptation.training import Training
from tunewise.errors import ConfigError
from tunewise.methods._contract import Needs
from tunewise.methods._gradient import GradientSettings, starting_renderer
from tunewise.model.base import Base
from tunewise.model.layers import linear_names

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
    last_layers: int | None = Field(
        None, ge=1, description="change only so many last layers of the model; unset: all"
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
            training = Training(context, renderer, trainable, settings.plan(LEARNING_RATES))
            decoding, notes = training.run()
            part = trainable.part()
        return context.finish(self.name, settings, (*others, part), decoding, **notes)


def _changed(base: Base, settings: LoraSettings) -> dict[str, Any]:
    """PEFT's fields for which layers are changed."""
    names = settings.layers.split(",")
    everywhere = names == ["all-linear"]
    last = settings.last_layers
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
