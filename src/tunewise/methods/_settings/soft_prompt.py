"""The settings of `soft_prompt`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewise.methods._settings._training import GradientSettings


class SoftPromptSettings(GradientSettings):
    """Settings of `soft_prompt`."""

    virtual_tokens: int | None = Field(
        None, ge=1, description="virtual tokens; unset: in place of the text, as long as it is"
    )
    placed: Literal["before", "instead"] = Field(
        "before",
        description="where a given number of them stand: 'before' the text, which stays, or "
        "'instead' of it, neighbouring embeddings of the text averaged",
    )
    start_from: Literal["text", "vocabulary"] = Field(
        "text", description="'text' of labels and instruction, or random 'vocabulary' rows"
    )
    residual_width: int = Field(
        0, ge=0, description="width of the residual network around the embeddings; 0: none"
    )
    frozen_positions: int = Field(
        0, ge=0, description="first virtual tokens that stay as they began, as attention sink"
    )
    restarts: int = Field(
        1, ge=1, description="starts that race: the first as described, the others with noise"
    )


SETTINGS = SoftPromptSettings
