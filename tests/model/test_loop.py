"""The gradient loop against a plain PyTorch training loop written out here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.laws.fitting import base_of, counted_positions, plain_answer_loss

from tunewise.adaptation.inside import Weights, writable_weights
from tunewise.adaptation.trainables import FrozenPrefix, VirtualTokens
from tunewise.errors import BudgetExceededError
from tunewise.model.answers import Example, judged_positions, mean_answer_loss
from tunewise.model.base import Base
from tunewise.model.forward import has_plain_head, packable
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.loop import BatchOrder, GradientLoop, LoopSettings
from tunewise.model.prefix import EMPTY_PREFIX
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Kind, TaskSpec

SPEC = TaskSpec("t", Kind.CLASSIFICATION, "Say a colour.", ("blue", "red"), "accuracy")
TEXTS = ("short", "a much longer row of text", "mid length", "x", "yy", "something else here")
STEPS = 5
SETTINGS = LoopSettings(
    batch_size=2,
    learning_rate=3e-3,
    warmup_steps=2,
    decay_begin=1,
    decay_end=STEPS,
    weight_decay=0.1,
    clip_norm=0.5,
    row_order="file",
)
# The factors by hand: a rise over two steps, then a fall from step 1 that would end at step 5.
FACTORS = [1 / 3, 2 / 3 * 4 / 5, 1 * 3 / 5, 1 * 2 / 5, 1 * 1 / 5]


def renderer_of(base: Base) -> Renderer:
    return Renderer(base.tokenizer, SPEC, PromptText(SPEC.instruction))


def examples_of(renderer: Renderer) -> list[Example]:
    return [
        Example(renderer.row_tokens(text), renderer.answer_tokens(SPEC.labels[index % 2]))
        for index, text in enumerate(TEXTS)
    ]


def loop_of(
    base: Base, trainable: Any, settings: LoopSettings, limit: int | None = None
) -> GradientLoop:
    return GradientLoop(
        base,
        trainable,
        examples_of(renderer_of(base)),
        settings,
        seed=0,
        ledger=Ledger(1, 1, limit=limit),
        log=FitLog(),
    )


def plain_loop(base: Base, leaves: list[torch.Tensor], before: Any) -> list[float]:
    """AdamW, clipping and schedule in the usual few lines; rows one by one, prompt repeated."""
    renderer = renderer_of(base)
    examples = examples_of(renderer)
    optimizer = torch.optim.AdamW(leaves, lr=SETTINGS.learning_rate, weight_decay=0.1)
    losses = []
    for step, factor in enumerate(FACTORS):
        chosen = [examples[(2 * step + offset) % len(examples)] for offset in range(2)]
        answers = sum(len(each.answer) for each in chosen)
        total: Any = 0
        for each in chosen:
            text = renderer.shared_tokens + each.row
            total = total + plain_answer_loss(base, text, each.answer, before=before)
        loss = total / answers
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS.learning_rate * factor
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_train_as_in_a_plain_loop(architecture: str) -> None:
    base = base_of(architecture, scale=2.0)
    twin = base_of(architecture, scale=2.0)
    twin.model.requires_grad_(True)
    losses = plain_loop(twin, list(twin.model.parameters()), None)
    names = [name for name, _ in base.model.named_parameters()]
    with writable_weights(base, names):
        loop = loop_of(base, Weights(FrozenPrefix(base, renderer_of(base), ()), names), SETTINGS)
        loop.run(STEPS)
        assert loop.log.losses == pytest.approx(losses, rel=1e-4)
        wanted = dict(twin.model.named_parameters())
        for name, leaf in loop.trainable.parameters.items():
            torch.testing.assert_close(leaf, wanted[name], atol=5e-5, rtol=1e-4, msg=name)
    assert len(loop.log.step_seconds) == len(loop.log.step_tokens) == STEPS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_virtual_tokens_train_as_in_a_plain_loop(architecture: str) -> None:
    base = base_of(architecture)
    start = base.model.get_input_embeddings().weight[70:74].detach().clone()
    leaf = start.clone().requires_grad_(True)
    losses = plain_loop(base, [leaf], leaf)
    trainable = VirtualTokens(FrozenPrefix(base, renderer_of(base), ()), start, hidden=0, seed=0)
    loop = loop_of(base, trainable, SETTINGS)
    loop.run(STEPS)
    assert loop.log.losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(trainable.parameters["embeddings"], leaf, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("most_positions", [1, 50])
def test_pieces_give_the_parameters_of_the_whole_step(most_positions: int) -> None:
    found = []
    for most in (4096, most_positions):
        base = base_of("qwen3", scale=2.0)
        start = base.model.get_input_embeddings().weight[70:74].detach().clone()
        trainable = VirtualTokens(
            FrozenPrefix(base, renderer_of(base), ()), start, hidden=0, seed=0
        )
        settings = LoopSettings(batch_size=4, learning_rate=1e-3, most_positions=most)
        loop = loop_of(base, trainable, settings)
        loop.run(4)
        found.append((loop.log.losses, trainable.parameters["embeddings"].detach()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["weights", "virtual"])
@pytest.mark.parametrize("most_positions", [4096, 60])
def test_costs_are_foretold_booked_and_real(kind: str, most_positions: int) -> None:
    base = base_of()
    has_plain_head(base)
    packable(base)
    renderer = renderer_of(base)
    frozen = FrozenPrefix(base, renderer, ())
    names = [name for name, _ in base.model.named_parameters()]
    settings = LoopSettings(batch_size=4, learning_rate=1e-3, most_positions=most_positions)
    with writable_weights(base, names):
        trainable: Any = Weights(frozen, names)
        if kind == "virtual":
            base.model.requires_grad_(False)
            trainable = VirtualTokens(frozen, torch.ones(3, 32), hidden=0, seed=0)
        loop = loop_of(base, trainable, settings)
        costs = loop.costs()
        foretold = [next(costs) for _ in range(5)]
        with counted_positions(base) as counts:
            loop.run(5)
    assert counts["plain"] == 0
    assert loop.ledger.forward_tokens == counts["graded"]
    assert loop.ledger.backward_tokens == counts["graded"] * trainable.backward_passes
    assert sum(foretold) == loop.ledger.spent


def test_the_first_loss_by_hand() -> None:
    base = base_of(chat=False)
    renderer = renderer_of(base)
    loop = loop_of(
        base,
        VirtualTokens(FrozenPrefix(base, renderer, ()), torch.ones(2, 32), hidden=0, seed=0),
        LoopSettings(batch_size=6),
    )
    loop.run(1)
    total, count = 0.0, 0
    with torch.no_grad():
        for text, label in zip(TEXTS, SPEC.labels * 3, strict=True):
            tokens = renderer.shared_tokens + renderer.row_tokens(text)
            for token in renderer.answer_tokens(label):
                ids = torch.tensor([tokens])
                embeds = base.model.get_input_embeddings()(ids)
                embeds = torch.cat([torch.ones(1, 2, 32), embeds], dim=1)
                logits = base.model(inputs_embeds=embeds).logits[0, -1]
                total -= float(logits.log_softmax(-1)[token])
                count += 1
                tokens += (token,)
    assert loop.log.losses[0] == pytest.approx(total / count, rel=1e-5)
    assert loop.log.step_tokens[0] == sum(
        2 + len(renderer.shared_tokens) + len(each.row) + len(each.answer) for each in loop.examples
    )


def test_mean_answer_loss_is_the_mean_over_tokens_and_counts_its_work() -> None:
    base = base_of()
    examples = examples_of(renderer_of(base))
    has_plain_head(base)
    packable(base)
    ledger = Ledger(1, 1)
    with counted_positions(base) as counts:
        got = mean_answer_loss(base, EMPTY_PREFIX, examples, ledger)
    with torch.no_grad():
        slow = sum(float(plain_answer_loss(base, each.row, each.answer)) for each in examples)
    assert got == pytest.approx(slow / sum(len(each.answer) for each in examples), rel=1e-5)
    assert counts["plain"] == ledger.forward_tokens == judged_positions(base, examples)


def test_a_step_that_is_not_covered_is_not_taken() -> None:
    base = base_of()
    frozen = FrozenPrefix(base, renderer_of(base), ())
    trainable = VirtualTokens(frozen, torch.ones(3, 32), hidden=0, seed=0)
    settings = LoopSettings(batch_size=2, row_order="file")
    costs = loop_of(base, trainable, settings).costs()
    limit = next(costs) + next(costs) + next(costs) - 1
    loop = loop_of(base, trainable, settings, limit)
    with pytest.raises(BudgetExceededError):
        loop.run(3)
    assert loop.step == len(loop.log.losses) == 2
    assert loop.ledger.spent <= limit


def test_masters_keep_what_the_working_copies_round_away() -> None:
    """In bfloat16 a step of 1e-5 on a weight of 1 is lost; the masters add such steps up."""
    base = base_of(dtype=torch.bfloat16)
    names = [name for name, _ in base.model.named_parameters() if name.endswith("norm.weight")]
    with writable_weights(base, names):
        trainable = Weights(FrozenPrefix(base, renderer_of(base), ()), names)
        before = {name: leaf.detach().clone() for name, leaf in trainable.parameters.items()}
        loop = loop_of(base, trainable, LoopSettings(batch_size=2, learning_rate=1e-5))
        loop.run(10)
        named = dict(base.model.named_parameters())
        for name, leaf in trainable.parameters.items():
            assert leaf.dtype == torch.float32
            assert named[name].dtype == torch.bfloat16
            moved = (leaf - before[name]).abs()
            assert 1e-6 < moved.max().item() < 2e-4
            assert named[name].detach().equal(leaf.detach().bfloat16())
            assert named[name].detach().equal(before[name].bfloat16())
        stored = trainable.parts()[0].tensors
        assert all(tensor.dtype == torch.bfloat16 for tensor in stored.values())


@pytest.mark.parametrize("row_order", ["shuffled", "file"])
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (7, 3), (64, 8), (200, 16), (5, 50)])
def test_every_row_comes_once_per_epoch(rows: int, size: int, row_order: Any) -> None:
    order = BatchOrder([index * 7 % 23 + 1 for index in range(rows)], size, 3, row_order)
    epochs = []
    for epoch in range(3):
        first = epoch * order.steps_per_epoch
        batches = [order.batch(first + step) for step in range(order.steps_per_epoch)]
        assert sorted(index for batch in batches for index in batch) == list(range(rows))
        assert all(1 <= len(batch) <= size for batch in batches)
        epochs.append(batches)
    if row_order == "file":
        flat = [index for batch in epochs[0] for index in batch]
        assert flat == list(range(rows))
        assert epochs[0] == epochs[1]
    elif rows >= 64:
        assert epochs[0] != epochs[1]


def test_the_order_is_a_pure_function_of_seed_and_step() -> None:
    lengths = [index % 9 + 1 for index in range(50)]
    forward = BatchOrder(lengths, 8, 1)
    wanted = [forward.batch(step) for step in range(21)]
    for step in (20, 0, 13, 7, 7):
        assert BatchOrder(lengths, 8, 1).batch(step) == wanted[step]
    backward = BatchOrder(lengths, 8, 1)
    assert [backward.batch(step) for step in reversed(range(21))] == wanted[::-1]
    assert [BatchOrder(lengths, 8, 2).batch(step) for step in range(21)] != wanted


def test_the_loop_leaves_other_leaves_and_the_base_alone() -> None:
    base = base_of()
    before = copy.deepcopy(base.model.state_dict())
    trainable = VirtualTokens(
        FrozenPrefix(base, renderer_of(base), ()), torch.ones(3, 32), hidden=4, seed=0
    )
    loop = loop_of(base, trainable, LoopSettings(batch_size=2, learning_rate=0.1))
    loop.run(3)
    assert all(base.model.state_dict()[name].equal(tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in base.model.parameters())
