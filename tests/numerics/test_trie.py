"""The trie against plain set arithmetic on the sequences."""

from __future__ import annotations

import random

import pytest

from tunewise.numerics.trie import build_trie, prefix_free


def sequences_of(seed: int) -> list[tuple[int, ...]]:
    chooser = random.Random(seed)
    found = {
        tuple(chooser.randrange(3) for _ in range(chooser.randrange(1, 6)))
        for _ in range(chooser.randrange(1, 12))
    }
    return sorted(found, key=lambda item: chooser.random())


@pytest.mark.parametrize("seed", range(20))
def test_paths_spell_the_sequences(seed: int) -> None:
    sequences = sequences_of(seed)
    trie = build_trie(sequences)
    for sequence, leaf in zip(sequences, trie.leaf_of, strict=True):
        assert tuple(trie.token[node] for node in trie.path(leaf)) == sequence
    beginnings = {sequence[:end] for sequence in sequences for end in range(1, len(sequence) + 1)}
    assert len(trie.token) == 1 + len(beginnings)
    for node in range(1, len(trie.token)):
        assert trie.parent[node] < node
        assert trie.children[trie.parent[node]][trie.token[node]] == node
        spelt = tuple(trie.token[step] for step in trie.path(node))
        through = tuple(i for i, item in enumerate(sequences) if item[: len(spelt)] == spelt)
        assert trie.leaves_below[node] == through
    assert trie.leaves_below[0] == tuple(range(len(sequences)))
    assert trie.path(0) == ()


@pytest.mark.parametrize("seed", range(20))
def test_prefix_free_is_every_pair(seed: int) -> None:
    sequences = sequences_of(seed)
    slow = not any(a is not b and b[: len(a)] == a for a in sequences for b in sequences)
    assert prefix_free(sequences) is slow


def test_the_same_sequence_twice_is_not_prefix_free() -> None:
    assert not prefix_free([(1, 2), (1, 2)])


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([()], "sequence 0 is empty"),
        ([(1,), ()], "sequence 1 is empty"),
        ([(1, 2), (3,), (1, 2)], "sequence 2 is the same as sequence 0"),
    ],
)
def test_bad_sequences_are_named(sequences: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_trie(sequences)
