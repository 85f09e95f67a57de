"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

import psutil

from tunewise.model.base import default_threads, native_dtype, processor_name

PACKAGES = ("torch", "transformers", "peft", "trl", "lm_eval", "tunewise")


def machine_lines(threads: int) -> list[str]:
    """Machine and versions, one fact a line.

    Args:
        threads: as used by every side.
    """
    import torch

    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    native = str(native_dtype(device)).removeprefix("torch.")
    return [
        f"Processor: {processor_name()}, {default_threads()} cores, {memory:.0f} GB of memory",
        f"Device: {device.type}; threads of each side: {threads}; its own dtype: {native}",
        f"Python {platform.python_version()}, {versions}",
    ]


def now() -> str:
    """Date and time of day."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def load() -> float:
    """Processes that ran or waited in the last minute, on average; the benchmark's own included."""
    return os.getloadavg()[0]
