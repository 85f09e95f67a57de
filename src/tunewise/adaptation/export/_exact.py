"""What the formats share: the prompt as it was measured, a place for the input, and the record."""

from __future__ import annotations

import itertools
from typing import Any

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.parts import PromptTextPart, text_replaced
from tunewise.adaptation.store import fingerprint_of
from tunewise.errors import AdaptationError
from tunewise.task.render import Renderer

RECORD = "export.json"
# Inputs the exports are tried on, beside those of the demonstrations.
PROBES = ("A short text.", "  two  spaces, 3 numbers\nand a line", "Ünïcode 日本 🙂 <b>{x}</b>")


def renderer_of(source: Source) -> Renderer:
    """The renderer that fitting, measuring and predicting used."""
    return Renderer(source.tokenizer, source.adaptation.spec, source.adaptation.prompts[0])


def text_only(source: Source, name: str) -> Renderer:
    """The renderer of an adaptation that is a prompt and nothing else.

    Args:
        source: what is exported.
        name: of the format, for the message.

    Raises:
        AdaptationError: it holds another part, or another prompt than one that is fixed.
    """
    adaptation = source.adaptation
    others = [kind for kind in adaptation.kinds if kind != PromptTextPart.kind]
    if others or not adaptation.kinds:
        raise AdaptationError(
            f"this adaptation cannot be exported as {name}",
            found=f"parts {' + '.join(adaptation.kinds) or 'none'}",
            expected="a prompt_text part alone: a text without the rest is not what was measured",
            fix="--as peft, where the other parts allow it",
        )
    check_one_prompt(adaptation, name)
    return renderer_of(source)


def check_one_prompt(adaptation: Adaptation, name: str) -> None:
    """Refuse a prompt that is another one for every row, and several that answer together.

    Args:
        adaptation: what is exported.
        name: of the format, for the message.

    Raises:
        AdaptationError: it shows the demonstrations nearest to the row, or is an ensemble.
    """
    part = adaptation.part(PromptTextPart)
    if part is not None and part.others:
        raise AdaptationError(
            f"this adaptation cannot be exported as {name}",
            found=f"{len(part.prompts)} prompts whose label scores are averaged",
            expected="one prompt: no other tool asks with several and averages",
            fix="predict or serve with Tunewise, or search with --ensemble 1",
        )
    if part is not None and part.prompt.nearest:
        raise AdaptationError(
            f"this adaptation cannot be exported as {name}",
            found=f"{part.prompt.nearest} demonstrations that are chosen for every row anew",
            expected="a prompt that is the same before every row",
            fix="predict with Tunewise, or search with --pick balanced",
        )


def placeholder_for(renderer: Renderer) -> str:
    """What stands for the input; it occurs nowhere else in the prompt.

    Args:
        renderer: of the prompt.
    """
    around = renderer.shared_text + renderer.row_text("")
    names = itertools.chain(["{input}"], (f"{{input_{n}}}" for n in itertools.count(1)))
    return next(name for name in names if name not in around)


def text_before(renderer: Renderer, adaptation: Adaptation, text: str) -> str:
    """The text that the model reads before its answer.

    Args:
        renderer: of the prompt.
        adaptation: its virtual tokens or prefix may stand in place of the shared text.
        text: the row's input.
    """
    shared = "" if text_replaced(adaptation.parts) else renderer.shared_text
    return shared + renderer.row_text(text)


def tokens_before(renderer: Renderer, adaptation: Adaptation, text: str) -> tuple[int, ...]:
    """The tokens of `text_before`, behind the tokenizer's begin-of-text token if it has one."""
    shared = () if text_replaced(adaptation.parts) else renderer.shared_tokens
    return shared + renderer.row_tokens(text)


def probes_for(source: Source, renderer: Renderer) -> tuple[str, ...]:
    """Inputs to try an export on."""
    return (*PROBES, *source.probes, *(each.input for each in renderer.prompt.demonstrations))


def same_tokens(source: Source, renderer: Renderer) -> bool:
    """Whether the text, tokenised in one go, gives the tokens that were measured.

    Pieces are tokenised one by one here; a tokenizer may merge across a seam where it is given the
    whole text. Tried on the probes.
    """
    for text in probes_for(source, renderer):
        whole = renderer.begin_text + text_before(renderer, source.adaptation, text)
        own = source.tokenizer(whole, add_special_tokens=False).input_ids
        if tuple(own) != tokens_before(renderer, source.adaptation, text):
            return False
    return True


def record_of(source: Source, renderer: Renderer, name: str, **besides: Any) -> dict[str, Any]:
    """What every export says of itself; JSON values.

    Args:
        source: what is exported.
        renderer: of its prompt.
        name: of the format.
        besides: what the format adds.
    """
    adaptation, made = source.adaptation, source.adaptation.provenance
    return {
        "format": 1,
        "as": name,
        "adaptation": fingerprint_of(adaptation),
        "method": made.method,
        "base": {"name": made.base_name, "fingerprint": made.base_fingerprint},
        "task": {
            "name": adaptation.spec.name,
            "kind": adaptation.spec.kind,
            "labels": adaptation.spec.labels,
        },
        "readout": adaptation.decoding,
        "begin_text": renderer.begin_text,
        "end_text": renderer.answer_text("").strip(),
        **besides,
    }
