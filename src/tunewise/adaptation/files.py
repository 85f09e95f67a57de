"""Parts as files and back: bytes in, bytes out, no disk.

    prompt_text      prompt_text.json, and of an ensemble prompt_text_2.json and so on
    virtual_tokens   adapter_config.json + adapter_model.safetensors   PEFT prompt tuning
    kv_prefix        kv_prefix.safetensors
    low_rank         adapter_config.json + adapter_model.safetensors   PEFT LoRA
    weights          weights.safetensors
    shallow_model    shallow_model.json + shallow_model.safetensors

PEFT's two files stand in the root, where PEFT looks for them. Where a low_rank part has them
already, those of virtual_tokens stand in the subfolder `virtual_tokens/`. Which files a part has
is written in the manifest, so reading never guesses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from tunewise.adaptation.checks import check_part
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    ShallowModelPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.adaptation.peft_format import (
    CONFIG_FILE,
    PROMPT_EMBEDDINGS,
    TENSORS_FILE,
    virtual_tokens_config,
)
from tunewise.errors import AdaptationError, CorruptAdaptationError
from tunewise.task.prompt import SYSTEM_SLOT, PromptText

VIRTUAL_TOKENS_FOLDER = "virtual_tokens"
MANIFEST_ROOT = "adaptation"
# Constrained decoding writes properties in the order of the schema, so that order is content.
_KEPT_ORDER = f"{MANIFEST_ROOT}.spec.schema"
Files = dict[str, bytes]
Reader = Callable[[str], bytes]


class PartEntry(BaseModel):
    """One part in the manifest: its kind, its files in a fixed order, and its own flags."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: str
    files: tuple[str, ...]
    replaces_shared_text: bool | None = None


class _Prompt(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    prompt: PromptText


class _Shallow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    rule: Literal["constant", "lead", "linear"]
    config: dict[str, Any]


def plain(value: Any, where: str) -> Any:
    """A value as JSON values: records become objects, tuples lists.

    Args:
        value: what to convert.
        where: its place, for the message.

    Raises:
        AdaptationError: it holds something that JSON cannot hold exactly.
    """
    if isinstance(value, StrEnum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        keys = value if f"{where}.".startswith(f"{_KEPT_ORDER}.") else sorted(value)
        return {key: plain(value[key], f"{where}.{key}") for key in keys}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise AdaptationError(
        "an adaptation holds a value that JSON cannot hold exactly",
        found=f"{where} is {value!r} ({type(value).__name__})",
        expected="text, finite numbers, true, false, null, lists, and objects keyed by text",
    )


def json_bytes(value: Any, where: str) -> bytes:
    """Canonical JSON: sorted keys (but for a schema), indent 2, UTF-8, one newline at the end.

    Raises:
        AdaptationError: JSON cannot hold the value exactly.
    """
    text = json.dumps(plain(value, where), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        return (text + "\n").encode("utf-8")
    except UnicodeEncodeError as error:
        raise AdaptationError(
            "an adaptation holds text that UTF-8 cannot hold",
            found=f"{where}: {error.object[error.start : error.end]!r}",
        ) from error


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as one safetensors file, each in its own dtype, contiguous, from the CPU.

    A tensor that shares its memory with another is stored again, under each name.
    """
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in sorted(tensors.items()):
        copy = tensor.detach().to("cpu").contiguous()
        if copy.untyped_storage().data_ptr() in seen:
            copy = copy.clone()
        seen.add(copy.untyped_storage().data_ptr())
        own[name] = copy
    # One metadata entry only: the order of several is not fixed between runs.
    return bytes(safetensors.torch.save(own, metadata={"format": "pt"}))


def part_files(part: Part, base_name: str, taken: Files) -> tuple[PartEntry, Files]:
    """The files of one part.

    Args:
        part: what to store.
        base_name: of the base, for PEFT's config.
        taken: files that other parts have already.

    Returns:
        Its entry in the manifest, and its files by name.

    Raises:
        AdaptationError: a shape, a dtype or a value is wrong.
    """
    check_part(part)
    kind = part.kind
    flag: bool | None = None
    if isinstance(part, PromptTextPart):
        files = {
            "prompt_text.json" if number == 1 else f"prompt_text_{number}.json": json_bytes(
                _prompt_record(prompt), kind
            )
            for number, prompt in enumerate(part.prompts, start=1)
        }
    elif isinstance(part, VirtualTokensPart):
        folder = f"{VIRTUAL_TOKENS_FOLDER}/" if CONFIG_FILE in taken else ""
        k, width = part.embeddings.shape
        # Left out where False, as in folders from before the flag was.
        flag = part.replaces_shared_text or None
        config = virtual_tokens_config(k, base_name, width)
        files = {
            folder + CONFIG_FILE: json_bytes(config, kind),
            folder + TENSORS_FILE: tensor_bytes({PROMPT_EMBEDDINGS: part.embeddings}),
        }
    elif isinstance(part, KVPrefixPart):
        flag = part.replaces_shared_text
        files = {"kv_prefix.safetensors": tensor_bytes(_prefix_tensors(part))}
    elif isinstance(part, LowRankPart):
        files = {
            CONFIG_FILE: json_bytes(part.config, kind),
            TENSORS_FILE: tensor_bytes(part.tensors),
        }
    elif isinstance(part, WeightsPart):
        files = {"weights.safetensors": tensor_bytes(part.tensors)}
    else:
        record = {"rule": part.rule, "config": part.config}
        files = {"shallow_model.json": json_bytes(record, kind)}
        if part.tensors:
            files["shallow_model.safetensors"] = tensor_bytes(part.tensors)
    return PartEntry(kind=kind, files=tuple(files), replaces_shared_text=flag), files


def read_part(entry: PartEntry, read: Reader) -> Part:
    """One part from its files.

    Args:
        entry: its entry in the manifest.
        read: gives the bytes of a file by its name.

    Raises:
        CorruptAdaptationError: the files do not hold such a part.
    """
    try:
        part = _read_part(entry, read)
        check_part(part)
    except (SafetensorError, ValidationError, ValueError, KeyError, AdaptationError) as error:
        raise CorruptAdaptationError(
            f"the files do not hold a {entry.kind} part",
            found=f"{', '.join(entry.files) or 'no file'}: {error}",
            fix="save the adaptation again, or fit it again",
        ) from error
    return part


def _read_part(entry: PartEntry, read: Reader) -> Part:
    contents = [read(name) for name in entry.files]
    match entry.kind, contents:
        case "prompt_text", [text, *others]:
            return PromptTextPart(_prompt_of(text), tuple(_prompt_of(each) for each in others))
        case "virtual_tokens", [_, data]:
            embeddings = _only(tensors_of(data), PROMPT_EMBEDDINGS)
            return VirtualTokensPart(embeddings, bool(entry.replaces_shared_text))
        case "kv_prefix", [data] if entry.replaces_shared_text is not None:
            return _prefix_of(tensors_of(data), entry.replaces_shared_text)
        case "low_rank", [text, data]:
            return LowRankPart(_object(text), tensors_of(data))
        case "weights", [data]:
            return WeightsPart(tensors_of(data))
        case "shallow_model", [text, *data] if len(data) <= 1:
            record = _Shallow.model_validate_json(text)
            tensors = tensors_of(data[0]) if data else {}
            return ShallowModelPart(record.rule, record.config, tensors)
    raise ValueError(f"no part {entry.kind!r} with {len(contents)} files is known to this version")


def _prompt_record(prompt: PromptText) -> dict[str, Any]:
    record = {item.name: getattr(prompt, item.name) for item in fields(prompt)}
    if prompt.slot == SYSTEM_SLOT:
        # Left out, as in folders from before there was a choice.
        del record["slot"]
    return record


def _prompt_of(text: bytes) -> PromptText:
    return _Prompt.model_validate_json(json.dumps({"prompt": json.loads(text)})).prompt


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name in sorted order."""
    return dict(sorted(safetensors.torch.load(data).items()))


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, not {type(value).__name__}")
    return value


def _only(tensors: dict[str, Tensor], name: str) -> Tensor:
    if set(tensors) != {name}:
        raise ValueError(f"tensors {sorted(tensors)} were found, {name!r} alone was expected")
    return tensors[name]


def _prefix_tensors(part: KVPrefixPart) -> dict[str, Tensor]:
    pairs = list(zip(part.keys, part.values, strict=True))
    named = {f"layers.{layer}.key": key for layer, (key, _) in enumerate(pairs)}
    return named | {f"layers.{layer}.value": value for layer, (_, value) in enumerate(pairs)}


def _prefix_of(tensors: dict[str, Tensor], replaces_shared_text: bool) -> KVPrefixPart:
    layers = range(len(tensors) // 2)
    keys = tuple(tensors.pop(f"layers.{layer}.key") for layer in layers)
    values = tuple(tensors.pop(f"layers.{layer}.value") for layer in layers)
    if tensors:
        raise ValueError(f"tensors that belong to no layer: {sorted(tensors)}")
    return KVPrefixPart(keys, values, replaces_shared_text)
