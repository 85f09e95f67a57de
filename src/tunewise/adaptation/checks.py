"""What a part holds, such as shapes and dtypes of tensors, held against the contract in `parts`.

The same check runs before a part is written and after it is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    ShallowModelPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.errors import AdaptationError
from tunewise.task.prompt import MOST_PROMPTS


def check_part(part: Part) -> None:
    """Check shapes, dtypes and counts against the contract in `parts`.

    Raises:
        AdaptationError: one is wrong; the tensor, its shape and its dtype are named.
    """
    if isinstance(part, PromptTextPart):
        _check_prompts(part)
    elif isinstance(part, VirtualTokensPart):
        _check(part.kind, "embeddings", part.embeddings, dims=2)
    elif isinstance(part, KVPrefixPart):
        _check_prefix(part)
    elif isinstance(part, LowRankPart):
        _check_low_rank(part)
    elif isinstance(part, WeightsPart) and not part.tensors:
        raise AdaptationError("a weights part replaces no tensor")
    elif isinstance(part, ShallowModelPart):
        _check_shallow(part)


def _check(
    kind: str, name: str, tensor: Tensor, *, dims: int, dtype: torch.dtype = torch.float32
) -> None:
    if tensor.dtype != dtype or tensor.dim() != dims or tensor.numel() == 0:
        raise AdaptationError(
            f"a tensor of the {kind} part has the wrong form",
            found=f"{name}: shape {tuple(tensor.shape)}, {tensor.dtype}",
            expected=f"{dims} dimensions, not empty, {dtype}",
        )


def _check_prompts(part: PromptTextPart) -> None:
    count, different = len(part.prompts), len(set(part.prompts))
    if count != different or count > MOST_PROMPTS:
        raise AdaptationError(
            "the prompts of a prompt_text part cannot answer together",
            found=f"{count} prompts, {different} of them different",
            expected=f"up to {MOST_PROMPTS}, each once",
        )


def _check_prefix(part: KVPrefixPart) -> None:
    if not part.keys or len(part.keys) != len(part.values):
        raise AdaptationError(
            "a kv_prefix part needs keys and values of every layer",
            found=f"{len(part.keys)} layers of keys, {len(part.values)} of values",
        )
    for layer, (key, value) in enumerate(zip(part.keys, part.values, strict=True)):
        _check(part.kind, f"keys of layer {layer}", key, dims=3)
        _check(part.kind, f"values of layer {layer}", value, dims=3)
        if key.shape[:2] != value.shape[:2] or key.shape[1] != part.keys[0].shape[1]:
            raise AdaptationError(
                "keys and values of a kv_prefix part do not fit each other",
                found=f"layer {layer}: keys {tuple(key.shape)}, values {tuple(value.shape)}",
                expected="the same heads and positions, and the same positions in every layer",
            )


def _check_low_rank(part: LowRankPart) -> None:
    if not part.tensors:
        raise AdaptationError("a low_rank part holds no tensor")
    for name, tensor in part.tensors.items():
        if tensor.dtype != torch.float32:
            _check(part.kind, name, tensor, dims=tensor.dim())
        # Of embeddings PEFT stores lora_embedding_A and lora_embedding_B.
        down = re.search(r"\.lora_(embedding_)?A\b", name)
        if down is None:
            continue
        up = f"{name[: down.end() - 1]}B{name[down.end() :]}"
        other = part.tensors.get(up)
        if other is None or other.shape[1] != tensor.shape[0]:
            raise AdaptationError(
                "a low_rank part has an A without a B of its rank",
                found=f"{name}: A {tuple(tensor.shape)}, "
                f"B {'missing' if other is None else tuple(other.shape)}",
                expected="A (R, inputs) and B (outputs, R)",
            )


def _check_shallow(part: ShallowModelPart) -> None:
    needed: dict[str, Sequence[str]] = {
        "constant": ("answer",),
        "lead": ("words",),
        "linear": ("labels", "terms"),
    }
    missing = [name for name in needed[part.rule] if name not in part.config]
    if missing:
        raise AdaptationError(
            f"a shallow_model part with rule {part.rule!r} lacks settings", found=", ".join(missing)
        )
    if part.rule != "linear":
        return
    labels, terms = len(part.config["labels"]), len(part.config["terms"])
    shapes = {"idf": (terms,), "coefficients": (labels, terms), "intercepts": (labels,)}
    found = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
    if found != shapes:
        raise AdaptationError(
            "the tensors of a linear shallow_model part do not fit its labels and terms",
            found=str(found),
            expected=str(shapes),
        )
    for name, tensor in part.tensors.items():
        _check(part.kind, name, tensor, dims=tensor.dim(), dtype=torch.float64)
