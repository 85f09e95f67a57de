"""What other tools made, as parts: PEFT checkpoints, prompts in files, merged checkpoints.

    peft     a folder with adapter_config.json and adapter_model.safetensors: LoRA, prompt or
             prefix tuning
    prompt   a text file with the instruction, or JSON with `instruction` and `demonstrations`
    merged   a folder with config.json and *.safetensors: the base with some or all tensors changed
    gguf     a GGUF file of the same

What would change the numbers and has no place in a part is refused, and so is every pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from tunewise.adaptation.attach import LORA_FIELDS
from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.export._exact import RECORD
from tunewise.adaptation.files import tensors_of
from tunewise.adaptation.foreign_weights import gguf_part, merged_part, tensor_file, unreadable
from tunewise.adaptation.parts import KVPrefixPart, Part, PromptTextPart, VirtualTokensPart
from tunewise.adaptation.peft_format import (
    CONFIG_FILE,
    PROMPT_EMBEDDINGS,
    TENSORS_FILE,
    low_rank_part,
    prefix_part,
)
from tunewise.adaptation.store import installed_versions
from tunewise.errors import AdaptationError
from tunewise.model.base import Base
from tunewise.model.prefix import compute_prefix, token_embeddings
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import TaskSpec

PEFT, PROMPT, MERGED, GGUF = "peft", "prompt", "merged", "gguf"
# Fields of a LoRA configuration that say how it was made or kept, and change no number of it.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}


class _Demonstration(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    input: str
    output: str


class _Prompt(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    instruction: str = ""
    demonstrations: list[_Demonstration] = []


def kind_of(source: Path) -> str:
    """What a file or folder holds: "peft", "prompt", "merged" or "gguf".

    Raises:
        AdaptationError: none of them.
    """
    if source.is_file():
        return GGUF if source.suffix.lower() == ".gguf" else PROMPT
    if (source / "adaptation.json").is_file():
        raise AdaptationError(
            "this is an adaptation already", found=str(source), fix="register it as it is"
        )
    if (source / CONFIG_FILE).is_file():
        return PEFT
    if (source / "config.json").is_file():
        return MERGED
    raise AdaptationError(
        "there is nothing here that can be taken in",
        found=str(source) if source.exists() else f"{source} does not exist",
        expected=f"a text or GGUF file, a folder with {CONFIG_FILE}, or one with config.json",
    )


def parts_of(source: Path, base: Base | None, kind: str) -> tuple[Part, ...]:
    """The parts in a file or folder.

    Args:
        source: what another tool made.
        base: the base it was made for; not needed for a prompt.
        kind: see `kind_of`.

    Raises:
        AdaptationError: it cannot be read, or holds what has no place in a part.
    """
    if kind == PROMPT:
        return (PromptTextPart(read_prompt(source)),)
    if base is None:
        raise AdaptationError("a base is needed to take this in", found=kind)
    if kind == PEFT:
        return (_from_peft(source, base),)
    return (gguf_part(source, base) if kind == GGUF else merged_part(source, base),)


def adaptation_of(
    parts: tuple[Part, ...], base: Base, spec: TaskSpec, decoding: Decoding, kind: str
) -> Adaptation:
    """Parts from elsewhere as an adaptation, which says so.

    Args:
        parts: what was taken in.
        base: the base they are for.
        spec: the task they are for.
        decoding: how answers are read out.
        kind: where they come from, see `kind_of`.
    """
    made = Provenance(
        method="import",
        settings={"from": kind},
        seed=0,
        base_name=base.name,
        base_fingerprint=base.fingerprint,
        dtype=base.dtype_name,
        data_hash="",
        work={},
        versions=installed_versions(),
    )
    return Adaptation(parts, decoding, spec, made)


def read_prompt(file: Path) -> PromptText:
    """A prompt from a text file, the whole of it being the instruction, or from JSON.

    Raises:
        AdaptationError: it cannot be read, or is empty.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            held = _Prompt.model_validate_json(text)
            shown = tuple(Demonstration(each.input, each.output) for each in held.demonstrations)
            prompt = PromptText(held.instruction, shown)
        else:
            prompt = PromptText(text.strip())
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise AdaptationError(
            "the prompt cannot be read",
            found=f"{file}: {str(error).partition(chr(10))[0]}",
            expected='text in UTF-8, or JSON: {"instruction": "...", "demonstrations": '
            '[{"input": "...", "output": "..."}]}',
        ) from error
    if not prompt.instruction.strip() and not prompt.demonstrations:
        raise AdaptationError("the prompt is empty", found=str(file), expected="some words")
    return prompt


def _from_peft(folder: Path, base: Base) -> Part:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = tensors_of(tensor_file(folder, TENSORS_FILE).read_bytes())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    if kind in ("PROMPT_TUNING", "PREFIX_TUNING"):
        found = tensors.get(PROMPT_EMBEDDINGS)
        if found is None or len(tensors) > 1 or found.dim() != 2:
            raise AdaptationError(
                "the checkpoint does not hold a soft prompt",
                found=", ".join(tensors) or "no tensor",
                expected=f"{PROMPT_EMBEDDINGS}, a tensor of two axes",
            )
        if kind == "PREFIX_TUNING":
            return _prefix(found, base, replaces_text=_replaces_text(folder))
        return VirtualTokensPart(found.float(), _replaces_text(folder))
    if kind != "LORA":
        raise AdaptationError(
            "this kind of PEFT checkpoint cannot be taken in",
            found=f"peft_type {kind!r}",
            expected="LORA, PROMPT_TUNING or PREFIX_TUNING",
        )
    _refuse_strange(config)
    return low_rank_part(config, tensors, base.name)


def _replaces_text(folder: Path) -> bool:
    """Whether what is trained stands in the text's place: only our own exports say so."""
    try:
        told = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return told["replaces_shared_text"] is True
    except (OSError, ValueError, TypeError, LookupError):
        return False


def _prefix(flat: Tensor, base: Base, *, replaces_text: bool) -> KVPrefixPart:
    with torch.no_grad():
        one = compute_prefix(base, token_embeddings(base, [0]))
    shapes = {tuple(tensor.shape) for tensor in one.tensors()}
    columns = sum(tensor.numel() for tensor in one.tensors())
    if len(shapes) > 1 or flat.shape[1] != columns:
        raise AdaptationError(
            "the keys and values do not fit the base",
            found=f"{flat.shape[1]:,} numbers a position",
            expected=f"{columns:,}, and layers alike",
        )
    heads = int(shapes.pop()[1])
    return prefix_part(flat, layers=len(one.keys), heads=heads, replaces_text=replaces_text)


def _refuse_strange(config: Mapping[str, Any]) -> None:
    known = {*LORA_FIELDS, *_WITHOUT_EFFECT}
    strange = {name: value for name, value in config.items() if value and name not in known}
    # Others change the base's own weights, which the stored A and B then stand on.
    if config.get("init_lora_weights", True) not in (True, False, "gaussian", "orthogonal", "eva"):
        strange["init_lora_weights"] = config["init_lora_weights"]
    if config.get("bias") not in (None, "none"):
        strange["bias"] = config["bias"]
    if strange:
        raise AdaptationError(
            "the LoRA does more than a low_rank part holds",
            found=", ".join(f"{name} = {value!r}" for name, value in sorted(strange.items())),
            expected=f"none of these; {', '.join(LORA_FIELDS)} are taken over",
            fix="merge it with PEFT and take the merged checkpoint in",
        )
