"""Whole checkpoints of other tools, as a `weights` part: the tensors that are not the base's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunewise.adaptation.parts import WeightsPart
from tunewise.errors import AdaptationError, ConfigError
from tunewise.model.base import Base
from tunewise.model.convert import convert_gguf
from tunewise.model.fingerprint import tokenizer_hash


def merged_part(folder: Path, base: Base) -> WeightsPart:
    """A folder with config.json and *.safetensors.

    Raises:
        AdaptationError: it cannot be read, or is not the base with some tensors changed.
    """
    tokenizer = _tokenizer(folder)
    if tokenizer_hash(tokenizer) != tokenizer_hash(base.tokenizer):
        raise AdaptationError(
            "the checkpoint has another tokenizer or chat template than the base",
            found=str(folder),
            expected=f"those of {base.name}",
            fix="use the checkpoint as a base of its own: --base FOLDER",
        )
    return _changed(folder, base, folder)


def gguf_part(file: Path, base: Base) -> WeightsPart:
    """A GGUF file: its numbers, of which rounded ones are as they were rounded.

    Raises:
        AdaptationError: it cannot be read, or is not the base with some tensors changed.
    """
    with tempfile.TemporaryDirectory() as where:
        try:
            convert_gguf(file, Path(where))
        except ConfigError as error:
            raise AdaptationError(
                error.what, found=error.found, expected=error.expected, fix=error.fix
            ) from error
        # A conversion writes the tokenizer anew, so that its bytes differ, and may add to it; what
        # the base's tokens are, and what stands around a message, must not.
        found = _tokenizer(Path(where))
        vocabulary, own = found.get_vocab(), base.tokenizer.get_vocab()
        templates = {found.chat_template, base.tokenizer.chat_template} - {None}
        if any(vocabulary.get(token) != at for token, at in own.items()) or len(templates) > 1:
            raise AdaptationError(
                "the file has another tokenizer or chat template than the base",
                found=str(file),
                expected=f"those of {base.name}",
                fix="use the file as a base of its own: --base FILE",
            )
        return _changed(Path(where), base, file)


def _changed(folder: Path, base: Base, told: Path) -> WeightsPart:
    """The tensors in a folder that are not the base's; errors name what the user gave."""
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
            found=f"{told}: no tensor differs in {base.dtype_name}",
            expected="a tensor that was changed",
        )
    return WeightsPart(kept)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # Whatever files in the user's folder make transformers raise, they are not usable.
        raise unreadable(folder, error) from error


def _follows(name: str, changed: Mapping[str, Tensor], base: Base) -> bool:
    """Whether a tied tensor changed together with the one it is tied to."""
    own = base.model.state_dict()[name].data_ptr()
    return any(
        other in changed and changed[other].equal(changed[name])
        for other, tensor in base.model.named_parameters()
        if tensor.data_ptr() == own
    )


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    tensor_file(folder, "*.safetensors")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping: it has no __iter__
                    yield name, tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise unreadable(folder, error) from error


def tensor_file(folder: Path, pattern: str) -> Path:
    """The first safetensors file of a checkpoint.

    Args:
        folder: of the checkpoint.
        pattern: of its name.

    Raises:
        AdaptationError: there is none; pickles are named.
    """
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


def unreadable(folder: Path, error: Exception) -> AdaptationError:
    """What is said of a checkpoint whose files are damaged or of another form."""
    return AdaptationError(
        "the checkpoint cannot be read",
        found=f"{folder}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        expected="JSON and safetensors as PEFT or transformers write them",
    )
