"""A trie over token sequences: the labels of a task, as the model would write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Trie:
    """Token sequences that share their beginnings.

    Node 0 is the root. Nodes are numbered so that a parent comes before its children.

    Attributes:
        token: token that leads to each node; -1 for the root.
        parent: parent of each node; -1 for the root.
        children: per node, token -> child.
        leaf_of: the node at which each sequence ends, in the order given.
        leaves_below: per node, the indices of the sequences that pass through it.
    """

    token: tuple[int, ...]
    parent: tuple[int, ...]
    children: tuple[dict[int, int], ...]
    leaf_of: tuple[int, ...]
    leaves_below: tuple[tuple[int, ...], ...]

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from the first below the root down to `node`."""
        nodes: list[int] = []
        while node > 0:
            nodes.append(node)
            node = self.parent[node]
        return tuple(reversed(nodes))


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
    """Build the trie of L sequences.

    Raises:
        ValueError: a sequence is empty or stands twice.
    """
    token, parent = [-1], [-1]
    children: list[dict[int, int]] = [{}]
    below: list[list[int]] = [list(range(len(sequences)))]
    leaf_of: list[int] = []
    for index, sequence in enumerate(sequences):
        if len(sequence) == 0:
            raise ValueError(f"sequence {index} is empty")
        node = 0
        for item in sequence:
            if item not in children[node]:
                children[node][item] = len(token)
                token.append(item)
                parent.append(node)
                children.append({})
                below.append([])
            node = children[node][item]
            below[node].append(index)
        if node in leaf_of:
            raise ValueError(f"sequence {index} is the same as sequence {leaf_of.index(node)}")
        leaf_of.append(node)
    return Trie(
        tuple(token),
        tuple(parent),
        tuple(children),
        tuple(leaf_of),
        tuple(tuple(items) for items in below),
    )


def prefix_free(sequences: Sequence[Sequence[int]]) -> bool:
    """Whether no sequence begins another, so that none needs an end token to be told apart."""
    ordered = sorted(tuple(sequence) for sequence in sequences)
    return all(later[: len(earlier)] != earlier for earlier, later in pairwise(ordered))
