"""The settings of `prefix`."""

from __future__ import annotations

from pydantic import Field

from tunewise.methods._settings._training import GradientSettings


class PrefixSettings(GradientSettings):
    """Settings of `prefix`."""

    positions: int | None = Field(
        None, ge=1, description="trained positions before the text; unset: those of the text itself"
    )
    distill: int = Field(
        0,
        ge=0,
        description="demonstrations of a teacher, the same base with them in its prompt, whose "
        "expectations are learned in place of the answers; 0: none",
    )


SETTINGS = PrefixSettings
