"""Log-probabilities of label strings, in one pass over the row and the trie of the labels.

The slow twin in the tests scores every label with a pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewise.model.base import Base
from tunewise.model.forward import (
    PaddedRows,
    group_by_length,
    layer_masks,
    pad_rows,
    positions,
    prefix_places,
    row_inputs,
    selected_logits,
)
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import SharedPrefix
from tunewise.numerics.trie import Trie, build_trie

MOST_POSITIONS = 4096
MOST_ROWS = 64


def label_log_probabilities(
    base: Base,
    prefix: SharedPrefix,
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    ledger: Ledger | None = None,
) -> Tensor:
    """Sum of token log-probabilities of every label after every row.

    Args:
        base: the base, with whatever is attached to it.
        prefix: positions before the rows.
        rows: tokens of each row, up to where the answer begins.
        labels: tokens of each label.
        ledger: books the work where given.

    Returns:
        (rows, labels) float32 on the CPU.
    """
    tree = LabelTree.of(labels)
    inner = tree.inner
    scores = torch.empty(len(rows), len(labels))
    for batch in _batches([len(row) + len(inner) for row in rows]):
        padded = pad_rows([rows[index] for index in batch], base.device, left=False)
        if ledger is not None:
            lengths = [len(rows[index]) + len(inner) for index in batch]
            head = len(batch) * (1 + len(inner))
            ledger.charge(forward=positions(base, lengths), head=head)
        with torch.no_grad():
            scores[batch] = _score_batch(base, prefix, padded, tree).cpu()
    return scores


def scoring_positions(
    base: Base, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> int:
    """Positions that `label_log_probabilities` computes for these rows."""
    inner = LabelTree.of(labels).inner
    lengths = [len(row) + len(inner) for row in rows]
    return sum(positions(base, [lengths[i] for i in batch]) for batch in _batches(lengths))


@dataclass(frozen=True, slots=True)
class LabelTree:
    """The trie of some labels as positions behind a row.

    The row's end stands for the root; a leaf predicts nothing further, so it need not be computed.

    Attributes:
        trie: of the labels' tokens.
        inner: the nodes that are computed, n of them.
    """

    trie: Trie
    inner: tuple[int, ...]

    @classmethod
    def of(cls, labels: Sequence[Sequence[int]]) -> LabelTree:
        """The tree of L labels."""
        trie = build_trie(labels)
        inner = tuple(node for node in range(1, len(trie.token)) if trie.children[node])
        return cls(trie, inner)

    def tokens(self) -> Tensor:
        """(n,) token of every node."""
        return torch.tensor([self.trie.token[node] for node in self.inner], dtype=torch.long)

    def depths(self) -> Tensor:
        """(n,) how many tokens every node stands behind the row's end."""
        return torch.tensor([len(self.trie.path(node)) for node in self.inner], dtype=torch.long)

    def ancestors(self) -> Tensor:
        """(n, n) True at a node itself and at those above it."""
        found = torch.eye(len(self.inner), dtype=torch.bool)
        where = {node: offset for offset, node in enumerate(self.inner)}
        for node in self.inner:
            for above in self.trie.path(node):
                found[where[node], where[above]] = True
        return found

    def sums(self, log_probability: Tensor) -> Tensor:
        """Sum of the log-probabilities of every label's tokens.

        Args:
            log_probability: (B, 1 + n, V) at the row's end and at the nodes.

        Returns:
            (B, L).
        """
        slot = {0: 0} | {node: offset + 1 for offset, node in enumerate(self.inner)}
        columns = []
        for leaf in self.trie.leaf_of:
            path = self.trie.path(leaf)
            steps = [(slot[self.trie.parent[node]], self.trie.token[node]) for node in path]
            taken = [log_probability[:, column, token] for column, token in steps]
            columns.append(torch.stack(taken).sum(dim=0))
        return torch.stack(columns, dim=1)


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    return group_by_length(lengths, most_positions=MOST_POSITIONS, most_rows=MOST_ROWS)


def _score_batch(base: Base, prefix: SharedPrefix, rows: PaddedRows, tree: LabelTree) -> Tensor:
    inner = tree.inner
    count = rows.tokens.shape[0]
    ends = rows.mask.long().sum(dim=1) - 1
    inputs = (
        _with_nodes(base, prefix, rows, tree) if inner else row_inputs(base, prefix.length, rows)
    )
    longest = rows.tokens.shape[1]
    # One column of positions per predicting node: the row's end stands for the root.
    columns = [ends] + [torch.full_like(ends, longest + offset) for offset in range(len(inner))]
    place = torch.stack(columns, dim=1)
    index = torch.arange(count, device=base.device)[:, None].expand_as(place)
    keep = torch.cat([rows.mask, rows.mask.new_ones(count, len(inner))], dim=1)
    logits = selected_logits(base, prefix, inputs, (index.flatten(), place.flatten()), keep)
    log_probability = logits.log_softmax(dim=-1).view(count, place.shape[1], -1)
    return tree.sums(log_probability)


def _with_nodes(
    base: Base, prefix: SharedPrefix, rows: PaddedRows, tree: LabelTree
) -> dict[str, Any]:
    """Rows followed by the trie's inner nodes; each node sees its row and its own ancestors."""
    count, longest = rows.tokens.shape
    inner, nodes = tree.inner, tree.tokens().to(base.device)
    depth = tree.depths().to(base.device)
    lengths = rows.mask.long().sum(dim=1, keepdim=True)
    total = longest + len(inner)
    allowed = torch.zeros(count, total, prefix.length + total, dtype=torch.bool, device=base.device)
    allowed[:, :, : prefix.length] = True
    row_part = slice(prefix.length, prefix.length + longest)
    causal = torch.ones(longest, longest, dtype=torch.bool, device=base.device).tril()
    allowed[:, :longest, row_part] = causal
    allowed[:, longest:, row_part] = rows.mask[:, None, :]
    allowed[:, longest:, prefix.length + longest :] = tree.ancestors().to(base.device)
    positions = torch.arange(longest, device=base.device)[None].expand(count, -1)
    positions = prefix.length + torch.cat([positions, lengths + depth - 1], dim=1)
    places = torch.cat([prefix_places(prefix.length, count, base), positions], dim=1)
    return {
        "input_ids": torch.cat([rows.tokens, nodes.expand(count, -1)], dim=1),
        "attention_mask": layer_masks(base, allowed, positions, places),
        "position_ids": positions,
    }
