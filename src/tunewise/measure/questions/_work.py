"""How many token passes answering takes, before it is done."""

from __future__ import annotations

from collections.abc import Sequence

from tunewise.adaptation.attach import computed_positions
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.predict import needs_base
from tunewise.adaptation.readout import label_sequences
from tunewise.model.base import Base
from tunewise.model.score import scoring_positions
from tunewise.task.render import Renderer


def answering_passes(base: Base, adaptation: Adaptation, inputs: Sequence[str]) -> int:
    """Token passes of answering these inputs once, what stands before them included.

    Exact for scored labels but for padding; for generated answers as if each took its limit.

    Args:
        base: the base model.
        adaptation: as loaded.
        inputs: texts.
    """
    if not needs_base(adaptation) or not inputs:
        return 0
    renderers = [Renderer(base.tokenizer, adaptation.spec, each) for each in adaptation.prompts]
    return sum(_behind(base, adaptation, renderer, inputs) for renderer in renderers)


def _behind(base: Base, adaptation: Adaptation, renderer: Renderer, inputs: Sequence[str]) -> int:
    """Those behind one of the adaptation's prompts."""
    before = computed_positions(renderer, adaptation.parts)
    rows = [renderer.row_tokens(text) for text in inputs]
    decoding = adaptation.decoding
    if decoding.mode == "score":
        return before + scoring_positions(base, rows, label_sequences(renderer))
    limit = decoding.max_new_tokens
    if decoding.mode == "trie":
        limit = max(len(tokens) for tokens in renderer.label_tokens())
    return before + sum(len(row) + limit for row in rows)
