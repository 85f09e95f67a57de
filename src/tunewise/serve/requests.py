"""From texts and messages to the tokens of a request, through the one renderer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tunewise.errors import DataError
from tunewise.serve.contract import GREEDY, ReadoutName, Ready, Request, Sampling
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Kind, TaskSpec

Message = tuple[Literal["system", "user", "assistant"], str]
"""Role and text of one turn of a conversation."""


def row_request(
    ready: Ready, text: str, sampling: Sampling = GREEDY, readout: ReadoutName = "own"
) -> Request:
    """A request for one input of an adaptation's task.

    Args:
        ready: the adaptation.
        text: the input.
        sampling: how tokens are chosen.
        readout: as of `Request`.

    Raises:
        DataError: the base alone has no task.
    """
    if ready.renderer is None:
        raise DataError(
            "the base alone has no task that a row could be rendered for",
            expected="the tokens of a conversation (`chat_tokens`) or of a text",
        )
    renderers = [each.renderer for each in ready.others]
    others = tuple(each.row_tokens(text) for each in renderers if each is not None)
    return Request(ready, ready.renderer.row_tokens(text), text, sampling, readout, others)


def chat_tokens(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    """Tokens of a conversation for the base alone, up to where the answer begins.

    Texts that look like control tokens are plain text, as everywhere.

    Args:
        tokenizer: of the base.
        messages: a system message at most, then user and assistant by turns, a user's last.

    Raises:
        DataError: the roles stand in another order.
    """
    system = [text for role, text in messages[:1] if role == "system"]
    turns = messages[len(system) :]
    roles = [role for role, _ in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise DataError(
            "the messages do not stand in an order that the base's template knows",
            found=", ".join(role for role, _ in messages) or "no messages",
            expected="one system message at most, then user and assistant by turns, a user's last",
        )
    texts = [text for _, text in turns]
    shown = tuple(
        Demonstration(asked, answered)
        for asked, answered in zip(texts[:-1:2], texts[1::2], strict=True)
    )
    instruction = system[0] if system else ""
    spec = TaskSpec("chat", Kind.GENERATION, instruction, (), "rouge_l")
    renderer = Renderer(tokenizer, spec, PromptText(instruction, shown))
    return renderer.shared_tokens + renderer.row_tokens(texts[-1])
