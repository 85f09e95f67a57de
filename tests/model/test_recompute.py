"""Layers that run twice: the same losses and gradients, fewer kept numbers, chosen by memory."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES, base_of
from tests.model.test_prefix import KINDS, examples_of, loop_gradients, renderer_of, trainable_of
from torch import Tensor

from tunewise.model import loop as loop_module
from tunewise.model import recompute
from tunewise.model.base import Base
from tunewise.model.layers import layer_modules
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.loop import GradientLoop, LoopSettings
from tunewise.model.recompute import memory_is_short, recomputed
from tunewise.task.render import Renderer


def one_step(
    base: Base, renderer: Renderer, trainable: Any, most_positions: int
) -> tuple[float, list[Tensor], int]:
    """Loss, gradients, and bytes kept for the way back by one step."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, gradients = loop_gradients(base, renderer, trainable, most_positions)
    return loss, list(gradients.values()), sum(kept.values())


@pytest.mark.parametrize("most_positions", [4096, 40])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_bit_for_bit_the_same_from_fewer_kept_numbers(
    architecture: str, kind: str, most_positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(architecture)
    renderer = renderer_of(base)
    with trainable_of(kind, base, renderer) as trainable:
        loss, gradients, kept = one_step(base, renderer, trainable, most_positions)
        monkeypatch.setattr(loop_module, "memory_is_short", lambda *_: True)
        again, same, fewer = one_step(base, renderer, trainable, most_positions)
    assert again == loss
    assert all(torch.equal(one, other) for one, other in zip(same, gradients, strict=True))
    assert fewer < kept


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_all_layers_are_found_and_left_as_they_were(architecture: str) -> None:
    base = base_of(architecture)
    layers = layer_modules(base)
    assert len(layers) == base.layers
    with recomputed(base):
        assert all("forward" in vars(layer) for layer in layers)
    assert not any("forward" in vars(layer) for layer in layers)


def test_the_progress_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of()
    renderer = renderer_of(base)
    told: list[str] = []
    monkeypatch.setattr(loop_module, "memory_is_short", lambda *_: True)
    with trainable_of("virtual", base, renderer) as trainable:
        GradientLoop(
            base,
            trainable,
            examples_of(renderer),
            LoopSettings(batch_size=4),
            seed=0,
            ledger=Ledger(1, 1),
            log=FitLog(report=lambda done, total, text: told.append(text)),
        ).run(1)
    assert "layers run twice to save memory" in told[0]


def test_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of()
    assert not memory_is_short(base, 4096)
    monkeypatch.setattr(recompute, "_free_bytes", lambda device: 10_000)
    assert memory_is_short(base, 4096)


def test_free_memory_is_the_systems() -> None:
    found = recompute._free_bytes(torch.device("cpu"))
    assert 0 < found <= psutil.virtual_memory().total
