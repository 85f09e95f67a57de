"""Adaptations made without fitting, of every kind of part, that differ in their answers."""

from __future__ import annotations

from typing import Any

import torch
from tests.conftest import build_tokenizer
from tests.laws.fitting import base_of

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import (
    KVPrefixPart,
    LowRankPart,
    Part,
    PromptTextPart,
    ShallowModelPart,
    VirtualTokensPart,
    WeightsPart,
)
from tunewise.model.base import Base
from tunewise.serve.engine.slots import place_shape
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import Kind, TaskSpec

LABELS = ("maybe", "no", "yes", "yes sir")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
DECODINGS = {
    "free": Decoding("free", max_new_tokens=9),
    "score": Decoding("score", True, (0.1, -0.3, 0.2, 0.0)),
    "trie": Decoding("trie"),
    "json": Decoding("json", max_new_tokens=14),
}
KINDS = ("prompt_text", "virtual_tokens", "kv_prefix", "low_rank", "weights", "hybrid")


def linear_modules(base: Base) -> dict[str, tuple[int, int]]:
    """(O, I) of the linear layers inside the layers, by name."""
    from transformers.pytorch_utils import Conv1D

    found = {}
    for name, module in base.model.named_modules():
        if isinstance(module, Conv1D):
            found[name] = (module.weight.shape[1], module.weight.shape[0])
        elif isinstance(module, torch.nn.Linear) and module is not base.model.lm_head:
            found[name] = tuple(module.weight.shape)
    return found


def low_rank(base: Base, seed: int, *, rank: int = 4, only: str = "") -> LowRankPart:
    """A LoRA of random numbers; `only` names a part of the modules' names."""
    draw = torch.Generator().manual_seed(seed)
    names = {n: s for n, s in linear_modules(base).items() if only in n}
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted(names),
        "fan_in_fan_out": base.model.config.model_type == "gpt2",
    }
    tensors = {}
    for name, (out, into) in names.items():
        stem = f"base_model.model.{name}"
        tensors[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(rank, into, generator=draw)
        tensors[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(out, rank, generator=draw)
    return LowRankPart(config, tensors)


def parts_of(base: Base, kind: str, seed: int) -> tuple[Part, ...]:
    """Parts of one kind, random by the seed."""
    draw = torch.Generator().manual_seed(seed)
    prompt = PromptTextPart(
        PromptText(f"Number {seed}.", (Demonstration("ab", "no"),) if seed % 2 else ())
    )
    shape = place_shape(base)
    virtual = VirtualTokensPart(
        torch.randn(3 + seed % 3, base.width, generator=draw), seed % 2 == 0
    )

    def kept() -> tuple[torch.Tensor, ...]:
        size = (shape.heads, 4 + seed % 3, shape.width)
        return tuple(torch.randn(size, generator=draw) for _ in range(shape.layers))

    if kind == "prompt_text":
        return (prompt,)
    if kind == "virtual_tokens":
        return (prompt, virtual)
    if kind == "kv_prefix":
        return (prompt, KVPrefixPart(kept(), kept(), seed % 2 == 0))
    if kind == "low_rank":
        return (prompt, low_rank(base, seed, rank=(4, 2, 3)[seed % 3], only=("", "attn")[seed % 2]))
    own = dict(base.model.named_parameters())
    some = sorted(own)[seed % 2 :: 2]
    changed = {n: own[n] + 0.1 * torch.randn(own[n].shape, generator=draw) for n in some}
    if kind == "weights":
        return (prompt, WeightsPart(changed))
    return (prompt, virtual, WeightsPart(changed), low_rank(base, seed))


def planted(base: Base, kind: str, seed: int, mode: str = "free") -> Adaptation:
    """An adaptation with parts of one kind."""
    kinds = {"free": Kind.GENERATION, "json": Kind.JSON}
    labels = () if mode in kinds else LABELS
    spec = TaskSpec(
        "planted",
        kinds.get(mode, Kind.CLASSIFICATION),
        f"Number {seed}.",
        labels,
        "exact_match",
        SCHEMA if mode == "json" else None,
    )
    return Adaptation(parts_of(base, kind, seed), DECODINGS[mode], spec, provenance(base, seed))


def constant(base: Base, answer: str = "no") -> Adaptation:
    """One that never calls the base."""
    spec = TaskSpec("planted", Kind.CLASSIFICATION, "?", LABELS, "accuracy")
    part = ShallowModelPart("constant", {"answer": answer, "share": 0.5})
    return Adaptation((part,), DECODINGS["score"], spec, provenance(base, 0))


def provenance(base: Base, seed: int, **changes: Any) -> Provenance:
    facts: dict[str, Any] = {
        "method": "planted",
        "settings": {},
        "seed": seed,
        "base_name": base.name,
        "base_fingerprint": base.fingerprint,
        "dtype": "float32",
        "data_hash": "d",
        "work": {},
        "versions": {},
    }
    return Provenance(**(facts | changes))


def tiny(architecture: str = "llama", *, chat: bool = True) -> Base:
    """A base that looks at its input."""
    base = base_of(architecture)
    if chat:
        return base
    return Base.from_model(base.model, build_tokenizer(chat=False))
