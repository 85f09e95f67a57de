"""Answers as OpenAI's objects."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Sequence
from typing import Any, Literal

from tunewise.serve.contract import Finished, TokenChoice, Usage
from tunewise.serve.http.models import Model

OBJECTS = {
    ("chat", False): "chat.completion",
    ("chat", True): "chat.completion.chunk",
    ("text", False): "text_completion",
    ("text", True): "text_completion",
}
Kind = Literal["chat", "text"]


def envelope(kind: Kind, identity: str, model: Model, *, chunk: bool) -> dict[str, Any]:
    """What stands around the choices.

    Args:
        kind: of a conversation or a text.
        identity: names the answer.
        model: what answers.
        chunk: a part of a stream.
    """
    return {
        "id": identity,
        "object": OBJECTS[kind, chunk],
        "created": int(time.time()),
        "model": model.label,
        "system_fingerprint": f"tw_{'base' if model.choice is None else model.choice.digest[:16]}",
    }


def usage_object(usages: Sequence[Usage]) -> dict[str, Any]:
    """Tokens of one or several answers together."""
    prompt = sum(each.prompt_tokens for each in usages)
    completion = sum(each.completion_tokens for each in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in usages)},
    }


def chat_choice(end: Finished, choices: Sequence[TokenChoice] | None) -> dict[str, Any]:
    """The choice of a conversation.

    Args:
        end: of the answer.
        choices: its tokens, where log-probabilities are asked for.
    """
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": end.text, "refusal": None},
        "logprobs": None if choices is None else chat_logprobs(choices),
        "finish_reason": end.reason,
    }
    if end.probability is not None:
        choice["probability"] = end.probability
    return choice


def text_choice(index: int, end: Finished, choices: Sequence[TokenChoice] | None) -> dict[str, Any]:
    """The choice of a text; see `chat_choice`."""
    return {
        "index": index,
        "text": end.text,
        "logprobs": None if choices is None else text_logprobs(choices, 0),
        "finish_reason": end.reason,
    }


def chat_logprobs(choices: Sequence[TokenChoice]) -> dict[str, Any]:
    """Log-probabilities in the form of conversations."""
    content = [
        {
            **_token(each.text, each.log_probability),
            "top_logprobs": [_token(text, value) for _, text, value in each.top],
        }
        for each in choices
    ]
    return {"content": content, "refusal": None}


def text_logprobs(choices: Sequence[TokenChoice], offset: int) -> dict[str, Any]:
    """Log-probabilities in the form of texts.

    Args:
        choices: tokens.
        offset: characters of the answer before them.
    """
    offsets = []
    for each in choices:
        offsets.append(offset)
        offset += len(each.text)
    return {
        "tokens": [each.text for each in choices],
        "token_logprobs": [_finite(each.log_probability) for each in choices],
        "top_logprobs": [{text: _finite(v) for _, text, v in each.top} for each in choices],
        "text_offset": offsets,
    }


def vector(values: Sequence[float], encoding: str) -> list[float] | str:
    """An embedding as numbers, or as base64 of little-endian float32."""
    if encoding == "float":
        return list(values)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _token(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(value), "bytes": list(text.encode(errors="replace"))}


def _finite(value: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what cannot come."""
    return max(value, -9999.0)
