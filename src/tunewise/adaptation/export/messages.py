"""A prompt as a list of chat messages, as chat endpoints take it.

    messages.json   role and content of every message; the input stands where the placeholder stands
    export.json     the placeholder, the readout, the base

The base's own chat template, given these messages, must write the bytes that were measured.
"""

from __future__ import annotations

import itertools
from typing import Any

from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._exact import (
    RECORD,
    placeholder_for,
    probes_for,
    record_of,
    same_tokens,
    text_only,
)
from tunewise.adaptation.files import Files, json_bytes
from tunewise.errors import AdaptationError
from tunewise.task.render import Renderer

MESSAGES = "messages.json"
_SHOWN = 60


class MessagesFormat:
    """Chat messages."""

    name = "messages"
    summary = "the prompt as a list of chat messages, with a place for the input"

    def files(self, source: Source) -> Files:
        """See `ExportFormat.files`."""
        renderer = text_only(source, self.name)
        check_messages(source, renderer, self.name)
        mark = placeholder_for(renderer)
        record = record_of(
            source,
            renderer,
            self.name,
            placeholder=mark,
            same_tokens_in_one_go=same_tokens(source, renderer),
        )
        return {
            MESSAGES: json_bytes(renderer.messages(mark), "messages"),
            RECORD: json_bytes(record, "export"),
        }


def check_messages(source: Source, renderer: Renderer, name: str) -> None:
    """Refuse messages that a server would not turn into the bytes that were measured.

    Args:
        source: what is exported.
        renderer: of its prompt.
        name: of the format, for the message.

    Raises:
        AdaptationError: the base has no chat template, or it writes something else.
    """
    base_name = source.adaptation.provenance.base_name
    if not renderer.messages(""):
        raise AdaptationError(
            f"this adaptation cannot be exported as {name}",
            found=f"{base_name} has no chat template",
            expected="a base that is given chat messages",
            fix="--as text",
        )
    for text in probes_for(source, renderer):
        measured = renderer.shared_text + renderer.row_text(text)
        rendered = _rendered(source.tokenizer, renderer.messages(text))
        if rendered != measured:
            at = _first_difference(rendered, measured)
            raise AdaptationError(
                f"this adaptation cannot be exported as {name}",
                found=f"the chat template of {base_name} writes "
                f"{rendered[at : at + _SHOWN]!r} from place {at} on",
                expected=f"{measured[at : at + _SHOWN]!r}, which was measured",
                fix="--as text, which holds the bytes themselves",
            )


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(itertools.zip_longest(one, other))
    return next(place for place, pair in pairs if pair[0] != pair[1])


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """What a server makes of the messages."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


FORMAT = MessagesFormat()
