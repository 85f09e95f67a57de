"""Our side of fitting: the one gradient loop with the trainables that the methods use."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from benchmarks import initial
from benchmarks.gate import Gate
from benchmarks.jobs import Job
from benchmarks.workloads import BATCH, Workload, load_workload
from tunewise.adaptation.inside import LowRank, Weights, low_rank_layers, writable_weights
from tunewise.adaptation.parts import LowRankPart
from tunewise.adaptation.trainables import FrozenPrefix, KVPrefix, TrainablePart, VirtualTokens
from tunewise.model.base import Base, load_base
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.loop import GradientLoop, LoopSettings
from tunewise.model.prefix import compute_prefix, token_embeddings


def serve(job: Job, gate: Gate) -> None:
    """Load, then train block by block as the gate opens."""
    base = load_base(job.model, dtype=job.dtype)
    workload = load_workload(job.workload, base.tokenizer, rows=job.rows)
    with ExitStack() as stack:
        trainable = _trainable(job, base, workload, stack)
        ledger = Ledger(base.body_parameters, base.head_parameters)
        log = FitLog()
        settings = LoopSettings(batch_size=BATCH, learning_rate=job.learning_rate, row_order="file")
        loop = GradientLoop(
            base, trainable, workload.examples, settings, seed=0, ledger=ledger, log=log
        )
        train(gate, loop, data=workload.data, dtype=base.dtype_name)


def train(gate: Gate, loop: GradientLoop, **facts: Any) -> None:
    """Open a loop's steps to the gate; reports losses and counted operations of every block."""
    leaves = loop.trainable.parameters.values()
    trained = sum(leaf.numel() for leaf in leaves)
    gate.ready(trained=trained, trained_dtype=dtype_of(next(iter(leaves))), units=1, **facts)
    while (order := gate.next()).count:
        taken, spent = len(loop.log.losses), loop.ledger.work().flops
        loop.run(order.count)
        gate.done(losses=loop.log.losses[taken:], flops=loop.ledger.work().flops - spent)


def dtype_of(tensor: torch.Tensor) -> str:
    """The dtype as a word."""
    return str(tensor.dtype).removeprefix("torch.")


def _trainable(job: Job, base: Base, workload: Workload, stack: ExitStack) -> TrainablePart:
    frozen = FrozenPrefix(base, workload.renderer, ())
    if job.method == "soft_prompt":
        start = initial.virtual_tokens(base.model, job.size)
        return VirtualTokens(frozen, start, hidden=0, seed=0)
    if job.method == "prefix":
        tokens = initial.prefix_tokens(workload.renderer.shared_tokens, job.size)
        with torch.no_grad():
            positions = compute_prefix(base, token_embeddings(base, tokens))
        return KVPrefix(frozen, positions, replaces_shared_text=False)
    if job.method == "lora":
        part = _low_rank_part(base, job.size)
        layers = stack.enter_context(low_rank_layers(base, part.config, part, seed=0))
        return LowRank(frozen, layers)
    names = [name for name, _ in base.model.named_parameters()]
    stack.enter_context(writable_weights(base, names))
    return Weights(frozen, names)


def _low_rank_part(base: Base, rank: int) -> LowRankPart:
    config = {"r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
    tensors = {}
    for name, (down, up) in initial.low_rank(base.model, rank).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    return LowRankPart(config, tensors)
