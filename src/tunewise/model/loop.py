"""The one gradient loop. Every trained method, whatever it trains, goes through `GradientLoop`.

One optimizer step: the shared prefix is computed once, with gradients, in one pass with the rows
where they fit into memory together. Else it is computed first, the rows run behind it in as many
pieces as memory wants, and its accumulated gradient is then sent back through it once. Only answer
tokens go through the output head. The loss is the mean over all answer tokens of the step, whatever
the pieces.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tunewise.model.answers import Example, answer_loss, joined_loss
from tunewise.model.base import Base
from tunewise.model.forward import group_by_length, positions
from tunewise.model.frozen import FrozenLayers
from tunewise.model.joined import joinable
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.prefix import PrefixInputs
from tunewise.model.recompute import memory_is_short, recomputed
from tunewise.model.row_order import RowOrder
from tunewise.numerics.schedule import linear_decay, warm_constant

# Batches of one sorting window: wide enough to group rows by length, narrow enough to stay random.
_WINDOW = 8


class Trainable(Protocol):
    """What the loop trains.

    Attributes:
        parameters: float32 leaves by name.
        backward_passes: backward passes per position: 1 with frozen weights, 2 with trained ones,
            times the share of layers above the lowest trained one (nothing below needs gradients).
        prefix_positions: positions of the prefix that are computed at every step.
        frozen_layers: layers from below that what is trained stands above.
    """

    @property
    def parameters(self) -> dict[str, Tensor]:
        """See the class."""
        ...

    @property
    def backward_passes(self) -> float:
        """See the class."""
        ...

    @property
    def prefix_positions(self) -> int:
        """See the class."""
        ...

    @property
    def frozen_layers(self) -> int:
        """See the class."""
        ...

    def prefix_inputs(self) -> PrefixInputs:
        """What the shared prefix is computed from, as the parameters stand now, with gradients."""
        ...

    def collect_gradients(self) -> None:
        """Bring gradients to the float32 leaves where they arose on working copies."""
        ...

    def publish(self) -> None:
        """Make changed parameters take effect in the model."""
        ...


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop trains.

    Attributes:
        batch_size: rows per optimizer step.
        learning_rate: peak of the schedule.
        own_rates: peaks of their own, by the beginning of parameters' names.
        warmup_steps: steps of the linear rise.
        decay_begin, decay_end: the linear decay's steps; no decay where `decay_end` is None.
        weight_decay: of AdamW (Loshchilov & Hutter 2019).
        clip_norm: the largest gradient norm, of each group of one learning rate.
        row_order: "shuffled" by seed, similar lengths together; "file" as the rows stand.
        most_positions: rows x tokens that run at once; more are run in pieces.
    """

    batch_size: int = 16
    learning_rate: float = 1e-3
    own_rates: Mapping[str, float] = field(default_factory=dict)
    warmup_steps: int = 0
    decay_begin: int = 0
    decay_end: int | None = None
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    row_order: RowOrder = "shuffled"
    most_positions: int = 4096


@dataclass(slots=True)
class BatchOrder:
    """Which rows stand in which step: a pure function of (seed, step), so a fit can resume."""

    lengths: Sequence[int]
    batch_size: int
    seed: int
    row_order: RowOrder = "shuffled"
    _epochs: dict[int, list[list[int]]] = field(default_factory=dict, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every row once."""
        return -(-len(self.lengths) // self.batch_size)

    def batch(self, step: int) -> list[int]:
        """Row indices of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            self._epochs = {epoch: self._arrange(epoch)}
        return self._epochs[epoch][within]

    def _arrange(self, epoch: int) -> list[list[int]]:
        count, size = len(self.lengths), self.batch_size
        if self.row_order == "file":
            return [list(range(at, min(at + size, count))) for at in range(0, count, size)]
        random = np.random.default_rng([self.seed, epoch])
        order = [int(index) for index in random.permutation(count)]
        batches: list[list[int]] = []
        for at in range(0, count, size * _WINDOW):
            window = sorted(order[at : at + size * _WINDOW], key=lambda index: self.lengths[index])
            pieces = [window[begin : begin + size] for begin in range(0, len(window), size)]
            batches += [pieces[int(index)] for index in random.permutation(len(pieces))]
        return batches


class GradientLoop:
    """Trains a `Trainable` on examples, step by step.

    Args:
        base: the base, with whatever is attached to it.
        trainable: what is trained.
        examples: the rows.
        settings: how.
        seed: of the row order.
        ledger: books the work of every step before it is done.
        log: receives losses and timings.
        frozen: faster forms of what is frozen, where several loops share them.
    """

    def __init__(
        self,
        base: Base,
        trainable: Trainable,
        examples: Sequence[Example],
        settings: LoopSettings,
        *,
        seed: int,
        ledger: Ledger,
        log: FitLog,
        frozen: FrozenLayers | None = None,
    ) -> None:
        self.base, self.trainable, self.examples = base, trainable, examples
        self.settings, self.ledger, self.log = settings, ledger, log
        lengths = [len(example.inputs) for example in examples]
        self.order = BatchOrder(lengths, settings.batch_size, seed, settings.row_order)
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            _groups(trainable.parameters, settings),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._frozen = FrozenLayers(base) if frozen is None else frozen

    def costs(self) -> Iterator[int]:
        """Token passes of step after step from the first, exactly as `run` books them; no end."""
        return (sum(self.work(step)) for step in itertools.count())

    def work(self, step: int) -> tuple[int, int]:
        """Forward and backward passes of a step."""
        positions = self._positions(self.order.batch(step))
        above = 1.0 if self._frozen.lower is None else 1.0 - self._frozen.lower.share
        return round(positions * above), round(positions * self.trainable.backward_passes)

    def run(self, steps: int) -> None:
        """Take this many steps.

        Raises:
            BudgetExceededError: the ledger does not cover a step; the steps before it stand.
        """
        with ExitStack() as stack:
            stack.enter_context(self._frozen.used())
            if self.recomputes:
                stack.enter_context(recomputed(self.base))
            for _ in range(steps):
                self._one_step()

    @cached_property
    def recomputes(self) -> bool:
        """Whether layers are run again on the way back, for want of memory."""
        longest = sorted(self.order.lengths)[-self.settings.batch_size :]
        rows = max(longest[-1], min(sum(longest), self.settings.most_positions))
        return memory_is_short(self.base, rows + self.trainable.prefix_positions)

    def _pieces(self, batch: Sequence[int]) -> list[list[int]]:
        lengths = [self.order.lengths[index] for index in batch]
        pieces = group_by_length(
            lengths, most_positions=self.settings.most_positions, most_rows=len(batch)
        )
        return [[batch[index] for index in piece] for piece in pieces]

    def _joins(self, pieces: Sequence[Sequence[int]]) -> bool:
        """Whether prefix and rows run in one pass."""
        return len(pieces) == 1 and self.trainable.prefix_positions > 0 and joinable(self.base)

    def _positions(self, batch: Sequence[int]) -> int:
        pieces = self._pieces(batch)
        lengths = [[self.order.lengths[index] for index in piece] for piece in pieces]
        rows = sum(lengths[0]) if self._joins(pieces) else self._behind(lengths)
        return rows + self.trainable.prefix_positions

    def _behind(self, lengths: Sequence[Sequence[int]]) -> int:
        return sum(positions(self.base, piece) for piece in lengths)

    def _one_step(self) -> None:
        began = time.perf_counter()
        batch = self.order.batch(self.step)
        answers = sum(len(self.examples[index].answer) for index in batch)
        forward, backward = self.work(self.step)
        # The head stands above all layers: only with all weights trained has it two passes.
        head = answers * (1 + max(1, int(self.trainable.backward_passes)))
        self.ledger.charge(forward=forward, backward=backward, head=head)
        self.optimizer.zero_grad(set_to_none=True)
        ahead = self.trainable.prefix_inputs()
        pieces = self._pieces(batch)
        backward_pass = self._backward_joined if self._joins(pieces) else self._backward_behind
        loss = backward_pass(ahead, pieces, answers)
        self.trainable.collect_gradients()
        self._update()
        self.log.step_seconds.append(time.perf_counter() - began)
        self.log.losses.append(loss)
        tokens = sum(len(self.examples[index].row) for index in batch) + answers
        self.log.step_tokens.append(tokens + ahead.length * len(batch))
        self.step += 1
        twice = ", layers run twice to save memory" if self.recomputes else ""
        self.log.progress(self.ledger.spent, self.ledger.limit, f"loss {loss:.3f}{twice}")

    def _backward_joined(
        self, ahead: PrefixInputs, pieces: Sequence[Sequence[int]], answers: int
    ) -> float:
        rows = [self.examples[index] for index in pieces[0]]
        kept = nullcontext() if self._frozen.lower is None else self._frozen.lower.used(pieces[0])
        with kept:
            loss = joined_loss(self.base, ahead, rows) / answers
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(loss.detach())

    def _backward_behind(
        self, ahead: PrefixInputs, pieces: Sequence[Sequence[int]], answers: int
    ) -> float:
        live = ahead.lower(self.base)
        # The prefix is cut from its graph so that several pieces can use it; what they leave on
        # the cut is sent through the graph once.
        cut = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in live.tensors()]
        prefix = live.with_tensors(cut)
        total = 0.0
        for piece in pieces:
            loss = answer_loss(self.base, prefix, [self.examples[i] for i in piece]) / answers
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += float(loss.detach())
        reached = [
            (tensor, end.grad)
            for tensor, end in zip(live.tensors(), cut, strict=True)
            if end.grad is not None
        ]
        if reached:
            tensors, gradients = zip(*reached, strict=True)
            torch.autograd.backward(tensors, gradients)
        return total

    def _update(self) -> None:
        settings = self.settings
        factor = warm_constant(self.step, settings.warmup_steps)
        if settings.decay_end is not None:
            factor *= linear_decay(self.step, settings.decay_begin, settings.decay_end)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
            # By itself: the gradients of two kinds of part differ by orders of magnitude.
            torch.nn.utils.clip_grad_norm_(group["params"], settings.clip_norm)
        self.optimizer.step()
        self.trainable.publish()


def _groups(parameters: Mapping[str, Tensor], settings: LoopSettings) -> list[dict[str, Any]]:
    """The optimizer's groups: one for each learning rate that some parameters have."""
    groups: dict[str, list[Tensor]] = {}
    for name, leaf in parameters.items():
        begin = next((begin for begin in settings.own_rates if name.startswith(begin)), "")
        groups.setdefault(begin, []).append(leaf)
    rates = {"": settings.learning_rate, **settings.own_rates}
    return [{"params": leaves, "peak": rates[begin]} for begin, leaves in groups.items()]
