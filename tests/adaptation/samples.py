"""Adaptations of every kind of part, and how two of them are compared."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

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
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.types import Kind, TaskSpec

G = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G)


PROMPT = PromptTextPart(
    PromptText("Is it gut?\n«ja» 日本", (Demonstration("a", "b"),), (Demonstration("", "c"),), 1)
)
ENSEMBLE = PromptTextPart(PromptText("Ja?"), (PROMPT.prompt, PromptText("Nein?", slot="user")))
VIRTUAL = VirtualTokensPart(normal(3, 8))
PREFIX = KVPrefixPart((normal(2, 3, 4), normal(2, 3, 4)), (normal(2, 3, 4), normal(2, 3, 4)), True)
LOW_RANK = LowRankPart(
    {"peft_type": "LORA", "r": 2, "target_modules": ["a"], "bias": "none", "layers": None},
    {"m.lora_A.weight": normal(2, 8), "m.lora_B.weight": normal(6, 2)},
)
SHARED = normal(4, 4).to(torch.bfloat16)
WEIGHTS = WeightsPart(
    {
        "first": SHARED,
        "second": SHARED,
        "transposed": normal(3, 5).T,
        "row": normal(6, 2)[1:3],
        "scalar": torch.tensor(2.0),
        "int": torch.tensor([1, -2]),
        "half": torch.tensor([float("inf"), float("nan"), -0.0], dtype=torch.float16),
    }
)
CONSTANT = ShallowModelPart("constant", {"answer": "yes"})
LINEAR = ShallowModelPart(
    "linear",
    {"labels": ["n", "y"], "terms": ["a", "b", "c"]},
    {
        "idf": normal(3).double(),
        "coefficients": normal(2, 3).double(),
        "intercepts": normal(2).double(),
    },
)
PARTS: dict[str, tuple[Part, ...]] = {
    "prompt": (PROMPT,),
    "ensemble": (ENSEMBLE, LOW_RANK),
    "virtual": (VIRTUAL,),
    "virtual in place": (VirtualTokensPart(VIRTUAL.embeddings, True), PROMPT),
    "prefix": (PREFIX,),
    "low_rank": (LOW_RANK,),
    "weights": (WEIGHTS,),
    "constant": (CONSTANT,),
    "linear": (LINEAR,),
    "none": (),
    "hybrid": (PROMPT, VIRTUAL, LOW_RANK),
    "all": (VIRTUAL, PROMPT, PREFIX, WEIGHTS, LOW_RANK, LINEAR),
}


def adaptation_of(*parts: Part, **provenance: Any) -> Adaptation:
    spec = TaskSpec(
        "tickets", Kind.JSON, "Answer.", ("n", "y"), "exact_match", {"type": "object", "b": [1.5]}
    )
    record = Provenance(
        method="toy",
        settings={"rate": 1e-3, "steps": 10, "name": None, "on": True},
        seed=0,
        base_name="tiny",
        base_fingerprint="f" * 8,
        dtype="float32",
        data_hash="d",
        work={"forward_tokens": 1, "backward_tokens": 0, "flops": 2**70},
        versions={"torch": "2"},
        notes={"loss": 0.1 + 0.2, "curve": [1.0, 2.0], "nested": {"é": "ü"}},
    )
    decoding = Decoding("score", True, (0.1, -3.0), 5)
    return Adaptation(parts, decoding, spec, replace(record, **provenance))


def assert_same(a: Any, b: Any) -> None:
    """Structural equality: same types, same values, tensors equal bit by bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert (
            a.contiguous()
            .reshape(-1)
            .view(torch.uint8)
            .equal(b.contiguous().reshape(-1).view(torch.uint8))
        )
    elif is_dataclass(a):
        for item in fields(a):
            assert_same(getattr(a, item.name), getattr(b, item.name))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
