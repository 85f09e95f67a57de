"""Rows through the base after a shared prefix, and logits for just the positions that are asked.

Shapes: B rows, T tokens of the longest row, P prefix positions, D width, V vocabulary, N positions
whose logits are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tunewise.model.base import Base
from tunewise.model.prefix import SharedPrefix, backbone

_PLAIN_HEADS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Rows of tokens padded to one length.

    Attributes:
        tokens: (B, T) token ids, 0 where padded.
        mask: (B, T) True at real tokens.
    """

    tokens: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)

    @property
    def size(self) -> int:
        """B x T: positions the base computes for these rows."""
        return self.tokens.numel()


def pad_rows(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> PaddedRows:
    """Pad rows on the left (for generating) or on the right (for fitting and scoring)."""
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        span = slice(longest - len(row), longest) if left else slice(0, len(row))
        tokens[index, span] = torch.tensor(list(row), dtype=torch.long)
        mask[index, span] = True
    return PaddedRows(tokens.to(device), mask.to(device))


def row_inputs(prefix: SharedPrefix, rows: PaddedRows) -> dict[str, Any]:
    """Mask and positions of padded rows behind a prefix, as transformers wants them.

    Positions count real tokens only, so a row's place does not depend on its neighbours' lengths.
    """
    count = rows.tokens.shape[0]
    ahead = rows.mask.new_ones(count, prefix.length)
    positions = prefix.length + rows.mask.long().cumsum(dim=1) - 1
    return {
        "input_ids": rows.tokens,
        "attention_mask": torch.cat([ahead, rows.mask], dim=1).long(),
        "position_ids": positions.clamp_min(0),
    }


def selected_logits(
    base: Base, prefix: SharedPrefix, inputs: dict[str, Any], select: tuple[Tensor, Tensor]
) -> Tensor:
    """Logits at chosen positions.

    Only the chosen positions go through the output head: V columns are a large share of a small
    model's work. They are gathered to one flat axis first; a sliced three-dimensional product
    would copy the head once per row.

    Args:
        base: the base, with whatever is attached to it.
        prefix: positions before the rows.
        inputs: keyword arguments for the rows (`row_inputs`).
        select: row indices (N,) and token indices (N,).

    Returns:
        (N, V) float32.
    """
    rows = inputs["input_ids"].shape[0]
    cache = prefix.cache(rows)
    if has_plain_head(base):
        hidden = backbone(base)(**inputs, past_key_values=cache, use_cache=True).last_hidden_state
        logits: Tensor = base.model.get_output_embeddings()(hidden[select])
    else:
        # The head does more than one product (soft capping, scaling): let the model do all of it.
        logits = base.model(**inputs, past_key_values=cache, use_cache=True).logits[select]
    return logits.float()


def has_plain_head(base: Base) -> bool:
    """Whether the logits are exactly the output embeddings times the last hidden state.

    Found by trying it once on a few tokens; the answer is kept per model.
    """
    known = _PLAIN_HEADS.get(base.model)
    if known is None:
        head = base.model.get_output_embeddings()
        probe = torch.arange(4, device=base.device)[None] % base.vocabulary
        with torch.no_grad():
            hidden = backbone(base)(input_ids=probe).last_hidden_state
            known = head is not None and torch.equal(
                head(hidden).float(), base.model(input_ids=probe).logits.float()
            )
        _PLAIN_HEADS[base.model] = known
    return known


def group_by_length(
    lengths: Sequence[int], *, most_positions: int, most_rows: int
) -> list[list[int]]:
    """Indices in batches of similar length, longest first, so that little is padded.

    Args:
        lengths: tokens of every row.
        most_positions: upper limit of rows x longest length in a batch (one row always fits).
        most_rows: upper limit of rows in a batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        last = batches[-1] if batches else []
        fits = 0 < len(last) < most_rows and (len(last) + 1) * lengths[last[0]] <= most_positions
        if fits:
            last.append(index)
        else:
            batches.append([index])
    return batches
