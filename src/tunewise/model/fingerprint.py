"""What a base model is, as one hash: its weights, its tokenizer and its chat template.

The hash does not see how weights are spread over files, in which order they stand, or the dtype
the model later computes in: it covers the tensors as stored. A model in memory and the folder that
`save_pretrained` writes from it have the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

# These two parts of a tokenizer's own state change with every padded call; they are not content.
_CALL_STATE = ("padding", "truncation")


def model_fingerprint(model: Any, tokenizer: Any) -> str:
    """The fingerprint of a model in memory.

    Args:
        model: a transformers causal LM; tied tensors are counted once, under their first name.
        tokenizer: its tokenizer.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    return _combine(weights_hash(_model_tensors(model)), tokenizer_hash(tokenizer))


def folder_fingerprint(folder: Path, tokenizer: Any) -> str:
    """The fingerprint of a model folder, from the tensors in its safetensors files.

    Args:
        folder: holds `*.safetensors`.
        tokenizer: the tokenizer loaded from the same folder.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    return _combine(weights_hash(_folder_tensors(folder)), tokenizer_hash(tokenizer))


def weights_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of the names."""
    lines = sorted(
        f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} {_digest(tensor)}"
        for name, tensor in tensors
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 over the tokenizer's content, its first and last special token and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: Any = (
        json.loads(backend.to_str()) if backend is not None else dict(tokenizer.get_vocab())
    )
    if backend is not None:
        content = {key: value for key, value in content.items() if key not in _CALL_STATE}
    whole = {
        "content": content,
        "bos": tokenizer.bos_token,
        "eos": tokenizer.eos_token,
        "chat_template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _combine(*hashes: str) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().contiguous().reshape(-1).cpu()
    octets: Any = flat.view(torch.uint8).numpy()
    return hashlib.sha256(octets).hexdigest()


def _model_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    seen: set[tuple[int, torch.Size, torch.dtype]] = set()
    for name, tensor in model.state_dict().items():
        # A tied output head shares the memory of the embeddings; files hold it once.
        key = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        yield name, tensor


def _folder_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping: it has no __iter__
                yield name, tensors.get_tensor(name)
