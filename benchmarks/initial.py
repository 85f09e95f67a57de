"""What is trained starts from the same numbers on both sides; made here, in every process anew."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ORDINARY_TOKENS = 5000
"""Virtual tokens start from the most frequent tokens (Lester et al. 2021, section 3.2)."""


def virtual_tokens(model: Any, count: int) -> Tensor:
    """(count, D) float32: rows of the embedding table."""
    table = model.get_input_embeddings().weight.detach()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(min(ORDINARY_TOKENS, len(table)), (count,), generator=generator)
    rows: Tensor = table[chosen.to(table.device)].float()
    return rows


def prefix_tokens(shared: Sequence[int], count: int) -> list[int]:
    """The shared text's tokens, repeated or cut to `count`; a prefix starts as their keys."""
    return list(itertools.islice(itertools.cycle(shared), count))


def low_rank(model: Any, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every linear layer but the output head, by the layer's name.

    A is uniform as in PEFT's own initialisation, B is zero.

    Args:
        model: the model before LoRA layers are put in.
        rank: R.
    """
    head = model.get_output_embeddings()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return {name: _factors(name, layer, rank) for name, layer in layers.items()}


def _factors(name: str, layer: nn.Linear, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    uniform = torch.rand(rank, layer.in_features, generator=generator)
    return (2 * uniform - 1) / layer.in_features**0.5, torch.zeros(layer.out_features, rank)
