"""Trained parts as PEFT checkpoints, with a proof that PEFT computes the same logits.

    adapter_config.json, adapter_model.safetensors   the one trained part, or the low_rank of two
    virtual_tokens/                                  the other of two
    prompt.txt      the text behind it, with a place for the input; whether to put it is told by
                    export.json
    export.json     the record, and `parity`: for every probe the largest difference between the
                    logits computed here and by PEFT, both in float32, and how far both are from
                    the untouched base

`low_rank` is PEFT's LoRA, `virtual_tokens` its prompt tuning, `kv_prefix` its prefix tuning.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from tunewise.adaptation.export._parity import (
    DTYPE,
    our_logits,
    plain_logits,
    plain_model,
    proof,
)
from tunewise.adaptation.export.text import TEXT
from tunewise.adaptation.files import Files, json_bytes, part_files, tensor_bytes
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    VirtualTokensPart,
    text_replaced,
)
from tunewise.adaptation.peft_format import (
    CONFIG_FILE,
    PROMPT_EMBEDDINGS,
    TENSORS_FILE,
    prefix_tuning_config,
)
from tunewise.errors import AdaptationError

_PROVEN = (LowRankPart, VirtualTokensPart, KVPrefixPart)


class PeftFormat:
    """PEFT checkpoints."""

    name = "peft"
    summary = "trained parts as PEFT checkpoints, with a proof that PEFT computes the same"

    def files(self, source: Source) -> Files:
        """See `ExportFormat.files`."""
        trained = _trained(source)
        check_one_prompt(source.adaptation, self.name)
        renderer = renderer_of(source)
        files, folders = _checkpoints(trained, source.adaptation.provenance.base_name)
        rows = [
            tokens_before(renderer, source.adaptation, text)
            for text in probes_for(source, renderer)
        ]
        parity = _parity(source, rows, files, folders)
        mark = placeholder_for(renderer)
        text = text_before(renderer, source.adaptation, mark)
        record = record_of(
            source,
            renderer,
            self.name,
            placeholder=mark,
            same_tokens_in_one_go=same_tokens(source, renderer),
            folders=folders,
            replaces_shared_text=text_replaced(source.adaptation.parts),
            parity=parity,
        )
        return {**files, TEXT: text.encode("utf-8"), RECORD: json_bytes(record, "export")}


def _trained(source: Source) -> list[Part]:
    """The parts that PEFT holds, the one that stands in the root first.

    Raises:
        AdaptationError: there is none, or PEFT has no place for one, or not for both.
    """
    parts = source.adaptation.parts
    trained = [part for part in parts if not isinstance(part, PromptTextPart)]
    before = [part for part in trained if isinstance(part, VirtualTokensPart | KVPrefixPart)]
    alone = [part for part in before if isinstance(part, KVPrefixPart) and len(trained) > 1]
    if not trained or len(before) > 1 or alone or not all(isinstance(p, _PROVEN) for p in trained):
        raise AdaptationError(
            "this adaptation cannot be exported as peft",
            found=f"parts {' + '.join(source.adaptation.kinds) or 'none'}",
            expected="low_rank, virtual_tokens or kv_prefix, or the first two together",
            fix="--as text" if not trained else "predict with Tunewise",
        )
    return sorted(trained, key=lambda part: not isinstance(part, LowRankPart))


def _checkpoints(trained: Sequence[Part], base_name: str) -> tuple[Files, dict[str, str]]:
    """PEFT's files, and the folder of every kind of part."""
    files: Files = {}
    folders: dict[str, str] = {}
    for part in trained:
        folder = "" if not folders else f"{part.kind}/"
        folders[part.kind] = folder
        if isinstance(part, KVPrefixPart):
            own = {
                CONFIG_FILE: json_bytes(_prefix_config(part, base_name), part.kind),
                TENSORS_FILE: tensor_bytes({PROMPT_EMBEDDINGS: flat_prefix(part)}),
            }
        else:
            _, own = part_files(part, base_name, {})
        files |= {folder + name: data for name, data in own.items()}
    return files, folders


def _prefix_config(part: KVPrefixPart, base_name: str) -> dict[str, Any]:
    heads, positions, width = part.keys[0].shape
    return prefix_tuning_config(
        positions, base_name, layers=len(part.keys), heads=heads, head_width=width
    )


def flat_prefix(part: KVPrefixPart) -> Tensor:
    """(P, 2 x layers x H x head width): keys and values as PEFT's prefix tuning stores them.

    Args:
        part: keys and values of every layer, (H, P, head width) each.

    Raises:
        AdaptationError: the layers differ in shape, for which PEFT's file has no place.
    """
    shapes = {tuple(tensor.shape) for tensor in (*part.keys, *part.values)}
    if len(shapes) > 1:
        raise AdaptationError(
            "this adaptation cannot be exported as peft",
            found=f"keys and values of shapes {sorted(shapes)}",
            expected="the same shape in every layer",
            fix="predict with Tunewise",
        )
    pairs = zip(part.keys, part.values, strict=True)
    # (2 x layers, H, P, width): a layer's keys, then its values, then the next layer's.
    stacked = torch.stack([tensor for pair in pairs for tensor in pair])
    return stacked.permute(2, 0, 1, 3).flatten(1).contiguous()


def _parity(
    source: Source, rows: Sequence[tuple[int, ...]], files: Files, folders: dict[str, str]
) -> dict[str, Any]:
    """The proof, as JSON values.

    Raises:
        AdaptationError: PEFT computes something else.
    """
    base = source.load_base(DTYPE)
    folder, name = Path(base.path), base.name
    ours = our_logits(base, source, rows)
    device = base.device
    # One model at a time in memory.
    del base
    with tempfile.TemporaryDirectory() as where:
        for file, data in files.items():
            (Path(where) / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(where) / file).write_bytes(data)
        theirs, plain = _peft_logits(folder, Path(where), folders, rows, device)
    return proof(ours, theirs, plain, "PEFT", name)


def _peft_logits(
    base_folder: Path,
    folder: Path,
    folders: dict[str, str],
    rows: Sequence[tuple[int, ...]],
    device: torch.device,
) -> tuple[list[Tensor], list[Tensor]]:
    """PEFT's logits at the same places, and the untouched base's."""
    from peft import PeftModel

    batches = [torch.tensor([row], device=device) for row in rows]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        untouched = plain_model(base_folder, device)
        plain = plain_logits(untouched, rows, device)
        first, *others = folders.values()
        if not others:
            model = PeftModel.from_pretrained(untouched, folder / first).eval()
            found = [
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
                .logits[0, -ids.shape[1] :]
                .float()
                .cpu()
                for ids in batches
            ]
        else:
            prompted = PeftModel.from_pretrained(untouched, folder / others[0]).eval()
            tuned = PeftModel.from_pretrained(
                plain_model(base_folder, device), folder / first
            ).eval()
            found = [_together(prompted, tuned, ids).float().cpu() for ids in batches]
    return found, plain


def _together(prompted: Any, tuned: Any, ids: Tensor) -> Tensor:
    """(T, V) logits behind a PEFT prompt, through a PEFT LoRA's own embedding layer."""
    before = prompted.get_prompt(batch_size=1)
    embedded = torch.cat([before, tuned.get_input_embeddings()(ids)], dim=1)
    logits: Tensor = tuned(inputs_embeds=embedded).logits[0]
    return logits[before.shape[1] :]


FORMAT = PeftFormat()
