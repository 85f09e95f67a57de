"""How fast each kind of adaptation is fitted and measured on this machine, for this task.

Seconds and bytes depend on what is trained only through its kind of part, so a small one of each
kind that the run will train takes a few real steps; a method's name is never asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from tunewise.adaptation.demonstrations import shown
from tunewise.adaptation.inside import LowRank, low_rank_layers
from tunewise.adaptation.judge import example
from tunewise.adaptation.readout import default_decoding, label_sequences
from tunewise.adaptation.trainables import FrozenPrefix, KVPrefix, VirtualTokens
from tunewise.methods._contract import Method
from tunewise.methods._settings._training import TrainingSettings
from tunewise.model import calibrate
from tunewise.model.base import Base
from tunewise.model.calibrate import Pace
from tunewise.model.frozen import FrozenLayers, laid_out_bytes
from tunewise.model.loop import Trainable
from tunewise.model.prefix import compute_prefix, token_embeddings
from tunewise.model.shortened import Shortened, shortened
from tunewise.numerics.trie import build_trie
from tunewise.steps import Ground
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import TaskSpec

# Seconds of timing, shared by all that is timed; warming up comes on top.
_TIMED_SECONDS = 1.0
_BATCH_ROWS = 16
# In the middle of what a search tries.
_DEMONSTRATIONS = 8
# Kinds of part that gradients find, the deepest first; the setting that says how large, and how
# large without it.
_SIZES: Mapping[str, tuple[str, int | None]] = {
    "weights": ("", None),
    "low_rank": ("rank", 8),
    "kv_prefix": ("positions", None),
    "virtual_tokens": ("virtual_tokens", None),
}


class _Remembering(Renderer):
    """A renderer that turns a text into tokens once.

    Plans ask for the same rows once for every fit and budget that they look at.
    """

    def __init__(self, tokenizer: Any, spec: TaskSpec, prompt: PromptText) -> None:
        super().__init__(tokenizer, spec, prompt)
        self._rows: dict[str, tuple[int, ...]] = {}
        self._answers: dict[str, tuple[int, ...]] = {}

    def row_tokens(self, text: str) -> tuple[int, ...]:
        """See `Renderer.row_tokens`."""
        if text not in self._rows:
            self._rows[text] = super().row_tokens(text)
        return self._rows[text]

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """See `Renderer.answer_tokens`."""
        if answer not in self._answers:
            self._answers[answer] = super().answer_tokens(answer)
        return self._answers[answer]


class PlannedTask:
    """The task's rows behind its plain instruction, as every plan looks at them.

    Args:
        ground: base and task.
        renderer: of the plain instruction, where another plan of the same task has one already.

    Attributes:
        renderer: of the plain instruction.
        examples: the training rows.
        decoding: how answers will be read out.
        labels: tokens of the labels where all are scored; else empty.
        inner: positions that scoring the labels adds to a row.
    """

    def __init__(self, ground: Ground, renderer: Renderer | None = None) -> None:
        self.ground, view = ground, ground.task.fit_view
        if renderer is None:
            prompt = PromptText(view.spec.instruction)
            renderer = _Remembering(ground.base.tokenizer, view.spec, prompt)
        self.renderer = renderer
        self.examples = tuple(example(self.renderer, row) for row in view.train)
        self.decoding = default_decoding(view.spec, self.renderer, view.train)
        scores = self.decoding.mode == "score"
        self.labels = label_sequences(self.renderer) if scores else ()
        self.inner = sum(map(bool, build_trie(self.labels).children[1:])) if scores else 0


class Paces:
    """Times the base, and each kind of part that some methods train.

    Args:
        task: the task's rows.
        methods: those that will be planned.
        settings: by method.

    Attributes:
        seconds: how long the timing took.
        plain: of answering with the base; all zero where no method calls it.
        searching: seconds of a position that is read behind demonstrations, as most are that a
            search for a prompt looks at.
        decode: seconds of a generated token; 0 where nothing is generated.
        forward_bytes: what a position holds while it runs without gradients.
    """

    def __init__(
        self, task: PlannedTask, methods: Sequence[Method], settings: Mapping[str, Any]
    ) -> None:
        self.task, self.settings, self.base = task, settings, task.ground.base
        self.seconds = self.decode = self.forward_bytes = self.searching = 0.0
        self.plain = Pace(0.0)
        self._trained: dict[tuple[str, int | None], Pace] = {}
        calling = [method for method in methods if method.needs.base]
        if calling:
            began = time.perf_counter()
            keys = dict.fromkeys(self._key(each) for each in calling if each.needs.gradients)
            searches = not all(each.needs.gradients for each in calling)
            allowance = _TIMED_SECONDS / (1 + searches + 2 * len(keys))
            self._time(list(keys), allowance)
            if searches:
                self.searching = self._behind_demonstrations(allowance)
            self.seconds = time.perf_counter() - began

    def of(self, method: Method) -> Pace:
        """The pace of a method that calls the base, as its settings have it."""
        if not method.needs.gradients:
            return self.plain
        pace, layers = self._trained[self._key(method)], self.base.layers
        last = getattr(self.settings[method.name], "last_layers", None)
        if last is None:
            return pace
        # Nothing below the lowest trained layer needs a gradient.
        share = min(last, layers) / layers
        return replace(
            pace,
            update=share * pace.update,
            saved_bytes=share * pace.saved_bytes,
            trained=round(share * pace.trained),
            backward_passes=share * pace.backward_passes,
            frozen_layers=layers - min(last, layers),
        )

    def _key(self, method: Method) -> tuple[str, int | None]:
        """What decides a trained method's pace: the deepest kind of part it finds, and its size."""
        kind = next((each for each in _SIZES if each in method.produces), "virtual_tokens")
        name, default = _SIZES[kind]
        settings = dict(self.settings[method.name])
        # A method made of others has their settings behind their names; `most_positions`, which
        # all that trains has, is no size.
        others = tuple(TrainingSettings.model_fields)
        own = [key for key in settings if not key.endswith(others)]
        sizes = (settings[key] for key in own if key == name or key.endswith(f"_{name}"))
        return kind, next(sizes, default) if name else default

    def _time(self, keys: Sequence[tuple[str, int | None]], allowance: float) -> None:
        base, task = self.base, self.task
        laid_out = laid_out_bytes(base)
        with shortened(base) as short, torch.no_grad():
            prefix = FrozenPrefix(base, task.renderer, ()).inputs().lower(base)
            forward = calibrate.forward_seconds(
                base, prefix, task.examples, task.labels, allowance, short=short
            )
        self.plain = Pace(forward, prefix_positions=len(task.renderer.shared_tokens))
        self.forward_bytes = calibrate.forward_bytes(base)
        if not task.labels:
            end = task.renderer.end_token_id
            with torch.no_grad():
                prefix = FrozenPrefix(base, task.renderer, ()).inputs().lower(base)
            self.decode = calibrate.decode_seconds(base, prefix, task.examples, end)
        frozen = FrozenLayers(base)
        for kind, size in keys:
            # The gradient of the token table is as large for fewer layers; and whether there is
            # room to lay weights out is asked of all of them.
            whole = kind == "weights" or not laid_out
            with nullcontext(calibrate.WHOLE) if whole else shortened(base) as short:
                pace = self._time_trained(kind, size, allowance, frozen, short)
            if kind == "weights":
                update = calibrate.update_seconds(base) * base.parameters
                pace = replace(pace, trained=base.parameters, update=update)
            else:
                pace = replace(pace, laid_out_bytes=laid_out)
            self._trained[kind, size] = pace

    def _behind_demonstrations(self, allowance: float) -> float:
        base, task = self.base, self.task
        count, renderer = _DEMONSTRATIONS, self._with_demonstrations(_DEMONSTRATIONS)
        # A search passes over those that leave no room for rows.
        while count and len(renderer.shared_tokens) > base.context_length // 2:
            count //= 2
            renderer = self._with_demonstrations(count)
        with shortened(base) as short, torch.no_grad():
            prefix = FrozenPrefix(base, renderer, ()).inputs().lower(base)
            forward = self.plain.forward
            return calibrate.forward_seconds(
                base, prefix, task.examples, task.labels, allowance, forward, short
            )

    def _with_demonstrations(self, count: int) -> Renderer:
        task = self.task
        rows = task.ground.task.fit_view.train[:count]
        prompt = PromptText(task.renderer.prompt.instruction, shown(rows))
        return Renderer(self.base.tokenizer, task.renderer.spec, prompt)

    def _time_trained(
        self,
        kind: str,
        size: int | None,
        allowance: float,
        laid_out: FrozenLayers,
        short: Shortened,
    ) -> Pace:
        base, task, forward = self.base, self.task, self.plain.forward
        positions = len(task.renderer.shared_tokens) if size is None else size
        began = time.perf_counter()
        with _trainable(base, task.renderer, kind, size) as trainable:
            setup = short.times * (time.perf_counter() - began)
            # To lay weights out takes a while, which a fit does once for all its steps.
            frozen = FrozenLayers(base, laid_out)
            expected = forward * (1 + trainable.backward_passes)
            step, saved = calibrate.step_pace(
                frozen, trainable, task.examples, _BATCH_ROWS, allowance, expected, short
            )
            trained = sum(leaf.numel() for leaf in trainable.parameters.values())
            if kind in ("low_rank", "kv_prefix"):
                trained = round(short.times * trained)
            if kind == "low_rank":
                # Alone of all kinds its layers stay beside the base's while measuring.
                with torch.no_grad():
                    prefix = trainable.prefix_inputs().lower(base)
                forward = calibrate.forward_seconds(
                    base, prefix, task.examples, task.labels, allowance, forward, short
                )
            return Pace(
                forward,
                max(step - forward, 0.0) / trainable.backward_passes,
                0.0,
                setup,
                saved,
                trained,
                trainable.backward_passes,
                trainable.prefix_positions,
                begun=positions if kind == "kv_prefix" else 0,
            )


@contextmanager
def _trainable(base: Base, renderer: Renderer, kind: str, size: int | None) -> Iterator[Trainable]:
    """Something of this kind to take a step with, while the context lasts."""
    frozen = FrozenPrefix(base, renderer, ())
    if kind == "weights":
        with calibrate.all_weights(base, frozen.inputs, frozen.computed_positions) as weights:
            yield weights
    elif kind == "low_rank":
        config = {"r": size, "lora_alpha": size, "target_modules": "all-linear"}
        with low_rank_layers(base, config, None, seed=0) as layers:
            yield LowRank(frozen, layers)
    else:
        # Without a size both stand in place of the shared text, as long as it is.
        shared = len(renderer.shared_tokens)
        replaces = size is None and shared > 0
        begun = token_embeddings(base, [0] * (max(shared, 1) if size is None else size))
        if kind == "kv_prefix":
            with torch.no_grad():
                initial = compute_prefix(base, begun)
            yield KVPrefix(frozen, initial, replaces_shared_text=replaces)
        else:
            yield VirtualTokens(frozen, begun[0], hidden=0, seed=0, replaces_shared_text=replaces)
