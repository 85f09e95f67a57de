"""What one pass through the base computes: for some rows, some positions each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Inside:
    """What of an adaptation stands inside the model.

    Attributes:
        weights: the set of weights it runs through; None for the base's own.
        low_rank: its low-rank change; None without one.
        bytes: memory of both, beside the base.
    """

    weights: Any = field(default=None, repr=False)
    low_rank: Any = field(default=None, repr=False)
    bytes: int = 0


PLAIN = Inside()


@dataclass(frozen=True, slots=True)
class Work:
    """T positions of one row.

    Attributes:
        slot: where the row's keys and values are kept.
        begin: places of the slot that are filled; the new ones follow.
        embeddings: (T, D) input embeddings.
        positions: (T,).
        wanted: places among the T whose logits are asked.
        inside: what of the row's adaptation stands inside the model.
        allowed: (T, begin + T) True where attention is allowed; None for all that is not later.
        pooled: whether the sum of the last hidden states over the T positions is asked instead of
            logits.
    """

    slot: int
    begin: int
    embeddings: Tensor = field(repr=False)
    positions: Tensor = field(repr=False)
    wanted: tuple[int, ...]
    inside: Inside = PLAIN
    allowed: Tensor | None = field(default=None, repr=False)
    pooled: bool = False

    @property
    def count(self) -> int:
        """T."""
        return int(self.embeddings.shape[0])

    @property
    def end(self) -> int:
        """Places of the slot that are filled afterwards."""
        return self.begin + self.count


class Runner(Protocol):
    """Runs work through one base."""

    def inside(self, parts: Sequence[Any]) -> Inside:
        """What of an adaptation's parts stands inside the model, ready to run.

        Raises:
            AdaptationError: a part does not fit the base, or cannot be carried.
        """
        ...

    def embed(self, tokens: Sequence[int], inside: Inside) -> Tensor:
        """(T, D) input embeddings of T tokens."""
        ...

    def run(self, works: Sequence[Work]) -> list[Tensor]:
        """For each work (wanted, V) float32 logits, or the pooled (1, D) float32."""
        ...
