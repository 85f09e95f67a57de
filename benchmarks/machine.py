"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import psutil

from tunewise.model.base import default_threads, native_dtype, processor_name

PACKAGES = ("torch", "transformers", "peft", "trl", "lm_eval", "tunewise")


def own_dtype() -> str:
    """What this machine computes in by itself: "float32" or "bfloat16"."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return str(native_dtype(device)).removeprefix("torch.")


def kind_of_machine() -> str:
    """Names processor, vector instructions and own dtype: numbers belong to one kind of machine."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {own_dtype()}"
    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}, {own_dtype()}"


def machine_lines(threads: int, packages: Sequence[str] = PACKAGES) -> list[str]:
    """Machine and versions, one fact a line.

    Args:
        threads: as used by every side.
        packages: whose versions are told.
    """
    import torch

    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [
        f"Processor: {processor_name()}, {default_threads()} cores, {memory:.0f} GB of memory; "
        f"vector instructions: {torch.backends.cpu.get_cpu_capability()}",
        f"Device: {device.type}; threads of each side: {threads}; its own dtype: {own_dtype()}",
        f"Python {platform.python_version()}, {versions}",
    ]


def now() -> str:
    """Date and time of day."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def load() -> float:
    """Processes that ran or waited in the last minute, on average; the benchmark's own included."""
    return os.getloadavg()[0]
