"""What other tools made, as parts: PEFT checkpoints, prompts in files, merged checkpoints.

    peft     a folder with adapter_config.json and adapter_model.safetensors: LoRA, prompt or
             prefix tuning
    prompt   a text file with the instruction, or JSON with `instruction` and `demonstrations`
    merged   a folder with config.json and *.safetensors: the base with some or all tensors changed

What would change the numbers and has no place in a part is refused, and so is every pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunewise.adaptation.attach import LORA_FIELDS
from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.export._exact import RECORD
from tunewise.adaptation.files import tensors_of
from tunewise.adaptation.parts import (
    KVPrefixPart,
    Part,
    PromptTextPart,
    VirtualTokensPart,
    WeightsPart,
)
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
from tunewise.model.fingerprint import tokenizer_hash
from tunewise.model.prefix import compute_prefix, token_embeddings
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import TaskSpec

PEFT, PROMPT, MERGED = "peft", "prompt", "merged"
KINDS = (PEFT, PROMPT, MERGED)
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
    """What a file or folder holds: "peft", "prompt" or "merged".

    Raises:
        AdaptationError: none of them.
    """
    if source.is_file():
        return PROMPT
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
        expected=f"a text file, a folder with {CONFIG_FILE}, or one with config.json",
    )


def parts_of(source: Path, base: Base | None, kind: str) -> tuple[Part, ...]:
    """The parts in a file or folder.

    Args:
        source: what another tool made.
        base: the base it was made for; not needed for a prompt.
        kind: "peft", "prompt" or "merged".

    Raises:
        AdaptationError: it cannot be read, or holds what has no place in a part.
    """
    if kind == PROMPT:
        return (PromptTextPart(read_prompt(source)),)
    if base is None:
        raise AdaptationError("a base is needed to take this in", found=kind)
    if kind == PEFT:
        return (_from_peft(source, base),)
    return (_from_merged(source, base),)


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
        tensors = tensors_of(_tensor_file(folder, TENSORS_FILE).read_bytes())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
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


def _from_merged(folder: Path, base: Base) -> Part:
    """The tensors of a checkpoint that are not the base's."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # Whatever files in the user's folder make transformers raise, they are not usable.
        raise _unreadable(folder, error) from error
    if tokenizer_hash(tokenizer) != tokenizer_hash(base.tokenizer):
        raise AdaptationError(
            "the checkpoint has another tokenizer or chat template than the base",
            found=str(folder),
            expected=f"those of {base.name}",
            fix="use the checkpoint as a base of its own: --base FOLDER",
        )
    named = dict(base.model.named_parameters())
    tied = {name: tensor for name, tensor in base.model.state_dict().items() if name not in named}
    changed: dict[str, Tensor] = {}
    seen: set[str] = set()
    for name, tensor in _tensors(folder):
        held = named.get(name, tied.get(name))
        if held is None or held.shape != tensor.shape:
            raise AdaptationError(
                "a tensor of the checkpoint does not fit the base",
                found=f"{name} of shape {tuple(tensor.shape)}",
                expected="no such tensor" if held is None else f"shape {tuple(held.shape)}",
            )
        seen.add(name)
        cast = tensor.to(base.dtype) if tensor.is_floating_point() else tensor
        if not cast.equal(held.detach().cpu()):
            changed[name] = cast
    missing = sorted(set(named) - seen)
    loose = sorted(
        name for name in changed if name not in named and not _follows(name, changed, base)
    )
    if missing or loose:
        raise AdaptationError(
            "the checkpoint is not the base with some tensors changed",
            found=f"missing: {', '.join(missing[:5])}"
            if missing
            else f"{', '.join(loose[:5])}: tied to another tensor in the base, but not here",
            expected=f"the tensors of {base.name}",
        )
    kept = {name: tensor for name, tensor in changed.items() if name in named}
    if not kept:
        raise AdaptationError(
            "the checkpoint is the base itself",
            found=f"{folder}: no tensor differs in {base.dtype_name}",
            expected="a tensor that was changed",
        )
    return WeightsPart(kept)


def _follows(name: str, changed: Mapping[str, Tensor], base: Base) -> bool:
    """Whether a tied tensor changed together with the one it is tied to."""
    own = base.model.state_dict()[name].data_ptr()
    return any(
        other in changed and changed[other].equal(changed[name])
        for other, tensor in base.model.named_parameters()
        if tensor.data_ptr() == own
    )


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    _tensor_file(folder, "*.safetensors")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping: it has no __iter__
                    yield name, tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _unreadable(folder, error) from error


def _tensor_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if found:
        return found[0]
    pickled = sorted(path.name for each in ("*.bin", "*.pt", "*.pth") for path in folder.glob(each))
    raise AdaptationError(
        "the checkpoint has no safetensors file",
        found=", ".join(pickled) or f"{folder} without any",
        expected=pattern,
        fix="save it again as safetensors; a pickle could run code when it is read"
        if pickled
        else "",
    )


def _unreadable(folder: Path, error: Exception) -> AdaptationError:
    return AdaptationError(
        "the checkpoint cannot be read",
        found=f"{folder}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        expected="JSON and safetensors as PEFT or transformers write them",
    )
