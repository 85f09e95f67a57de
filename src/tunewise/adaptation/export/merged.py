"""Weights that hold the adaptation, as a Hugging Face checkpoint, with a proof of its logits.

    config.json, model*.safetensors   the base with the change in it, float32
    tokenizer files, licence          the base's own, byte by byte
    prompt.txt                        the text before the answer, with a place for the input
    export.json                       the record, and `parity`: what transformers alone computes
                                      from the folder, held against what is computed here

Float32, since rounding the sum of weights and change to the base's bfloat16 is another model than
the one that was measured. Whoever casts it later measures that anew.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._exact import (
    RECORD,
    check_one_prompt,
    placeholder_for,
    probes_for,
    record_of,
    renderer_of,
    same_tokens,
    text_before,
    tokens_before,
)
from tunewise.adaptation.export._parity import DTYPE, our_logits, plain_logits, plain_model, proof
from tunewise.adaptation.export.text import TEXT
from tunewise.adaptation.files import Files, json_bytes, part_files
from tunewise.adaptation.folder import files_in
from tunewise.adaptation.parts import LowRankPart, PromptTextPart, WeightsPart
from tunewise.errors import AdaptationError
from tunewise.model.quiet import quiet_transformers

_HOLDS = (PromptTextPart, LowRankPart, WeightsPart)
# Of the base's folder: what is not weights, and runs no code.
_COPIED = (".json", ".txt", ".jinja", ".model", ".md")
_NOT_COPIED = ("config.json", "model.safetensors.index.json")
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


class MergedFormat:
    """Merged checkpoints."""

    name = "merged"
    summary = "low_rank and weights put into the base: a Hugging Face checkpoint, with a proof"

    def files(self, source: Source) -> Files:
        """See `ExportFormat.files`."""
        return merged_files(source, self.name)


def merged_files(source: Source, name: str) -> Files:
    """The files of a merged checkpoint.

    Args:
        source: what is exported.
        name: of the format, for the record and for messages.

    Raises:
        AdaptationError: a part has no place in weights, or the checkpoint computes something else.
    """
    _refuse(source, name)
    renderer = renderer_of(source)
    rows = [
        tokens_before(renderer, source.adaptation, text) for text in probes_for(source, renderer)
    ]
    base = source.load_base(DTYPE)
    folder, base_name, device = Path(base.path), base.name, base.device
    if not base.path:
        raise AdaptationError(
            f"this adaptation cannot be exported as {name}",
            found="a base that was made in memory",
            expected="a base in a folder",
        )
    ours = our_logits(base, source, rows)
    del base  # one model at a time in memory
    with tempfile.TemporaryDirectory() as where, warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        plain = _save_merged(source, folder, Path(where), rows, device)
        theirs = plain_logits(plain_model(Path(where), device), rows, device)
        parity = proof(ours, theirs, plain, "transformers", base_name)
        files = {each: (Path(where) / each).read_bytes() for each in files_in(Path(where))}
    files |= {each: data for each, data in _of_base(folder).items() if each not in files}
    mark = placeholder_for(renderer)
    record = record_of(
        source,
        renderer,
        name,
        placeholder=mark,
        same_tokens_in_one_go=same_tokens(source, renderer),
        parity=parity,
    )
    text = text_before(renderer, source.adaptation, mark)
    return {**files, TEXT: text.encode("utf-8"), RECORD: json_bytes(record, "export")}


def _refuse(source: Source, name: str) -> None:
    adaptation = source.adaptation
    inside = [part for part in adaptation.parts if isinstance(part, LowRankPart | WeightsPart)]
    others = [part.kind for part in adaptation.parts if not isinstance(part, _HOLDS)]
    if others or not inside:
        raise AdaptationError(
            f"this adaptation cannot be exported as {name}",
            found=f"parts {' + '.join(adaptation.kinds) or 'none'}",
            expected="a low_rank or weights part, or both, besides a text at most: nothing else "
            "has a place in weights",
            fix="--as peft" if others else "--as text",
        )
    check_one_prompt(adaptation, name)


def _save_merged(
    source: Source, folder: Path, where: Path, rows: list[tuple[int, ...]], device: torch.device
) -> list[torch.Tensor]:
    """Write the merged model; returns the untouched base's logits."""
    from peft import PeftModel

    model = plain_model(folder, device)
    plain = plain_logits(model, rows, device)
    weights, low_rank = source.adaptation.part(WeightsPart), source.adaptation.part(LowRankPart)
    if weights is not None:
        named = dict(model.named_parameters())
        with torch.no_grad():
            for each, tensor in weights.tensors.items():
                named[each].copy_(tensor.to(device=device, dtype=torch.float32))
    if low_rank is not None:
        _, own = part_files(low_rank, source.adaptation.provenance.base_name, {})
        with tempfile.TemporaryDirectory() as checkpoint:
            for each, data in own.items():
                (Path(checkpoint) / each).write_bytes(data)
            wrapped: Any = PeftModel.from_pretrained(model, checkpoint)
            model = wrapped.merge_and_unload(safe_merge=True)
    model.save_pretrained(where)
    return plain


def _of_base(folder: Path) -> Files:
    """The tokenizer's files and the licence of a base."""
    return {
        name: (folder / name).read_bytes()
        for name in files_in(folder)
        if "/" not in name
        and name not in _NOT_COPIED
        and (name.endswith(_COPIED) or name.upper().startswith(_LICENCES))
    }


FORMAT = MergedFormat()
