"""Decoding with a cache behind a shared prefix against recomputing everything at every token."""

from __future__ import annotations

import math

import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES, base_of, plain_logits
from torch import Tensor

from tunewise.model.base import Base
from tunewise.model.decode import Decoded, LabelState, decode
from tunewise.model.ledger import Ledger
from tunewise.model.prefix import EMPTY_PREFIX, SharedPrefix, compute_prefix, token_embeddings
from tunewise.numerics.trie import build_trie

NO_END = 260
ROWS = [(1, 2, 3), tuple(range(100, 130)), (7,), (9, 9, 9, 9, 9), tuple(range(60, 75))]


def virtual_of(base: Base, count: int = 12) -> Tensor:
    size = float(base.model.get_input_embeddings().weight.std())
    return torch.randn(count, base.width, generator=torch.Generator().manual_seed(1)) * size


def prefix_of(base: Base, embeddings: Tensor) -> SharedPrefix:
    with torch.no_grad():
        return compute_prefix(base, embeddings[None])


def slow_greedy(
    base: Base, row: tuple[int, ...], count: int, before: Tensor | None
) -> tuple[list[int], float]:
    taken: list[int] = []
    total = 0.0
    with torch.no_grad():
        for _ in range(count):
            logits = plain_logits(base, row + tuple(taken), before=before)[-1]
            taken.append(int(logits.argmax()))
            total += float(logits.log_softmax(dim=-1).max())
    return taken, total


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_with_virtual_tokens_it_equals_the_run_without_cache(architecture: str) -> None:
    """peft#2123: generate ignored prompt tokens unless use_cache=False. peft#2043: a reloaded
    prompt generated what zero-shot does. peft#2821: prefixes broke with DynamicCache. Here the
    answers differ from the base's and equal those computed without any cache, also the padded."""
    base = base_of(architecture)
    virtual = virtual_of(base)
    prefix = prefix_of(base, virtual)
    before = [tensor.clone() for tensor in prefix.tensors()]
    answers = decode(base, prefix, ROWS, end_token=NO_END, max_new_tokens=10)
    bare = decode(base, EMPTY_PREFIX, ROWS, end_token=NO_END, max_new_tokens=10)
    for row, answer in zip(ROWS, answers, strict=True):
        tokens, log_probability = slow_greedy(base, row, 10, virtual)
        assert answer.tokens == tokens
        assert answer.log_probability == pytest.approx(log_probability, abs=1e-3)
        assert not answer.ended
    assert any(one.tokens != other.tokens for one, other in zip(answers, bare, strict=True))
    assert all(one.equal(other) for one, other in zip(before, prefix.tensors(), strict=True))


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_without_a_prefix_it_equals_generate(architecture: str) -> None:
    base = base_of(architecture)
    answers = decode(base, EMPTY_PREFIX, ROWS, end_token=NO_END, max_new_tokens=12)
    for row, answer in zip(ROWS, answers, strict=True):
        ids = torch.tensor([row])
        generated = base.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=NO_END,
            pad_token_id=0,
        )
        assert answer.tokens == generated[0, len(row) :].tolist()


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_a_row_does_not_depend_on_its_neighbours_nor_on_when_they_end(architecture: str) -> None:
    base = base_of(architecture)
    prefix = prefix_of(base, virtual_of(base))
    free = decode(base, prefix, ROWS, end_token=NO_END, max_new_tokens=10)
    end = free[1].tokens[3]
    together = decode(base, prefix, ROWS, end_token=end, max_new_tokens=10)
    assert together[1].ended
    assert len({len(each.tokens) for each in together}) > 1
    for row, answer, whole in zip(ROWS, together, free, strict=True):
        alone = decode(base, prefix, [row], end_token=end, max_new_tokens=10)[0]
        assert alone.tokens == answer.tokens
        assert alone.ended == answer.ended
        cut = whole.tokens.index(end) if end in whole.tokens else len(whole.tokens)
        assert answer.tokens == whole.tokens[:cut]
        assert answer.ended == (end in whole.tokens)


def test_an_answer_that_ends_at_once_is_empty_and_has_the_probability_of_its_end() -> None:
    base = base_of()
    with torch.no_grad():
        logits = plain_logits(base, ROWS[0])[-1]
    end = int(logits.argmax())
    answer = decode(base, EMPTY_PREFIX, [ROWS[0]], end_token=end, max_new_tokens=5)[0]
    assert (answer.tokens, answer.ended) == ([], True)
    assert answer.probability == pytest.approx(float(logits.softmax(-1)[end]), rel=1e-4)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_through_the_trie_only_labels_come_out_and_greedily(architecture: str) -> None:
    base = base_of(architecture)
    prefix = prefix_of(base, virtual_of(base))
    labels = [(70, 71, 72), (70, 71, 73), (70, 74), (80, 81), (82,), (70, 71, 72, 75)]
    trie = build_trie(labels)
    states: list[LabelState] = []

    def begin() -> LabelState:
        states.append(LabelState(trie, base.vocabulary))
        return states[-1]

    answers = decode(base, prefix, ROWS, end_token=NO_END, max_new_tokens=4, constrain=begin)
    for row, answer in zip(ROWS, answers, strict=True):
        assert isinstance(answer.constraint, LabelState)
        label, log_probability = slow_walk(base, row, labels, virtual_of(base))
        assert labels[answer.constraint.label] == label
        assert answer.log_probability == pytest.approx(log_probability, abs=1e-3)
    assert len({id(answer.constraint) for answer in answers}) == len(ROWS)


def slow_walk(
    base: Base, row: tuple[int, ...], labels: list[tuple[int, ...]], before: Tensor
) -> tuple[tuple[int, ...], float]:
    """Greedy choice among labels, the sequences filtered anew at every token."""
    taken: tuple[int, ...] = ()
    left, total = list(labels), 0.0
    while len(left) > 1 and any(len(label) > len(taken) for label in left):
        nexts = sorted({label[len(taken)] for label in left if len(label) > len(taken)})
        with torch.no_grad():
            scores = plain_logits(base, row + taken, before=before)[-1][nexts].double()
        best = int(scores.argmax())
        total += float(scores.log_softmax(-1)[best])
        taken += (nexts[best],)
        left = [label for label in left if label[: len(taken)] == taken]
    return left[0], total


def test_the_state_of_a_label() -> None:
    trie = build_trie([(3, 4), (3, 5), (6,)])
    state = LabelState(trie, vocabulary=8)
    assert state.allowed().nonzero().flatten().tolist() == [3, 6]
    assert not state.finished
    state.advance(3)
    assert state.allowed().nonzero().flatten().tolist() == [4, 5]
    state.advance(5)
    assert state.finished
    assert state.label == 1
    assert Decoded(log_probability=math.log(0.25)).probability == pytest.approx(0.25)


def test_the_ledger_counts_padding_and_stops_counting_ended_rows() -> None:
    base = base_of()
    prefix = SharedPrefix()
    free = decode(base, prefix, ROWS, end_token=NO_END, max_new_tokens=6)
    end = free[1].tokens[2]
    ledger = Ledger(1, 1)
    answers = decode(base, prefix, ROWS, end_token=end, max_new_tokens=6, ledger=ledger)
    longest = max(len(row) for row in ROWS)
    # A token is fed unless it is the last one allowed or ends the answer.
    fed = sum(min(len(answer.tokens), 5) for answer in answers)
    assert ledger.forward_tokens == longest * len(ROWS) + fed
    assert ledger.backward_tokens == 0


def test_prompt_as_tokens_equals_prompt_in_the_row() -> None:
    base = base_of()
    prompt = tuple(range(30, 45))
    with torch.no_grad():
        prefix = compute_prefix(base, token_embeddings(base, prompt))
    behind = decode(base, prefix, ROWS, end_token=NO_END, max_new_tokens=8)
    within = decode(
        base, EMPTY_PREFIX, [prompt + row for row in ROWS], end_token=NO_END, max_new_tokens=8
    )
    assert [each.tokens for each in behind] == [each.tokens for each in within]
