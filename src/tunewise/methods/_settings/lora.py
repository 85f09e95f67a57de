"""The settings of `lora`."""

from __future__ import annotations

from pydantic import Field

from tunewise.methods._settings._training import GradientSettings


class LoraSettings(GradientSettings):
    """Settings of `lora`."""

    rank: int = Field(8, ge=1, description="rank R of the change of each layer")
    alpha: float | None = Field(
        None, gt=0, description="scale is alpha / rank; unset: twice the rank"
    )
    layers: str = Field(
        "all-linear",
        description="'all-linear', 'embeddings' (of the input), or layer names separated by "
        "commas, such as q_proj,v_proj",
    )
    last_layers: int | None = Field(
        None, ge=1, description="change only so many last layers of the model; unset: all"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead (rsLoRA)")
    dora: bool = Field(False, description="train the layers' magnitudes as well (DoRA)")


SETTINGS = LoraSettings
