"""How fast is this machine with this base? A few real batches, timed before anything is fitted.

The batches are of the task's own rows, shared prefix included, so that lengths, padding and the
output head weigh as they will in the run. Each kind of work is warmed up on a row or two, which
also tells how many rows the time allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewise.model.answers import Example, mean_answer_loss
from tunewise.model.base import Base
from tunewise.model.decode import decode
from tunewise.model.frozen import FrozenLayers
from tunewise.model.kept import KeptBytes
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.loop import GradientLoop, LoopSettings, Trainable
from tunewise.model.prefix import PrefixInputs, SharedPrefix, compute_prefix, token_embeddings
from tunewise.model.score import label_log_probabilities
from tunewise.model.shortened import Shortened

Clock = Callable[[], float]
WHOLE = Shortened(1, 1)
# Fewer at once leave the processor waiting for the weights, which full batches do not.
_LEAST_POSITIONS = 256
# The quickest of so many counts: what else the machine does for a moment says nothing of the run.
# What takes long is timed once, where it is no more than so many times what is expected.
_TIMES, _ODD = 2, 2.0
_DECODED_STEPS = 4
_DECODED_ROWS = 16
_DECODED_ROW_TOKENS = 8
# Numbers of the optimizer's probe: too many for the processor's caches, as a model's weights are.
_UPDATED = 2**22


@dataclass(frozen=True, slots=True)
class Pace:
    """How one kind of adaptation works on this machine.

    Attributes:
        forward: seconds of a position without gradients.
        backward: seconds of a backward pass of a position.
        update: seconds of a step besides.
        setup: seconds until the first step.
        saved_bytes: what a forward position of a step keeps for the way back.
        trained: how many numbers are trained.
        backward_passes, prefix_positions, frozen_layers: see `Trainable`.
        begun: positions computed before the first step.
        laid_out_bytes: what frozen weights take again while others are trained.
    """

    forward: float
    backward: float = 0.0
    update: float = 0.0
    setup: float = 0.0
    saved_bytes: float = 0.0
    trained: int = 0
    backward_passes: float = 0.0
    prefix_positions: int = 0
    frozen_layers: int = 0
    begun: int = 0
    laid_out_bytes: int = 0


def seconds_per_position(
    work: Callable[[int], int],
    most_rows: int,
    allowance: float,
    expected: float | None = None,
    clock: Clock = time.perf_counter,
) -> float:
    """Time some work on as many rows as the time allows.

    Args:
        work: does it on so many rows; returns positions.
        most_rows: rows at most, at least 1.
        allowance: seconds there are; on a slow machine `_LEAST_POSITIONS` may take longer.
        expected: seconds of a position; None to try two rows for it.
        clock: tells seconds.
    """
    # The first call also pays for what happens once: memory, kernels, what is tried per model.
    few, tried = min(2, most_rows), expected is None
    positions = work(1 if tried else few)
    if expected is None:
        began = clock()
        positions = work(few)
        expected = (clock() - began) / positions
    rows = _rows_in(allowance / _TIMES, expected, positions / few, most_rows)
    if tried and rows <= few:
        return expected
    found = math.inf
    for _ in range(_TIMES):
        began = clock()
        positions = work(rows)
        took = clock() - began
        found = min(found, took / positions)
        if took > 2 * allowance and found <= _ODD * expected:
            break
    return found


def _rows_in(allowance: float, expected: float, positions: float, most: int) -> int:
    """Rows of so many positions that fit in the time, and enough of them to tell something."""
    allowed = most if expected <= 0 else int(allowance / (expected * positions))
    return min(most, max(allowed, math.ceil(_LEAST_POSITIONS / positions), 1))


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """So many examples, evenly over their lengths."""
    ordered = sorted(examples, key=lambda example: len(example.inputs))
    count = min(count, len(ordered))
    return [ordered[int((index + 0.5) * len(ordered) / count)] for index in range(count)]


def forward_seconds(
    base: Base,
    prefix: SharedPrefix,
    examples: Sequence[Example],
    labels: Sequence[Sequence[int]],
    allowance: float,
    expected: float | None = None,
    short: Shortened = WHOLE,
) -> float:
    """Seconds of one position that is judged or measured, its share of the output head included.

    Args:
        base: the base, with whatever is attached to it.
        prefix: positions before the rows.
        examples: the task's rows.
        labels: tokens of the labels that are scored after every row; empty where the right answer
            alone is.
        allowance: seconds there are.
        expected: about what it will be; None where nothing is known.
        short: how much of the base is there; the seconds are the whole base's.
    """
    done: list[Ledger] = []

    def work(rows: int) -> int:
        ledger = Ledger(base.body_parameters, base.head_parameters)
        done.append(ledger)
        chosen = spread(examples, rows)
        if labels:
            rows_of = [example.row for example in chosen]
            label_log_probabilities(base, prefix, rows_of, labels, ledger)
        else:
            mean_answer_loss(base, prefix, chosen, ledger)
        return ledger.forward_tokens

    expected = None if expected is None else expected / short.times
    found = seconds_per_position(work, min(64, len(examples)), allowance, expected)
    return found * short.whole(done[-1])


def step_pace(
    frozen: FrozenLayers,
    trainable: Trainable,
    examples: Sequence[Example],
    most_rows: int,
    allowance: float,
    expected: float,
    short: Shortened = WHOLE,
) -> tuple[float, float]:
    """What an optimizer step takes for each of its forward positions.

    The trainable is changed by the steps that are taken.

    Args:
        frozen: the base's frozen layers, as all steps use them.
        trainable: what is trained.
        examples: the task's rows.
        most_rows: of a step.
        allowance: seconds there are.
        expected: seconds of a position, about.
        short: how much of the base is there; what is returned is the whole base's.

    Returns:
        Seconds, the way back and the update included; and bytes that are kept for the way back.
    """
    done: list[Ledger] = []
    kept = KeptBytes(frozen.base)

    def work(rows: int) -> int:
        # The first step, which pays for what happens once, is the one that is looked into.
        with nullcontext() if done else kept.watched():
            done.append(_one_step(frozen, trainable, spread(examples, rows)))
        return done[-1].forward_tokens

    most_rows, expected = min(most_rows, len(examples)), expected / short.times
    seconds = seconds_per_position(work, most_rows, allowance, expected)
    saved = (kept.outside + short.times * kept.inside) / done[0].forward_tokens
    return seconds * short.whole(done[-1]), saved


def _one_step(frozen: FrozenLayers, trainable: Trainable, examples: Sequence[Example]) -> Ledger:
    """Take a step with these rows; returns what it was counted to be."""
    base = frozen.base
    ledger = Ledger(base.body_parameters, base.head_parameters)
    settings = LoopSettings(batch_size=len(examples), learning_rate=1e-6, row_order="file")
    log = FitLog()
    loop = GradientLoop(
        base, trainable, examples, settings, seed=0, ledger=ledger, log=log, frozen=frozen
    )
    loop.run(1)
    return ledger


def forward_bytes(base: Base) -> float:
    """Bytes that a position holds while it runs without gradients.

    Its keys and values stay, and are copied once when a row's own join those before it; the rest is
    what one layer works on: about four times its inner width and six times its outer one.
    """
    config = base.model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None)
    wide = 4 * base.width if inner is None else int(inner)
    with torch.no_grad():
        one = compute_prefix(base, token_embeddings(base, [0]))
    kept = sum(tensor.numel() for tensor in one.tensors())
    return float((2 * kept + 4 * wide + 6 * base.width) * base.dtype.itemsize)


class AllWeights:
    """A trainable that asks for the gradients of all weights and changes none of them.

    What an optimizer holds and does besides is left out: it would take several times the model's
    memory just to look ahead (`update_seconds`).

    Args:
        base: the base; inside `all_weights` only.
        inputs: what the prefix is computed from.
        positions: positions of the prefix that are computed.
    """

    backward_passes = 2.0
    frozen_layers = 0

    def __init__(self, base: Base, inputs: Callable[[], PrefixInputs], positions: int) -> None:
        self.parameters = {"nothing": torch.zeros(1, requires_grad=True)}
        self.prefix_positions = positions
        self._base, self._inputs = base, inputs

    def prefix_inputs(self) -> PrefixInputs:
        """See `Trainable.prefix_inputs`."""
        return self._inputs()

    def collect_gradients(self) -> None:
        """Let go of them."""
        for parameter in self._base.model.parameters():
            parameter.grad = None

    def publish(self) -> None:
        """Nothing has changed."""


@contextmanager
def all_weights(
    base: Base, inputs: Callable[[], PrefixInputs], positions: int
) -> Iterator[AllWeights]:
    """The trainable of that name, while the context lasts; the base is frozen again after it."""
    try:
        base.model.requires_grad_(True)
        yield AllWeights(base, inputs, positions)
    finally:
        base.model.requires_grad_(False)
        for parameter in base.model.parameters():
            parameter.grad = None


def update_seconds(base: Base, clock: Clock = time.perf_counter) -> float:
    """Seconds that AdamW takes for one trained weight: gradient, clipping, moments, rounding."""
    working = torch.zeros(_UPDATED, dtype=base.dtype, device=base.device)
    master = torch.zeros(_UPDATED, device=base.device, requires_grad=True)
    optimizer = torch.optim.AdamW([master], lr=1e-6, fused=True)
    seconds = []
    for _ in range(2):
        began = clock()
        master.grad = torch.ones_like(working).float()
        torch.nn.utils.clip_grad_norm_([master], 1.0)
        optimizer.step()
        with torch.no_grad():
            working.copy_(master)
        seconds.append(clock() - began)
    return seconds[-1] / _UPDATED


class _Endless:
    """A constraint under which no answer ends."""

    finished = False

    def __init__(self, allowed: Tensor) -> None:
        self._allowed = allowed

    def allowed(self) -> Tensor:
        """All tokens but the one that ends an answer."""
        return self._allowed

    def advance(self, token: int) -> None:
        """Anything may follow anything."""


def decode_seconds(
    base: Base,
    prefix: SharedPrefix,
    examples: Sequence[Example],
    end_token: int,
    clock: Clock = time.perf_counter,
) -> float:
    """Seconds of one generated token, among as many rows as are generated side by side here.

    Args:
        base: the base, with whatever is attached to it.
        prefix: positions before the rows.
        examples: the task's rows, of which the first few tokens are used.
        end_token: ends an answer; not let through.
        clock: tells seconds.
    """
    rows = [each.row[:_DECODED_ROW_TOKENS] for each in spread(examples, _DECODED_ROWS)]
    allowed = torch.ones(base.vocabulary, dtype=torch.bool)
    allowed[end_token] = False

    def run(steps: int) -> float:
        began = clock()
        decode(
            base,
            prefix,
            rows,
            end_token=end_token,
            max_new_tokens=steps,
            constrain=lambda: _Endless(allowed),
        )
        return clock() - began

    run(1)
    first, all_steps = run(1), run(1 + _DECODED_STEPS)
    return max(all_steps - first, 0.0) / (_DECODED_STEPS * len(rows))
