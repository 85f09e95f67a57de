"""vLLM's answers as records; None where they are something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# With `return_tokens_as_token_ids` a token is written so, which half a character cannot blur.
_MARK = "token_id:"


@dataclass(frozen=True, slots=True)
class Taken:
    """One token of an answer.

    Attributes:
        token: its id.
        log_probability: over the whole vocabulary; None where none was asked.
        others: those of other tokens at its place, by id.
    """

    token: int
    log_probability: float | None
    others: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of an answer.

    Attributes:
        taken: the tokens that are new.
        reason: why the answer ends; None where it goes on.
    """

    taken: tuple[Taken, ...]
    reason: str | None


def choice_of(said: Mapping[str, Any]) -> Choice | None:
    """The first choice of a completion, or of a piece of one."""
    try:
        choice = said["choices"][0]
        tokens = [_whole(token) for token in choice["token_ids"]]
        reason = choice.get("finish_reason")
        told = choice.get("logprobs")
        if told is None:
            return Choice(tuple(Taken(token, None, {}) for token in tokens), reason)
        values = [float(value) for value in told["token_logprobs"]]
        tops = [_by_id(top) for top in told["top_logprobs"]]
        taken = tuple(
            Taken(token, value, top) for token, value, top in zip(tokens, values, tops, strict=True)
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return Choice(taken, reason)


def cached_of(said: Mapping[str, Any]) -> int:
    """Positions of the prompt that were computed before; 0 where the server does not tell."""
    try:
        return _whole(said["usage"]["prompt_tokens_details"]["cached_tokens"])
    except (KeyError, TypeError):
        return 0


def error_text(text: str) -> str:
    """What an error says, in one line."""
    try:
        said = json.loads(text)
        error = said.get("error", said)
        found = error if isinstance(error, str) else error["message"]
    except (AttributeError, KeyError, TypeError, ValueError):
        found = text
    return " ".join(str(found).split())


def _by_id(top: Mapping[str, Any] | None) -> dict[int, float]:
    found = {} if top is None else top
    return {int(name.removeprefix(_MARK)): float(value) for name, value in found.items()}


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value
