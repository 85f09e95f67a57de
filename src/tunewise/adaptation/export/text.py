"""A prompt as plain text, with a place for the input.

prompt.txt    what the model reads before its answer, control tokens of the chat template
              included; the input stands where the placeholder stands
export.json   the placeholder, the readout, the base, and whether the text tokenised in one go
              gives the tokens that were measured
"""

from __future__ import annotations

from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._exact import (
    RECORD,
    placeholder_for,
    record_of,
    same_tokens,
    text_before,
    text_only,
)
from tunewise.adaptation.files import Files, json_bytes

TEXT = "prompt.txt"


class TextFormat:
    """Plain text."""

    name = "text"
    summary = "the prompt as plain text, with a place for the input"

    def files(self, source: Source) -> Files:
        """See `ExportFormat.files`."""
        renderer = text_only(source, self.name)
        mark = placeholder_for(renderer)
        record = record_of(
            source,
            renderer,
            self.name,
            placeholder=mark,
            same_tokens_in_one_go=same_tokens(source, renderer),
        )
        text = text_before(renderer, source.adaptation, mark)
        return {TEXT: text.encode("utf-8"), RECORD: json_bytes(record, "export")}


FORMAT = TextFormat()
