"""The settings of `tfidf`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewise.methods._contract import MethodSettings


class TfidfSettings(MethodSettings):
    """Settings of `tfidf`."""

    word_ngrams: int = Field(
        2, ge=1, le=5, description="longest run of words that is a feature, in words"
    )
    char_ngrams: int = Field(
        0,
        ge=0,
        le=8,
        description="longest run of characters that is a feature, from 2 up; 0 for none",
    )
    class_weight: Literal["none", "balanced"] = Field(
        "none", description="weight of a row: the same for all, or inverse to its label's frequency"
    )
    inverse_regularization: float | None = Field(
        None,
        gt=0,
        description="C of the logistic regression; chosen on validation rows unless given",
    )


SETTINGS = TfidfSettings
