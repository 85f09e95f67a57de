"""The settings of `zero_shot`."""

from __future__ import annotations

from pydantic import Field

from tunewise.methods._contract import MethodSettings


class ZeroShotSettings(MethodSettings):
    """Settings of `zero_shot`."""

    instruction: str | None = Field(
        None, description="instruction in words; unset: the start's or the task's own"
    )
    validation_rows: int = Field(
        256, ge=1, description="validation rows on which label scores are calibrated at most"
    )


SETTINGS = ZeroShotSettings
