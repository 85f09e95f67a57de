"""Adaptations that answer without a base, and a registry of them in a temporary folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import Part, PromptTextPart, ShallowModelPart
from tunewise.adaptation.store import save
from tunewise.serve.registry.aliases import Promotion
from tunewise.serve.registry.gate import Scores
from tunewise.serve.registry.names import parse_name
from tunewise.serve.registry.publish import Registration
from tunewise.serve.registry.records import Version
from tunewise.serve.registry.registry import Registry
from tunewise.task.prompt import PromptText
from tunewise.task.types import Kind, TaskSpec

SPEC = TaskSpec("tickets", Kind.CLASSIFICATION, "Good or bad?", ("bad", "good"), "accuracy")
MADE = Provenance(
    method="toy",
    settings={},
    seed=0,
    base_name="tiny",
    base_fingerprint="f" * 64,
    dtype="float32",
    data_hash="d" * 64,
    work={},
    versions={},
)


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def constant(answer: str, **made: Any) -> Adaptation:
    part = ShallowModelPart("constant", {"answer": answer})
    return adaptation((part,), **made)


def text(instruction: str, **made: Any) -> Adaptation:
    return adaptation((PromptTextPart(PromptText(instruction)),), **made)


def adaptation(parts: tuple[Part, ...], **made: Any) -> Adaptation:
    return Adaptation(parts, Decoding("score"), SPEC, replace(MADE, **made))


def stored(folder: Path, made: Adaptation) -> Path:
    save(made, folder)
    return folder


def registered(
    registry: Registry, folder: Path, name: str, answer: str = "good", *, probed: bool = True
) -> Version:
    """A constant answer, stored and registered."""
    source = folder / f"{name.replace('/', '-')}-{answer}"
    if not source.exists():
        save(constant(answer), source)
    return registry.add(
        source,
        Registration(parse_name(name), "ann", check=(lambda _: {"probes": []}) if probed else None),
    )


def scores(values: Mapping[str, float], rows: str = "r") -> Scores:
    return Scores(rows, "accuracy", values)


OVERRIDDEN = Promotion(reason="the first of this test")
