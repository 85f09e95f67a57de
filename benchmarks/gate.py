"""The gate between the runner and one side of a comparison, which runs in a process of its own.

The runner opens the gate for a block of work; the side does it, says so, and waits for the next.
So the sides of a comparison can take turns, A B A B, while each is measured inside its own process
and without its start. A trainer that owns its loop (transformers' `Trainer`) waits at the gate in a
callback between two steps.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Order:
    """One block of work.

    Attributes:
        count: optimizer steps, or passes over the rows to be scored; 0 ends the side.
        warm: the block is not measured; a side that scores rows may do fewer of them.
    """

    count: int
    warm: bool


class Gate:
    """A side's end of the connection.

    Args:
        orders: lines of JSON from the runner.
        reports: lines of JSON to the runner.
    """

    def __init__(self, orders: TextIO, reports: TextIO) -> None:
        self._orders, self._reports = orders, reports
        self._began = 0.0

    def ready(self, **facts: Any) -> None:
        """Everything is loaded; memory is watched from here on.

        Args:
            facts: what the runner should know of this side; JSON values.
        """
        forget_peak()
        self._send({"ready": {"resident_bytes": resident_bytes(), **facts}})

    def next(self) -> Order:
        """Wait for the next block; its clock starts on return."""
        line = self._orders.readline()
        order = json.loads(line) if line else {"count": 0, "warm": False}
        self._began = time.perf_counter()
        return Order(order["count"], order["warm"])

    def done(self, **results: Any) -> None:
        """The block is done.

        Args:
            results: what came out of it; JSON values.
        """
        settle()
        seconds = time.perf_counter() - self._began
        self._send({"done": {"seconds": seconds, "peak_bytes": peak_bytes(), **results}})

    def failed(self, error: BaseException) -> None:
        """The side cannot go on."""
        text = " ".join(str(error).split())
        self._send({"failed": f"{type(error).__name__}: {text[:400]}"})

    def _send(self, message: Mapping[str, Any]) -> None:
        self._reports.write(json.dumps(message) + "\n")
        self._reports.flush()


def settle() -> None:
    """Wait until a GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Let the peak begin anew (Linux, GPU); elsewhere it counts from the process' start."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """The GPU's most allocated memory, or else the highest resident size, since `forget_peak`."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    found = _status("VmHWM")
    if found is not None:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """What the GPU has allocated, or else the resident size; 0 where the system does not tell."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    found = _status("VmRSS")
    return 0 if found is None else found


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    line = next((line for line in lines if line.startswith(f"{name}:")), None)
    return None if line is None else int(line.split()[1]) * 1024
