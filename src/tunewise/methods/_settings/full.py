"""The settings of `full`."""

from __future__ import annotations

from pydantic import Field

from tunewise.methods._settings._training import GradientSettings


class FullSettings(GradientSettings):
    """Settings of `full`."""

    last_layers: int | None = Field(
        None, ge=1, description="train only so many last layers; unset: all weights"
    )


SETTINGS = FullSettings
