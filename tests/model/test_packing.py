"""Packed rows against padded ones: the same logits, the same gradients, fewer positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES, base_of, counted_positions
from torch import Tensor

from tunewise.model import forward
from tunewise.model.base import Base
from tunewise.model.forward import (
    has_plain_head,
    packable,
    packs,
    pad_rows,
    positions,
    row_inputs,
    selected_logits,
)
from tunewise.model.packing import Packing, packed_as, present_packing
from tunewise.model.prefix import EMPTY_PREFIX, SharedPrefix, compute_prefix
from tunewise.model.score import label_log_probabilities

LENGTHS = (3, 17, 1, 9)  # In two blocks.
ROWS = [tuple(range(5 + length, 5 + 2 * length)) for length in LENGTHS]
KEEP = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])


def prefix_of(base: Base, count: int) -> tuple[Tensor, SharedPrefix]:
    """Embeddings that take gradients, and their prefix."""
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(1, count, base.width, generator=generator) * 0.1
    embeddings.requires_grad_(True)
    return embeddings, compute_prefix(base, embeddings) if count else EMPTY_PREFIX


def run(base: Base, prefix: SharedPrefix, *, packed: bool) -> Tensor:
    """Logits at all real tokens."""
    padded = pad_rows(ROWS, base.device, left=False)
    select = padded.mask.nonzero(as_tuple=True)
    inputs = row_inputs(base, prefix.length, padded)
    return selected_logits(base, prefix, inputs, select, padded.mask if packed else None)


@pytest.mark.parametrize("count", [0, 6])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_the_same_logits_and_gradients(architecture: str, count: int) -> None:
    base = base_of(architecture)
    assert packs(base, LENGTHS)
    outcomes = []
    for packed in (True, False):
        embeddings, prefix = prefix_of(base, count)
        logits = run(base, prefix, packed=packed)
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
        gradient = torch.autograd.grad((logits * weights).sum(), embeddings)[0] if count else logits
        outcomes.append((logits.detach(), gradient))
    (logits, gradient), (wanted_logits, wanted_gradient) = outcomes
    torch.testing.assert_close(logits, wanted_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, wanted_gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_scored_labels_are_the_same_and_the_work_is_what_is_booked(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(architecture)
    has_plain_head(base)
    assert packable(base)
    labels = [(1, 2, 3), (1, 2, 4), (7,), (9, 1)]
    with torch.no_grad():
        _, prefix = prefix_of(base, 4)
        with counted_positions(base) as counts:
            packed = label_log_probabilities(base, prefix, ROWS, labels)
        assert counts["plain"] == sum(LENGTHS) + 3 * len(LENGTHS)
        monkeypatch.setattr(forward, "packable", lambda base: False)
        padded = label_log_probabilities(base, prefix, ROWS, labels)
    torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-4)


def test_positions_are_counted_without_padding_only_where_rows_are_packed() -> None:
    base = base_of("llama")
    assert positions(base, (20, 1)) == 21
    assert positions(base, (20, 20)) == 40
    # Less than a twentieth of padding stays.
    assert positions(base, (20,) * 19 + (19,)) == 400


def test_a_base_that_mixes_neighbours_outside_attention_is_not_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = base_of("llama")

    def shifted(module: Any, arguments: Any, output: Tensor) -> Tensor:
        return output + torch.roll(output, 1, dims=1)

    handle = base.model.model.layers[0].mlp.register_forward_hook(shifted)
    try:
        assert not packable(base)
        assert positions(base, (20, 1)) == 40
    finally:
        handle.remove()


def lengths_kept(*lengths: int) -> Tensor:
    """Rows of these lengths, padded on the right."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


# The last two stand in two blocks: rows out of order, and with tokens that are left out within.
KEEPS = (KEEP, lengths_kept(2, 9, 1, 8, 3), lengths_kept(1, 12, 1, 2) & (torch.arange(12) != 4))


@pytest.mark.parametrize("keep", KEEPS)
def test_there_and_back(keep: Tensor) -> None:
    packing = Packing.of(keep, 0)
    count = int(keep.sum())
    packed = torch.randn(1, count, 2, 4, requires_grad=True)
    padded = packing.pad(packed)
    wanted = torch.zeros(*keep.shape, 2, 4)
    wanted[keep] = packed[0].detach()
    for block, rows in zip(packing.blocks, padded, strict=True):
        kept = keep[block.rows, : block.columns]
        assert torch.equal(rows[kept], wanted[block.rows, : block.columns][kept])
    assert torch.equal(packing.pack(padded), packed)
    assert torch.equal(packing.place[keep], torch.arange(count))
    (gradient,) = torch.autograd.grad(packing.pack([rows * 2 for rows in padded]).sum(), packed)
    assert torch.equal(gradient, torch.full_like(packed, 2.0))


@pytest.mark.parametrize("keep", KEEPS)
def test_padding_gets_no_gradient(keep: Tensor) -> None:
    packing = Packing.of(keep, 0)
    padded = [torch.randn(len(b.rows), b.columns, 2, 4, requires_grad=True) for b in packing.blocks]
    gradients = torch.autograd.grad(packing.pack(padded).sum(), padded)
    for block, gradient in zip(packing.blocks, gradients, strict=True):
        kept = keep[block.rows, : block.columns]
        assert torch.equal(gradient, kept[:, :, None, None].expand_as(gradient).float())


@pytest.mark.parametrize(
    ("lengths", "ahead", "blocks"),
    [
        ((5, 5, 5), 0, [[0, 1, 2]]),
        ((5,), 3, [[0]]),
        ((2, 9, 1, 8, 3), 0, [[1, 3], [4, 0, 2]]),
        # Little is saved: five slots in six are the prefix's.
        ((9, 10, 9, 10), 50, [[0, 1, 2, 3]]),
        ((1, 100), 0, [[1], [0]]),
    ],
)
def test_rows_of_like_length_stand_together(
    lengths: tuple[int, ...], ahead: int, blocks: list[list[int]]
) -> None:
    packing = Packing.of(lengths_kept(*lengths), ahead)
    assert [block.rows.tolist() for block in packing.blocks] == blocks
    assert [block.columns for block in packing.blocks] == [
        max(lengths[row] for row in rows) for rows in blocks
    ]


def test_the_mask_of_a_block_is_cut_once() -> None:
    packing = Packing.of(KEEPS[1], 2)
    mask = torch.randn(5, 1, 9, 11)
    first, second = packing.masks(mask)
    assert torch.equal(first, mask[[1, 3]])
    assert torch.equal(second, mask[[4, 0, 2], :, :3, :5])
    assert packing.masks(mask)[0] is first
    assert packing.masks(mask.clone())[0] is not first


def test_the_packing_is_present_only_inside_its_context() -> None:
    packing = Packing.of(KEEP, 0)
    assert present_packing() is None

    def fail() -> None:
        with packed_as(packing):
            assert present_packing() is packing
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert present_packing() is None
