"""Copies of what a fit holds in memory: parameters, and the optimizer's running moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from tunewise.model.loop import GradientLoop

Snapshot: TypeAlias = dict[str, Tensor]


def clone_all(parameters: Mapping[str, Tensor]) -> Snapshot:
    """Independent copies."""
    return {name: leaf.detach().clone() for name, leaf in parameters.items()}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Snapshot:
    """The same tensors, each name behind `prefix/`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Snapshot:
    """Those of the tensors that stand behind `prefix/`, by their own names."""
    start = prefix + "/"
    return {k.removeprefix(start): value for k, value in tensors.items() if k.startswith(start)}


def moments_of(loop: GradientLoop) -> dict[str, Tensor]:
    """Copies of AdamW's running moments, by parameter name."""
    found: dict[str, Tensor] = {}
    for name, leaf in loop.trainable.parameters.items():
        for kind, value in loop.optimizer.state.get(leaf, {}).items():
            found[f"{name}|{kind}"] = torch.as_tensor(value).detach().clone()
    return found


def load_moments(loop: GradientLoop, moments: Mapping[str, Tensor]) -> None:
    """Put stored moments into a loop's optimizer."""
    for key, value in moments.items():
        name, _, kind = key.rpartition("|")
        loop.optimizer.state[loop.trainable.parameters[name]][kind] = value.clone()
