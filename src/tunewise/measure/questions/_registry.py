"""Finds the questions: every module of this folder and the entry points of `tunewise.questions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tunewise.discovery import Shelf
from tunewise.errors import ConfigError, UnknownNameError
from tunewise.measure.questions._contract import Question, QuestionSettings

QUESTIONS = Shelf[Question](
    Question,
    "question",
    "QUESTION",
    "tunewise.measure.questions",
    holds="name, title, asks, Settings, inapplicable, cost and measure",
    group="tunewise.questions",
    names="see `tunewise questions`",
    guide="see docs/adding_a_question.md",
)


def question_settings(question: Question, given: Mapping[str, Any]) -> QuestionSettings:
    """Settings from names and values.

    Raises:
        UnknownNameError: the question has no such setting; close ones are shown.
        ConfigError: a value cannot be used; all faults are told at once.
    """
    known = question.Settings.model_fields
    for name in given:
        if name not in known:
            raise UnknownNameError(f"setting of {question.name}", name, known)
    try:
        return question.Settings(**given)
    except ValidationError as error:
        faults = [
            f"{fault['loc'][0]} = {fault['input']}: {fault['msg']}" for fault in error.errors()
        ]
        many = "a setting" if len(faults) == 1 else "some settings"
        raise ConfigError(
            f"{many} of the question {question.name} cannot be used",
            found="\n    ".join(faults),
            expected="values that its settings take",
            fix="see `tunewise questions`",
        ) from error
