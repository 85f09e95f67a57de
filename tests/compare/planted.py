"""Records of fits that never happened, with a planted truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunewise.compare.contract import (
    BaseFacts,
    BudgetFacts,
    Comparison,
    DataFacts,
    MachineFacts,
    RunContext,
)
from tunewise.compare.table import build_comparison
from tunewise.measure.records import FitRecord, RowResult, SkippedMethod
from tunewise.task.types import Kind, Row, TaskSpec

LABELS = ("negative", "neutral", "positive")
SPEC = TaskSpec("reviews", Kind.CLASSIFICATION, "Say how it sounds.", LABELS, "accuracy")
CONTEXT = RunContext(
    base=BaseFacts("tiny", "f" * 64, "bfloat16", 134_515_008),
    budget=BudgetFacts("token_passes", 400_000),
    data=DataFacts({"train": 1536, "validation": 256, "test": 400}, "d" * 64),
    machine=MachineFacts(2, "test processor", 2),
    seeds=(0,),
    command="tunewise compare reviews.csv --input text --output label",
    version="0.1.0",
    started="2025-01-01T00:00:00",
    versions={"torch": "2.13.0"},
)


@dataclass(frozen=True)
class Shape:
    """What a kind of method costs: parts, prompt tokens, bytes, fit tokens, parameters."""

    parts: tuple[str, ...]
    tokens: float
    size: int
    forward: int
    backward: int
    trainable: int


SHAPES = {
    "majority": Shape(("shallow_model",), 0, 900, 0, 0, 0),
    "tfidf": Shape(("shallow_model",), 0, 310_000, 0, 0, 0),
    "zero_shot": Shape(("prompt_text",), 27, 1_100, 0, 0, 0),
    "few_shot": Shape(("prompt_text",), 312, 4_200, 200_000, 0, 0),
    "soft_prompt": Shape(("prompt_text", "virtual_tokens"), 47, 48_000, 400_000, 300_000, 11_520),
    "prefix": Shape(("prompt_text", "kv_prefix"), 28, 1_300_000, 400_000, 300_000, 288_000),
    "lora": Shape(("prompt_text", "low_rank"), 27, 9_800_000, 400_000, 300_000, 2_400_000),
    "full": Shape(("prompt_text", "weights"), 27, 269_000_000, 400_000, 400_000, 134_515_008),
}


def make_rows(count: int, *, domains: Sequence[str | None] = (None,)) -> dict[str, Row]:
    """Rows whose labels take turns."""
    rows = {}
    for index in range(count):
        label = LABELS[index % len(LABELS)]
        domain = domains[index % len(domains)]
        rows[f"r{index}"] = Row(
            f"r{index}", f"Text number {index} of the review.", label, (label,), domain
        )
    return rows


def make_record(
    method: str,
    right: Sequence[float],
    rows: Mapping[str, Row],
    *,
    seed: int = 0,
    validation: float = 0.9,
    answers: Sequence[str | None] | None = None,
) -> FitRecord:
    """One fit that scored `right` on the rows."""
    shape = SHAPES[method]
    results = []
    for index, (row, score) in enumerate(zip(rows.values(), right, strict=True)):
        wrong = LABELS[(LABELS.index(row.output) + 1) % len(LABELS)]
        answer = row.output if score >= 0.5 else wrong
        if answers is not None:
            answer = answers[index]
        results.append(
            RowResult(
                row.id,
                answer,
                float(score),
                failure="the model ran out of context" if answer is None else "",
                extra={"valid": 1.0},
            )
        )
    checked = tuple(RowResult(f"v{i}", "x", float(i < 100 * validation)) for i in range(100))
    trained = shape.trainable > 0
    return FitRecord(
        method=method,
        seed=seed,
        parts=shape.parts,
        adaptation=f"adaptations/{method}-{seed}",
        settings={"seed_of": seed, "learning_rate": 0.001} if trained else {},
        notes={"chosen_step": 96} if trained else {},
        test=tuple(results),
        validation=checked,
        seconds=100.0 + seed if trained else 1.5,
        forward_tokens=shape.forward,
        backward_tokens=shape.backward,
        flops=2 * 134_515_008 * (shape.forward + 2 * shape.backward),
        peak_bytes=1_000_000_000 + seed,
        trainable_parameters=shape.trainable,
        bytes_on_disk=shape.size,
        prompt_tokens_per_request=shape.tokens,
        milliseconds_per_row=12.5 if shape.parts != ("shallow_model",) else 0.1,
        curve=tuple(
            point
            for step in range(0, 100, 10)
            for point in (
                {"step": float(step), "train_loss": 2.0 / (1 + step / 20) + 0.05 * seed},
                {"step": float(step), "validation_loss": 2.1 / (1 + step / 25) + 0.05 * seed},
            )
        )
        if trained
        else (),
    )


def plant(
    truth: Mapping[str, float],
    count: int,
    *,
    seeds: int = 1,
    agree: float = 0.8,
    domains: Sequence[str | None] = (None,),
    start: int = 7,
) -> tuple[list[FitRecord], dict[str, Row]]:
    """Records of methods with these accuracies.

    Args:
        truth: method -> share of rows right (exact, but for rounding).
        count: test rows.
        seeds: fits of each trained method.
        agree: how far rows that are hard for one method are hard for the others, 0 to 1.
        domains: of the rows, in turns.
        start: of the random numbers.
    """
    numbers = np.random.default_rng(start)
    rows = make_rows(count, domains=domains)
    hard = numbers.random(count)
    records = []
    for method, share in truth.items():
        fits = seeds if SHAPES[method].trainable else 1
        for seed in range(fits):
            difficulty = agree * hard + (1 - agree) * numbers.random(count)
            order = np.argsort(difficulty)
            right = np.zeros(count)
            right[order[: round(share * count)]] = 1.0
            if method == "majority":
                answers: list[str | None] = ["neutral"] * count
                right = np.array([row.output == "neutral" for row in rows.values()], dtype=float)
                records.append(make_record(method, right, rows, answers=answers, validation=1 / 3))
                continue
            records.append(make_record(method, right, rows, seed=seed, validation=share))
    return records, rows


def compare(
    truth: Mapping[str, float],
    count: int,
    *,
    seeds: int = 1,
    agree: float = 0.8,
    skipped: Sequence[SkippedMethod] = (),
    domains: Sequence[str | None] = (None,),
) -> Comparison:
    """The comparison of planted methods (arguments of `plant`)."""
    records, rows = plant(truth, count, seeds=seeds, agree=agree, domains=domains)
    context = replace(CONTEXT, seeds=tuple(range(seeds)))
    return build_comparison(SPEC, records, skipped, context, rows)
