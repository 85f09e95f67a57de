"""Answer tokens of rows: what predicts them, and how well.

Only these positions go through the output head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tunewise.model.base import Base
from tunewise.model.forward import (
    PaddedRows,
    group_by_length,
    pad_rows,
    positions,
    row_inputs,
    selected_logits,
)
from tunewise.model.joined import joined_logits
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import PrefixInputs, SharedPrefix
from tunewise.numerics.loss import (
    summed_cross_entropy,
    summed_divergence,
    token_cross_entropies,
)


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher expects at the A positions of an answer, its K likeliest tokens.

    Attributes:
        tokens: (A, K) token ids.
        probabilities: (A, K) float32; each row sums up to 1.
    """

    tokens: Tensor = field(repr=False)
    probabilities: Tensor = field(repr=False)


@dataclass(frozen=True, slots=True)
class Example:
    """One row.

    Attributes:
        row: its tokens.
        answer: tokens of its answer, the end token included.
        taught: what is learned in place of the answer's own tokens, which then only stand before
            one another; of all examples or of none.
    """

    row: tuple[int, ...]
    answer: tuple[int, ...]
    taught: Taught | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        """What is fed: all but the last answer token, which predicts nothing."""
        return self.row + self.answer[:-1]


def answer_loss(base: Base, prefix: SharedPrefix, examples: Sequence[Example]) -> Tensor:
    """Sum of -log p over all answer tokens of some rows, with gradients where they are enabled;
    the divergence from what is taught, where something is."""
    logits, targets, _ = _answer_logits(base, prefix, examples)
    return _summed_loss(logits, targets, examples)


def joined_loss(base: Base, ahead: PrefixInputs, examples: Sequence[Example]) -> Tensor:
    """`answer_loss` with the prefix computed in the same pass."""
    rows, select, targets = _answers(base, examples)
    return _summed_loss(joined_logits(base, ahead, rows, select), targets, examples)


def _summed_loss(logits: Tensor, targets: Tensor, examples: Sequence[Example]) -> Tensor:
    taught = [each.taught for each in examples if each.taught is not None]
    if not taught:
        return summed_cross_entropy(logits, targets)
    tokens = torch.cat([each.tokens for each in taught]).to(logits.device)
    probabilities = torch.cat([each.probabilities for each in taught]).to(logits.device)
    return summed_divergence(logits, tokens, probabilities)


def expectations(
    base: Base, prefix: SharedPrefix, examples: Sequence[Example], ledger: Ledger, *, most: int
) -> list[Taught]:
    """What the base expects at the answers of every row behind a prefix; books its forward work.

    Args:
        base: with whatever is attached to it.
        prefix: before the rows.
        examples: the rows; what is expected at a token follows the true tokens before it.
        ledger: pays.
        most: likeliest tokens kept at every position; their probabilities are made to sum up to 1.
    """
    lengths = [len(example.inputs) for example in examples]
    found: dict[int, Taught] = {}
    for batch in _judged_batches(lengths):
        chosen = [examples[index] for index in batch]
        counts = [len(example.answer) for example in chosen]
        forward = positions(base, [lengths[index] for index in batch])
        ledger.charge(forward=forward, head=sum(counts))
        with torch.no_grad():
            logits, _, _ = _answer_logits(base, prefix, chosen)
            top = logits.float().topk(min(most, logits.shape[1]), dim=-1)
        tokens, probabilities = top.indices.cpu(), top.values.softmax(dim=-1).cpu()
        begin = 0
        for index, count in zip(batch, counts, strict=True):
            own = slice(begin, begin + count)
            found[index] = Taught(tokens[own], probabilities[own])
            begin += count
    return [found[index] for index in range(len(examples))]


def answer_losses(
    base: Base, prefix: SharedPrefix, examples: Sequence[Example], ledger: Ledger
) -> list[float]:
    """Sum of -log p over the answer tokens of every row; no gradients; books its forward work."""
    lengths = [len(example.inputs) for example in examples]
    losses = [0.0] * len(examples)
    for batch in _judged_batches(lengths):
        chosen = [examples[index] for index in batch]
        answers = sum(len(example.answer) for example in chosen)
        forward = positions(base, [lengths[index] for index in batch])
        ledger.charge(forward=forward, head=answers)
        with torch.no_grad():
            logits, targets, rows = _answer_logits(base, prefix, chosen)
            sums = torch.zeros(len(batch), device=base.device)
            sums.index_add_(0, rows, token_cross_entropies(logits, targets))
        for index, loss in zip(batch, sums.tolist(), strict=True):
            losses[index] = loss
    return losses


def _answer_logits(
    base: Base, prefix: SharedPrefix, examples: Sequence[Example]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, V), targets (N,) and row numbers (N,) of all answer tokens."""
    rows, select, targets = _answers(base, examples)
    inputs = row_inputs(base, prefix.length, rows)
    return selected_logits(base, prefix, inputs, select, rows.mask), targets, select[0]


def _answers(
    base: Base, examples: Sequence[Example]
) -> tuple[PaddedRows, tuple[Tensor, Tensor], Tensor]:
    """Padded rows, row and place (N,) of what predicts each answer token, and the tokens (N,)."""
    rows = pad_rows([example.inputs for example in examples], base.device, left=False)
    index: list[int] = []
    place: list[int] = []
    targets: list[int] = []
    for number, example in enumerate(examples):
        begin = len(example.row) - 1
        index += [number] * len(example.answer)
        place += range(begin, begin + len(example.answer))
        targets += example.answer
    select = (torch.tensor(index, device=base.device), torch.tensor(place, device=base.device))
    return rows, select, torch.tensor(targets, device=base.device)


def mean_answer_loss(
    base: Base, prefix: SharedPrefix, examples: Sequence[Example], ledger: Ledger
) -> float:
    """Mean of -log p over all answer tokens, without gradients; books its forward work."""
    count = sum(len(example.answer) for example in examples)
    return sum(answer_losses(base, prefix, examples, ledger)) / count


def judged_positions(base: Base, examples: Sequence[Example]) -> int:
    """Positions that `mean_answer_loss` computes for these rows."""
    lengths = [len(example.inputs) for example in examples]
    return sum(positions(base, [lengths[i] for i in batch]) for batch in _judged_batches(lengths))


def _judged_batches(lengths: Sequence[int]) -> list[list[int]]:
    return group_by_length(lengths, most_positions=4096, most_rows=64)
