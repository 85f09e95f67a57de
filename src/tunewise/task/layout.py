"""Where each text of a prompt stands: fixed pieces of text with slots between them.

A chat template is rendered once around sentinels and cut there, so the texts of users never pass
through the template: it cannot strip, rewrite or take them for control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from tunewise.errors import ConfigError
from tunewise.task.prompt import SYSTEM_SLOT, USER_SLOT

INSTRUCTION = "instruction"
INPUT = "input"
ANSWER = "answer"
_DIRECTIVES = ("%d", "%m", "%b", "%B", "%y", "%Y", "%a", "%A", "%H", "%M", "%S")
# Some templates write today's date; a fixed one keeps prompts equal from day to day.
_DAY = date(2024, 7, 26)
# Functions cannot be handed to a template, but a macro of it can hide the clock.
_FIXED_CLOCK = "".join(
    (
        "{%- macro strftime_now(format) -%}{{- format",
        *(f".replace('{each}', '{_DAY.strftime(each)}')" for each in _DIRECTIVES),
        " -}}{%- endmacro -%}",
    )
)
_SENTINEL = re.compile(r"TUNEWISE(INSTRUCTION|INPUT|ANSWER)SLOT(\d+)END")


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one text.

    Attributes:
        role: `INSTRUCTION`, `INPUT` or `ANSWER`.
        turn: number of the solved example it belongs to; the row itself is the last turn.
        lead: text that is tokenised together with the slot's own, a space or nothing.
    """

    role: str
    turn: int
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Fixed texts and slots in order; the last slot is the answer's.

    Attributes:
        pieces: fixed texts and slots.
        end_text: what follows the answer up to and including the token that ends it, as the
            template writes it; empty where there is no template.
        closing_text: what the template writes after that.
        messages: role and content of every chat message before the answer, as the template was
            given them; empty where there is no template.
    """

    pieces: tuple[str | Slot, ...]
    end_text: str
    closing_text: str
    messages: tuple[tuple[str, tuple[str | Slot, ...]], ...] = ()


def plain_layout(*, instructed: bool, turns: int) -> Layout:
    """The layout for models without a chat template.

    Args:
        instructed: whether there is an instruction.
        turns: solved examples shown before the row.
    """
    pieces: list[str | Slot] = [Slot(INSTRUCTION, 0)] if instructed else []
    separator = "\n\n" if instructed else ""
    for turn in range(turns + 1):
        pieces += [f"{separator}Input:", Slot(INPUT, turn, " "), "\nOutput:"]
        pieces.append(Slot(ANSWER, turn, " "))
        separator = "\n\n"
    return Layout(tuple(pieces), "", "")


def chat_layout(tokenizer: Any, *, instructed: bool, turns: int, slot: str = SYSTEM_SLOT) -> Layout:
    """The layout that a tokenizer's chat template gives.

    In the system slot the instruction is the system message where the template takes one, else the
    head of the first user turn. In the user slot it is that head, and a system message that the
    template writes of its own stays. Without an instruction an empty system message is sent to
    templates that would otherwise write one of their own.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        instructed: whether there is an instruction.
        turns: solved examples shown before the row.
        slot: `SYSTEM_SLOT` or `USER_SLOT`.

    Raises:
        ConfigError: the template cannot be rendered, or drops or repeats a text.
    """
    first_error: Exception | None = None
    for messages in _candidates(tokenizer, instructed=instructed, turns=turns, slot=slot):
        try:
            text = _render(tokenizer, messages)
        except Exception as error:  # templates raise whatever they like
            first_error = first_error or error
            continue
        pieces = _cut(text)
        if _slots(pieces) == _expected_slots(instructed=instructed, turns=turns):
            given = ((each["role"], tuple(_cut(each["content"]))) for each in messages[:-1])
            return replace(_finish(tokenizer, pieces), messages=tuple(given))
    raise ConfigError(
        "the chat template of this base model cannot be used",
        found=str(first_error) if first_error else "it drops, repeats or reorders messages",
        expected="a template that writes every user and assistant message once, in order",
        fix="use another base model, or remove the chat template from its folder",
    )


def _candidates(
    tokenizer: Any, *, instructed: bool, turns: int, slot: str
) -> list[list[dict[str, str]]]:
    instruction = _sentinel(INSTRUCTION, 0)
    turns_only: list[dict[str, str]] = []
    for turn in range(turns + 1):
        turns_only.append({"role": "user", "content": _sentinel(INPUT, turn)})
        turns_only.append({"role": "assistant", "content": _sentinel(ANSWER, turn)})
    if instructed:
        head = {"role": "user", "content": f"{instruction}\n\n{turns_only[0]['content']}"}
        in_user = [head, *turns_only[1:]]
        if slot == USER_SLOT:
            return [in_user]
        return [[{"role": "system", "content": instruction}, *turns_only], in_user]
    silent = [{"role": "system", "content": ""}, *turns_only]
    if _writes_own_system_message(tokenizer):
        return [silent, turns_only]
    return [turns_only]


def _writes_own_system_message(tokenizer: Any) -> bool:
    """True where the text before the first user turn holds more than before a later one."""
    messages = [
        {"role": "user", "content": _sentinel(INPUT, 0)},
        {"role": "assistant", "content": _sentinel(ANSWER, 0)},
        {"role": "user", "content": _sentinel(INPUT, 1)},
        {"role": "assistant", "content": _sentinel(ANSWER, 1)},
    ]
    try:
        pieces = _cut(_render(tokenizer, messages))
    except Exception:  # the caller renders again and reports
        return False
    if len(pieces) < 5 or isinstance(pieces[0], Slot):
        return False
    first = pieces[0].removeprefix(tokenizer.bos_token or "")
    later = pieces[4] if isinstance(pieces[4], str) else ""
    return not str(later).endswith(first)


def _sentinel(role: str, turn: int) -> str:
    return f"TUNEWISE{role.upper()}SLOT{turn}END"


def _render(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    template = str(tokenizer.get_chat_template())
    if "strftime_now" in template:
        template = _FIXED_CLOCK + template
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            chat_template=template,
            tokenize=False,
            date_string=_DAY.strftime("%d %b %Y"),
        )
    )


def _cut(text: str) -> list[str | Slot]:
    pieces: list[str | Slot] = []
    end = 0
    for match in _SENTINEL.finditer(text):
        if match.start() > end:
            pieces.append(text[end : match.start()])
        pieces.append(Slot(match.group(1).lower(), int(match.group(2))))
        end = match.end()
    if text[end:]:
        pieces.append(text[end:])
    return pieces


def _slots(pieces: Sequence[str | Slot]) -> list[Slot]:
    return [piece for piece in pieces if isinstance(piece, Slot)]


def _expected_slots(*, instructed: bool, turns: int) -> list[Slot]:
    slots = [Slot(INSTRUCTION, 0)] if instructed else []
    for turn in range(turns + 1):
        slots += [Slot(INPUT, turn), Slot(ANSWER, turn)]
    return slots


def _finish(tokenizer: Any, pieces: list[str | Slot]) -> Layout:
    """Part what follows the last answer at the first control token: that one ends answers."""
    tail = pieces[-1] if isinstance(pieces[-1], str) else ""
    body = tuple(pieces[:-1] if tail else pieces)
    controls = [str(token) for token in tokenizer.all_special_tokens]
    starts = [(tail.find(token), -len(token), token) for token in controls if token in tail]
    if not starts:
        return Layout(body, "", tail)
    start, _, token = min(starts)
    end = start + len(token)
    return Layout(body, tail[:end], tail[end:])
