"""The settings of `few_shot`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewise.methods._contract import MethodSettings


class FewShotSettings(MethodSettings):
    """Settings of `few_shot`."""

    demonstrations: int | None = Field(
        None, ge=1, description="number of demonstrations; unset: chosen among 2, 4, 8 and 16"
    )
    pick: Literal["random", "balanced", "nearest"] | None = Field(
        None, description="'random', 'balanced' or 'nearest'; unset: chosen on validation"
    )
    draws: int = Field(2, ge=1, description="seeded draws tried for each random choice")
    pool_rows: int = Field(
        1000, ge=1, description="training rows among which nearest ones are found"
    )
    longest_tokens: int = Field(
        192, ge=1, description="rows longer than this many tokens are not shown as demonstrations"
    )
    first_rows: int = Field(
        32,
        ge=1,
        description="validation rows for every candidate, fewer where the budget would leave some "
        "out; half of them go on to twice that",
    )
    validation_rows: int = Field(
        256, ge=1, description="validation rows for the last candidates at most"
    )


SETTINGS = FewShotSettings
