"""Label scores in one pass over a trie against a plain pass for every label."""

from __future__ import annotations

import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES, base_of, counted_positions, plain_answer_loss

from tunewise.model.base import Base
from tunewise.model.forward import group_by_length, has_plain_head, packable
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import EMPTY_PREFIX, SharedPrefix, compute_prefix, token_embeddings
from tunewise.model.score import label_log_probabilities, scoring_positions

PROMPT = tuple(range(40, 60))
ROWS = [(1, 2, 3), tuple(range(100, 130)), (7,), (9, 9, 9, 9, 9)]
LABELS = {
    "one token each": [(70,), (71,), (72,)],
    "shared beginnings": [(70, 71, 72), (70, 71, 73), (70, 74, 75, 76)],
    "one begins another": [(70, 71), (70,), (70, 71, 72)],
    "different lengths": [(80,), (81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92), (93, 94)],
    "one label": [(70, 71)],
    "the same tail": [(70, 99, 98), (71, 99, 98)],
}


def prefix_of(base: Base, prompt: tuple[int, ...]) -> SharedPrefix:
    with torch.no_grad():
        return compute_prefix(base, token_embeddings(base, prompt)) if prompt else EMPTY_PREFIX


@pytest.mark.parametrize("prompt", [PROMPT, ()], ids=["prefix", "empty"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_one_pass_equals_a_pass_per_label(
    architecture: str, labels: list[tuple[int, ...]], prompt: tuple[int, ...]
) -> None:
    """lm-eval PR #533: positions of virtual tokens were counted as text and shifted the scores."""
    base = base_of(architecture)
    got = label_log_probabilities(base, prefix_of(base, prompt), ROWS, labels)
    with torch.no_grad():
        slow = torch.tensor(
            [[-plain_answer_loss(base, prompt + row, label) for label in labels] for row in ROWS]
        )
    torch.testing.assert_close(got, slow, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_a_row_does_not_depend_on_its_neighbours(architecture: str) -> None:
    base = base_of(architecture)
    prefix, labels = prefix_of(base, PROMPT), LABELS["shared beginnings"]
    together = label_log_probabilities(base, prefix, ROWS, labels)
    alone = torch.cat([label_log_probabilities(base, prefix, [row], labels) for row in ROWS])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_the_ledger_counts_what_runs(labels: list[tuple[int, ...]]) -> None:
    base = base_of()
    prefix = prefix_of(base, PROMPT)
    has_plain_head(base)
    packable(base)
    ledger = Ledger(1, 1)
    rows = ROWS * 50
    with counted_positions(base) as counts:
        label_log_probabilities(base, prefix, rows, labels, ledger)
    assert counts["plain"] == ledger.forward_tokens == scoring_positions(base, rows, labels)
    assert counts["graded"] == ledger.backward_tokens == 0


@pytest.mark.parametrize("most_rows", [1, 3, 100])
@pytest.mark.parametrize("most_positions", [1, 17, 40, 10_000])
def test_grouping_takes_every_row_once_and_keeps_its_limits(
    most_positions: int, most_rows: int
) -> None:
    lengths = [5, 1, 30, 7, 7, 2, 12, 30, 1]
    batches = group_by_length(lengths, most_positions=most_positions, most_rows=most_rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert lengths[batch[0]] == max(lengths[index] for index in batch)
        assert len(batch) <= most_rows
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= most_positions
    assert group_by_length([], most_positions=1, most_rows=1) == []
