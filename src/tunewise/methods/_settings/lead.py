"""The settings of `lead`."""

from __future__ import annotations

from pydantic import Field

from tunewise.methods._contract import MethodSettings


class LeadSettings(MethodSettings):
    """Settings of `lead`."""

    words: int | None = Field(
        None,
        ge=1,
        description="length of the answer in words; chosen on validation rows unless given",
    )


SETTINGS = LeadSettings
