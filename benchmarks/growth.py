"""One side of a scaling run: a small random model or task at one size of what grows.

Every kind gives a unit of work and what it expects of it: counted operations and numbers alive at
the peak. Only their growth is compared with what is measured, so constant factors do not matter.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gate import Gate
from benchmarks.jobs import Job
from benchmarks.workloads import BATCH
from tunewise.adaptation.trainables import FrozenPrefix, VirtualTokens
from tunewise.model.answers import Example
from tunewise.model.attention import MOST_SCORES
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.loop import GradientLoop, LoopSettings
from tunewise.model.prefix import EMPTY_PREFIX
from tunewise.model.score import label_log_probabilities
from tunewise.task.options import TaskOptions
from tunewise.task.task import load_task
from tunewise.task.types import Kind

LAYERS, WIDTH, VOCABULARY, HEAD_WIDTH = 4, 256, 4096, 64
ROW_TOKENS, VIRTUAL_TOKENS = 32, 20
# Rows scored for many labels; no batch holds more.
SCORED_ROWS = 64
# Numbers a layer keeps for backward, as a multiple of its width: norms, projections, the MLP.
KEPT_WIDTHS = 24
# Positions that are scored at once, at most.
AT_ONCE = 4096

Expected = dict[str, float]
Unit = Callable[[], Expected]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a fitting step."""

    rows: int = BATCH
    row_tokens: int = ROW_TOKENS
    virtual: int = VIRTUAL_TOKENS
    width: int = WIDTH
    layers: int = LAYERS


class _NoText:
    """In the place of a renderer: nothing stands before the virtual tokens' rows."""

    shared_tokens: tuple[int, ...] = ()


def serve(job: Job, gate: Gate) -> None:
    """Build the kind's unit of work at the job's size, then do it as the gate opens."""
    with tempfile.TemporaryDirectory() as folder:
        unit = KINDS[job.method](job.size, Path(folder))
        gate.ready(units=1)
        while (order := gate.next()).count:
            expected = [unit() for _ in range(order.count)]
            gate.done(expected=expected[-1])


def _load_rows(size: int, folder: Path) -> Unit:
    """Load, check, clean and split a task."""
    random = np.random.default_rng(0)
    path = folder / "rows.jsonl"
    words = np.array([f"{one}{other}" for one in _SYLLABLES for other in _SYLLABLES])
    with path.open("w") as file:
        for number in range(size):
            text = " ".join(words[random.integers(len(words), size=12)])
            row = {"text": text, "label": ("left", "right")[number % 2]}
            file.write(json.dumps(row) + "\n")
    options = TaskOptions(input="text", output="label", kind=Kind.CLASSIFICATION)

    def unit() -> Expected:
        load_task(str(path), options)
        return {"flops": size, "bytes": size}

    return unit


def _fit_rows(size: int, folder: Path) -> Unit:
    """One pass over the rows, a soft prompt."""
    return _fit(Shape(rows=size, width=64, layers=2), steps=-(-size // BATCH))


def _fit_virtual_tokens(size: int, folder: Path) -> Unit:
    """One step of a soft prompt."""
    return _fit(Shape(virtual=size))


def _fit_row_length(size: int, folder: Path) -> Unit:
    """One step of a soft prompt."""
    return _fit(Shape(row_tokens=size))


def _fit_width(size: int, folder: Path) -> Unit:
    """One step of a soft prompt."""
    return _fit(Shape(width=size))


def _score_rows(size: int, folder: Path) -> Unit:
    """Scores of two labels for all rows."""
    return _score(rows=size, labels=2, width=64, layers=2)


def _score_labels(size: int, folder: Path) -> Unit:
    """Scores of all labels for some rows."""
    return _score(rows=SCORED_ROWS, labels=size, width=WIDTH, layers=LAYERS)


KINDS: dict[str, Callable[[int, Path], Unit]] = {
    "rows_loaded": _load_rows,
    "rows_fitted": _fit_rows,
    "rows_scored": _score_rows,
    "virtual_tokens": _fit_virtual_tokens,
    "labels": _score_labels,
    "row_length": _fit_row_length,
    "width": _fit_width,
}
_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")


def _fit(shape: Shape, steps: int = 1) -> Unit:
    base = _random_base(shape.width, shape.layers)
    random = np.random.default_rng(0)
    examples = [
        Example(_tokens(random, shape.row_tokens - 1), _tokens(random, 2))
        for _ in range(shape.rows)
    ]
    no_text: Any = _NoText()
    start = base.model.get_input_embeddings().weight[: shape.virtual].detach().clone()
    trainable = VirtualTokens(FrozenPrefix(base, no_text, ()), start, hidden=0, seed=0)
    ledger = Ledger(base.body_parameters, base.head_parameters)
    settings = LoopSettings(batch_size=BATCH, learning_rate=1e-3, row_order="file")
    loop = GradientLoop(base, trainable, examples, settings, seed=0, ledger=ledger, log=FitLog())

    def unit() -> Expected:
        before = ledger.work().flops
        loop.run(steps)
        counted = ledger.work().flops - before
        attention = steps * _attention_flops(shape)
        return {"flops": counted + attention, "bytes": _kept_numbers(shape, settings)}

    return unit


def _attention_flops(shape: Shape) -> int:
    """Two products forward and four backward, every row of a batch seeing prefix and itself."""
    rows, seen = min(shape.rows, BATCH), shape.virtual + shape.row_tokens
    of_rows = rows * shape.row_tokens * seen
    of_prefix = shape.virtual**2
    return 12 * shape.layers * shape.width * (of_rows + of_prefix)


def _kept_numbers(shape: Shape, settings: LoopSettings) -> int:
    """Activations of the rows that run at once, and their scores where these are kept."""
    rows = max(1, min(shape.rows, BATCH, settings.most_positions // shape.row_tokens))
    positions = rows * shape.row_tokens + shape.virtual
    seen = shape.virtual + shape.row_tokens
    # Each layer also keeps its own copy of the prefix's keys and values for every row.
    copies = rows * seen * shape.width
    scores = rows * (shape.width // HEAD_WIDTH) * shape.row_tokens * (seen - shape.row_tokens // 2)
    kept = scores if scores <= MOST_SCORES else 0
    return shape.layers * (KEPT_WIDTHS * shape.width * positions + copies + kept)


def _score(*, rows: int, labels: int, width: int, layers: int) -> Unit:
    base = _random_base(width, layers)
    random = np.random.default_rng(0)
    asked = [_tokens(random, ROW_TOKENS) for _ in range(rows)]
    # Three tokens each, the first one shared by some.
    named = list({(int(_tokens(random, 1)[0]) % 64, *_tokens(random, 2)) for _ in range(labels)})

    def unit() -> Expected:
        ledger = Ledger(base.body_parameters, base.head_parameters)
        label_log_probabilities(base, EMPTY_PREFIX, asked, named, ledger)
        # Rows run in batches; the logits of one batch are alive at once.
        share = min(1.0, AT_ONCE / ledger.forward_tokens, SCORED_ROWS / rows)
        return {"flops": ledger.work().flops, "bytes": share * ledger.head_passes * VOCABULARY}

    return unit


def _tokens(random: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(int(token) for token in random.integers(VOCABULARY, size=count))


def _random_base(width: int, layers: int) -> Base:
    """A Llama-like model with random weights, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, width // HEAD_WIDTH)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Base.from_model(LlamaForCausalLM(config), None, name="random", fingerprint="random")


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of log(value) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-12)), 1)[0])
