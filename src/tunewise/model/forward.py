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

from tunewise.model.attention import NAME
from tunewise.model.base import Base
from tunewise.model.packing import LEAST_PADDING, Packing, packed_as
from tunewise.model.prefix import SharedPrefix, backbone

_PLAIN_HEADS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_PACKABLE: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


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


def row_inputs(base: Base, ahead: int, rows: PaddedRows) -> dict[str, Any]:
    """Mask and positions of padded rows behind so many others, as transformers wants them.

    Positions count real tokens only, so a row's place does not depend on its neighbours' lengths.
    """
    count = rows.tokens.shape[0]
    positions = (ahead + rows.mask.long().cumsum(dim=1) - 1).clamp_min(0)
    places = torch.cat([prefix_places(ahead, count, base), positions], dim=1)
    seen = torch.cat([rows.mask.new_ones(count, ahead), rows.mask], dim=1)
    return causal_inputs(base, rows.tokens, seen, places)


def prefix_places(ahead: int, count: int, base: Base) -> Tensor:
    """(count, ahead) positions before the rows, the same for every row."""
    return torch.arange(ahead, device=base.device).expand(count, -1)


def causal_inputs(base: Base, tokens: Tensor, seen: Tensor, places: Tensor) -> dict[str, Any]:
    """Keyword arguments for tokens whose keys are the last of K, the others being cached.

    Args:
        base: the base.
        tokens: (B, T) token ids.
        seen: (B, K) True at keys that are no padding.
        places: (B, K) position of every key.
    """
    new = tokens.shape[1]
    mask: Any = seen.long()
    if sliding_window(base) is not None:
        keys = seen.shape[1]
        causal = seen.new_ones(new, keys).tril(keys - new)
        mask = layer_masks(base, causal & seen[:, None, :], places[:, -new:], places)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": places[:, -new:]}


def sliding_window(base: Base) -> int | None:
    """How many positions the layers with a sliding window see; None where no layer has one."""
    config = base.model.config.get_text_config()
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if not isinstance(window, int) or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return window


def layer_masks(base: Base, allowed: Tensor, queries: Tensor, keys: Tensor) -> Any:
    """Additive masks for every kind of layer the base has.

    Left to itself, transformers measures a sliding window in places of the cache, where padding
    between prefix and row counts, and drops it where a mask is given; here it is measured in
    positions.

    Args:
        base: the base.
        allowed: (B, T, K) True where attention is allowed but for the window.
        queries: (B, T) positions of the queries.
        keys: (B, K) positions of the keys.
    """
    full = additive_mask(allowed[:, None], base.dtype)
    window = sliding_window(base)
    if window is None:
        return full
    near = queries[:, :, None] - keys[:, None, :] < window
    windowed = additive_mask((allowed & near)[:, None], base.dtype)
    if getattr(base.model.config.get_text_config(), "layer_types", None) is None:
        return windowed
    return {"full_attention": full, "sliding_attention": windowed}


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the dtype's lowest number where not."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)


def selected_logits(
    base: Base,
    prefix: SharedPrefix,
    inputs: dict[str, Any],
    select: tuple[Tensor, Tensor],
    keep: Tensor | None = None,
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
        keep: (B, T) True at real tokens; where given, padding is left out if that pays.

    Returns:
        (N, V) float32.
    """
    plain = has_plain_head(base)
    if keep is None or not packs(base, keep.sum(dim=1).tolist()):
        behind = inputs | cached(prefix, inputs["input_ids"].shape[0])
        return logits_at(base, behind, select, plain=plain)
    packing = Packing.of(keep, prefix.length)
    places = packing.place[select]
    with packed_as(packing):
        flat = (torch.zeros_like(places), places)
        behind = _packed(inputs, keep, base) | cached(prefix, 1)
        return logits_at(base, behind, flat, plain=plain)


def cached(prefix: SharedPrefix, rows: int) -> dict[str, Any]:
    """Keyword arguments that put a prefix before the rows, for one pass."""
    return {"past_key_values": prefix.cache(rows, grows=False), "use_cache": True}


def _packed(inputs: dict[str, Any], keep: Tensor, base: Base) -> dict[str, Any]:
    """Keyword arguments for the real tokens on one flat axis; the mask stays that of the slots."""
    return {
        "input_ids": inputs["input_ids"][keep][None],
        "position_ids": inputs["position_ids"][keep][None],
        "attention_mask": additive(inputs["attention_mask"], keep.shape[1], base),
    }


def additive(mask: Any, columns: int, base: Base) -> Any:
    """A mask (B, K) of real keys as an additive one (B, 1, T, K); others are that already."""
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return mask
    keys = mask.shape[1]
    causal = torch.ones(columns, keys, dtype=torch.bool, device=mask.device).tril(keys - columns)
    return additive_mask((causal & mask.bool()[:, None, :])[:, None], base.dtype)


def logits_at(
    base: Base, inputs: dict[str, Any], select: tuple[Tensor, Tensor], *, plain: bool
) -> Tensor:
    """(N, V) float32 logits at N positions of what the base computes.

    Args:
        base: the base, with whatever is attached to it.
        inputs: keyword arguments of its model.
        select: row and token indices, (N,) each.
        plain: as of `has_plain_head`.
    """
    if plain:
        hidden = backbone(base)(**inputs).last_hidden_state
        logits: Tensor = base.model.get_output_embeddings()(hidden[select])
    else:
        # The head does more than one product (soft capping, scaling): let the model do all of it.
        logits = base.model(**inputs).logits[select]
    return logits.float()


def packs(base: Base, lengths: Sequence[int]) -> bool:
    """Whether rows of these lengths run without padding."""
    slots = len(lengths) * max(lengths)
    return slots - sum(lengths) > LEAST_PADDING * slots and packable(base)


def positions(base: Base, lengths: Sequence[int]) -> int:
    """Positions that the base computes for a batch of rows of these lengths."""
    return sum(lengths) if packs(base, lengths) else len(lengths) * max(lengths)


def packable(base: Base) -> bool:
    """Whether the base gives the same with packed rows.

    Layers that mix neighbouring tokens outside attention (convolutions, state spaces) do not.
    Found by trying it once on two short rows; the answer is kept per model.
    """
    known = _PACKABLE.get(base.model)
    if known is None:
        known = getattr(base.model.config, "_attn_implementation", None) == NAME and _same(base)
        _PACKABLE[base.model] = known
    return known


def _same(base: Base) -> bool:
    keep = torch.tensor([[True, True, True, True], [True, True, False, False]], device=base.device)
    tokens = torch.arange(4, device=base.device).expand(2, -1) % base.vocabulary
    padded = row_inputs(base, 0, PaddedRows(tokens * keep, keep))
    packed = _packed(padded, keep, base)
    with torch.no_grad():
        wanted = backbone(base)(**padded).last_hidden_state[keep].float()
        try:
            with packed_as(Packing.of(keep, 0)):
                got = backbone(base)(**packed).last_hidden_state[0].float()
        except (RuntimeError, ValueError, TypeError, IndexError):
            # A shape that this architecture does not take.
            return False
    return bool(torch.dist(got, wanted) < 0.02 * wanted.norm())


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
