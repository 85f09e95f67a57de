"""From the bodies of requests to the engine's requests, through the one renderer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from tunewise.errors import ConfigError, DataError
from tunewise.serve.contract import ReadoutName, Ready, Request, Sampling
from tunewise.serve.http.bodies import ChatBody, CompletionBody
from tunewise.serve.http.work import Render
from tunewise.serve.requests import Message, chat_tokens, row_request
from tunewise.task.tokens import PieceTokenizer

Prompt: TypeAlias = str | tuple[int, ...]


def chat_render(tokenizer: Any, body: ChatBody) -> Render:
    """How a conversation becomes a request.

    Args:
        tokenizer: of the base.
        body: the request.

    Raises:
        ConfigError: two fields say different things.
    """
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ConfigError("max_tokens and max_completion_tokens are one field; give one of them")
    if body.top_logprobs is not None and not body.logprobs:
        raise ConfigError("top_logprobs takes effect with logprobs only", fix="set logprobs: true")
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    top = 0 if body.top_logprobs is None else body.top_logprobs
    schema = body.schema_of_answer
    sampling = body.sampling(most=most, logprobs=top if body.logprobs else None, schema=schema)

    def render(ready: Ready) -> list[Request]:
        if ready.spec is None:
            tokens = chat_tokens(tokenizer, messages_of(body))
            return [Request(ready, tokens, "", sampling, "text")]
        readout: ReadoutName = "own" if schema is None else "text"
        return [row_request(ready, only_text(body), sampling, readout)]

    return render


def completion_render(tokenizer: Any, body: CompletionBody, most_prompts: int) -> Render:
    """How texts become requests; see `chat_render`.

    Args:
        tokenizer: of the base.
        body: the request.
        most_prompts: in one request.

    Raises:
        ConfigError: too many prompts, or several for a stream.
    """
    prompts = prompts_of(body.prompt, most_prompts)
    if body.stream and len(prompts) > 1:
        raise ConfigError("a stream has one prompt", found=f"{len(prompts)} prompts")
    sampling = body.sampling(most=body.max_tokens, logprobs=body.logprobs, schema=None)
    return texts_render(tokenizer, prompts, sampling, "own")


def texts_render(
    tokenizer: Any, prompts: Sequence[Prompt], sampling: Sampling, readout: ReadoutName
) -> Render:
    """How single texts become requests: inputs of an adaptation's task, or text for the base.

    Args:
        tokenizer: of the base.
        prompts: texts, or tokens of the base.
        sampling: how tokens are chosen.
        readout: of an adaptation; the base generates, or embeds.
    """

    def render(ready: Ready) -> list[Request]:
        return [_text_request(tokenizer, ready, each, sampling, readout) for each in prompts]

    return render


def prompts_of(given: str | list[str] | list[int] | list[list[int]], most: int) -> list[Prompt]:
    """Every text or row of tokens in a field that may hold one or several.

    Args:
        given: the field.
        most: how many it may hold.

    Raises:
        ConfigError: none, or too many.
    """
    prompts: list[Prompt]
    if isinstance(given, str):
        prompts = [given]
    else:
        # A flat list of tokens is one prompt.
        own = tuple(each for each in given if isinstance(each, int))
        prompts = [own] if own else []
        prompts += [
            each if isinstance(each, str) else tuple(each)
            for each in given
            if not isinstance(each, int)
        ]
    if not 1 <= len(prompts) <= most:
        raise ConfigError(
            "too few or too many texts in one request",
            found=f"{len(prompts)}",
            expected=f"1 to {most}",
        )
    return prompts


def messages_of(body: ChatBody) -> list[Message]:
    """Role and text of every message; "developer" is OpenAI's newer word for "system"."""
    return [
        ("system" if each.role == "developer" else each.role, each.text) for each in body.messages
    ]


def only_text(body: ChatBody) -> str:
    """The one user message that an adaptation answers.

    Raises:
        DataError: there is more, or something else.
    """
    roles = [each.role for each in body.messages]
    if roles != ["user"]:
        raise DataError(
            "an adaptation carries its own instruction and answers one message of a user",
            found=", ".join(roles[:8]),
            expected="one message with the role user",
            fix="send the input alone, or name the base as the model",
        )
    return body.messages[0].text


def _text_request(
    tokenizer: Any, ready: Ready, prompt: Prompt, sampling: Sampling, readout: ReadoutName
) -> Request:
    if ready.spec is not None:
        if not isinstance(prompt, str):
            raise DataError(
                "an adaptation reads text, not tokens", fix="send the input as a string"
            )
        return row_request(ready, prompt, sampling, readout)
    if isinstance(prompt, str):
        pieces = PieceTokenizer(tokenizer)
        tokens = pieces.fixed(pieces.begin_text(prompt)) + pieces.plain(prompt)
    else:
        tokens = prompt
        if max(tokens, default=0) >= len(tokenizer):
            raise DataError(
                "a token is not in the base's vocabulary",
                found=f"{max(tokens)}",
                expected=f"0 to {len(tokenizer) - 1}",
            )
    if not tokens:
        raise DataError("the prompt is empty", fix="send at least one character")
    return Request(ready, tokens, "", sampling, "text" if readout == "own" else readout)
