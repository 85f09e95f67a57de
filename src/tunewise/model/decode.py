"""Decoding behind a shared prefix, greedy or drawn: free, among labels, or under a grammar.

Rows are padded on the left, between the prefix and the row, and positions count real tokens only,
so a row's answer does not depend on its neighbours (peft#1093 is the failure to avoid).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from tunewise.model.base import Base
from tunewise.model.forward import (
    causal_inputs,
    group_by_length,
    pad_rows,
    prefix_places,
    row_inputs,
)
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import SharedPrefix
from tunewise.numerics.trie import Trie

MOST_POSITIONS = 4096
MOST_ROWS = 32


# Takes the next token from logits (V,), -inf where a token is not allowed.
Choose: TypeAlias = Callable[[Tensor], int]


class Constraint(Protocol):
    """What the next token of one answer may be."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        ...

    def allowed(self) -> Tensor | None:
        """(V,) True at allowed tokens; None allows all."""
        ...

    def advance(self, token: int) -> None:
        """Take this token."""
        ...


@dataclass(slots=True)
class LabelState:
    """Walks down the trie of the labels; finished as soon as one label is left."""

    trie: Trie
    vocabulary: int
    node: int = 0

    @property
    def finished(self) -> bool:
        """Whether one label is left."""
        return len(self.trie.leaves_below[self.node]) == 1

    @property
    def label(self) -> int:
        """Index of the first label still possible."""
        return self.trie.leaves_below[self.node][0]

    def allowed(self) -> Tensor:
        """(V,) True at the children of the present node."""
        mask = torch.zeros(self.vocabulary, dtype=torch.bool)
        mask[list(self.trie.children[self.node])] = True
        return mask

    def advance(self, token: int) -> None:
        """Go down to the child of this token."""
        self.node = self.trie.children[self.node][token]


@dataclass(slots=True)
class Decoded:
    """One answer.

    Attributes:
        tokens: generated tokens, without the end token.
        log_probability: sum over the tokens taken, renormalised over the allowed ones.
        ended: whether it ended by itself rather than by the length limit.
        constraint: the state at the end, where there was one.
        choose: takes each token; None takes the likeliest.
    """

    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    ended: bool = False
    constraint: Constraint | None = None
    choose: Choose | None = None

    @property
    def probability(self) -> float:
        """Of the whole answer."""
        return math.exp(self.log_probability)


def decode(
    base: Base,
    prefix: SharedPrefix,
    rows: Sequence[Sequence[int]],
    *,
    end_token: int,
    max_new_tokens: int,
    constrain: Callable[[], Constraint] | None = None,
    ledger: Ledger | None = None,
    choose: Callable[[Sequence[int]], Choose] | None = None,
) -> list[Decoded]:
    """Answers to all rows, in their order.

    Args:
        base: the base, with whatever is attached to it.
        prefix: positions before the rows.
        rows: tokens of each row, up to where the answer begins.
        end_token: ends an answer.
        max_new_tokens: length limit of an answer.
        constrain: makes a fresh constraint for each row; None decodes freely.
        ledger: books the work where given.
        choose: given a row, what takes its tokens; None takes the likeliest.
    """
    answers: list[Decoded] = [Decoded() for _ in rows]
    lengths = [len(row) for row in rows]
    for batch in group_by_length(lengths, most_positions=MOST_POSITIONS, most_rows=MOST_ROWS):
        present = [
            Decoded(
                constraint=constrain() if constrain else None,
                choose=choose(rows[index]) if choose else None,
            )
            for index in batch
        ]
        with torch.no_grad():
            chosen = [rows[index] for index in batch]
            _decode_batch(base, prefix, chosen, present, end_token, max_new_tokens, ledger)
        for index, answer in zip(batch, present, strict=True):
            answers[index] = answer
    return answers


def drawn_at(temperature: float, *, seed: int) -> Callable[[Sequence[int]], Choose]:
    """Draws tokens at a temperature; what a row gets depends on itself and the seed alone.

    Args:
        temperature: divides the logits; above 0.
        seed: another one draws another answer.
    """

    def for_row(row: Sequence[int]) -> Choose:
        digest = hashlib.sha256(repr((seed, tuple(row))).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

        def choose(logits: Tensor) -> int:
            probability = (logits / temperature).softmax(dim=-1).cpu()
            return int(torch.multinomial(probability, 1, generator=generator))

        return choose

    return for_row


def _decode_batch(
    base: Base,
    prefix: SharedPrefix,
    rows: list[Sequence[int]],
    answers: list[Decoded],
    end_token: int,
    max_new_tokens: int,
    ledger: Ledger | None,
) -> None:
    padded = pad_rows(rows, base.device, left=True)
    cache = prefix.cache(len(rows))
    inputs = row_inputs(base, prefix.length, padded)
    seen = torch.cat([padded.mask.new_ones(len(rows), prefix.length), padded.mask], dim=1)
    places = torch.cat(
        [prefix_places(prefix.length, len(rows), base), inputs["position_ids"]], dim=1
    )
    alive = list(answers)
    for _ in range(max_new_tokens):
        if ledger is not None:
            ledger.charge(forward=inputs["input_ids"].numel(), head=len(alive))
        outputs = base.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        log_probability = outputs.logits[:, -1].float()
        tokens = [
            _take(answer, row, end_token)
            for answer, row in zip(alive, log_probability, strict=True)
        ]
        keep = [index for index, token in enumerate(tokens) if token is not None]
        if not keep:
            return
        if len(keep) < len(alive):
            rest = torch.tensor(keep, device=base.device)
            cache.batch_select_indices(rest)
            seen, places = seen[rest], places[rest]
            alive = [alive[index] for index in keep]
        taken = torch.tensor([[tokens[index]] for index in keep], device=base.device)
        seen = torch.cat([seen, seen.new_ones(len(keep), 1)], dim=1)
        places = torch.cat([places, places[:, -1:] + 1], dim=1)
        inputs = causal_inputs(base, taken, seen, places)


def _take(answer: Decoded, logits: Tensor, end_token: int) -> int | None:
    """Choose the next token of one answer; None where the answer has ended."""
    allowed = None if answer.constraint is None else answer.constraint.allowed()
    if allowed is not None:
        logits = logits.masked_fill(~allowed.to(logits.device), -math.inf)
    token = int(logits.argmax()) if answer.choose is None else answer.choose(logits)
    answer.log_probability += float(logits.log_softmax(dim=-1)[token])
    if answer.constraint is not None:
        answer.constraint.advance(token)
    if token == end_token:
        answer.ended = True
        return None
    answer.tokens.append(token)
    if answer.constraint is not None and answer.constraint.finished:
        answer.ended = True
        return None
    return token
