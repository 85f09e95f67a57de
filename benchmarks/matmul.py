"""The machine's own rate of matrix products: what a fitting step's share is a share of."""

from __future__ import annotations

import time

import torch
from torch.nn.functional import linear

from benchmarks.gate import Gate, settle
from benchmarks.jobs import Job

# Positions x width in x width out: the default base's layers on a batch of short rows, the same on
# one of long rows, and sizes at which every machine is at its best.
SHAPES = ((1024, 576, 1536), (1024, 1536, 576), (4096, 576, 1536), (4096, 1536, 576))
LARGE = ((2048, 2048, 2048), (4096, 4096, 4096))
SECONDS_PER_SHAPE = 0.4


def serve(job: Job, gate: Gate) -> None:
    """Measure the best rate in every block."""
    dtype = getattr(torch, job.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for rows, width, columns in (*SHAPES, *LARGE):
        left = torch.randn(rows, width, generator=generator).to(device, dtype)
        pairs.append((left, torch.randn(columns, width, generator=generator).to(device, dtype)))
    gate.ready(units=1, dtype=job.dtype)
    while gate.next().count:
        gate.done(rates=[_rate(left, right) for left, right in pairs])


def _rate(left: torch.Tensor, right: torch.Tensor) -> float:
    """Operations per second of the fastest of several products."""
    flops = 2 * left.shape[0] * left.shape[1] * right.shape[0]
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS_PER_SHAPE:
        start = time.perf_counter()
        linear(left, right)
        settle()
        best = min(best, time.perf_counter() - start)
    return flops / best
